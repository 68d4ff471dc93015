"""Run by benchmarks/transformer_learning.py in the baselines' environment: train DALLE-pytorch's
transformer on cached codes as its train_dalle.py does, for so many minutes, and print a line of
JSON now and then.

    python dalle_pytorch_learning.py CODES.npz MINUTES SEED RATE
"""

import json
import math
import sys
import time

import numpy as np
import torch
from dalle_pytorch_import import DALLE, DiscreteVAE
from torch.nn import functional as F

BATCH, POINTS, GLANCE = 32, 16, 500


@torch.no_grad()
def bits_per_code(model: DALLE, text: torch.Tensor, codes: torch.Tensor) -> float:
    """Hold-out cross-entropy of the codes alone, in bits."""
    model.eval()
    nats = []
    for words, picture in zip(text.split(100), codes.split(100), strict=True):
        logits = model(words, picture)[:, model.text_seq_len :, model.num_text_tokens :]
        nats.append(F.cross_entropy(logits.transpose(1, 2), picture, reduction="none").mean(1))
    model.train()
    return torch.cat(nats).mean().item() / math.log(2)


def main() -> None:
    path, minutes, seed, rate = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with np.load(path) as arrays:
        data = {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in arrays.files}
    grid = int(data["codes"].shape[1] ** 0.5)
    torch.manual_seed(seed)
    vae = DiscreteVAE(
        image_size=64,
        num_tokens=int(data["sizes"][1]),
        codebook_dim=8,
        num_layers=(64 // grid).bit_length() - 1,
        hidden_dim=8,
    )
    model = DALLE(
        dim=int(data["sizes"][2]),
        vae=vae,
        num_text_tokens=int(data["sizes"][0]),
        text_seq_len=data["text"].shape[1],
        depth=int(data["sizes"][3]),
        heads=int(data["sizes"][4]),
        dim_head=int(data["sizes"][2] // data["sizes"][4]),
    )
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=float(rate))
    spent, point, step = 0.0, 0, 0
    order = torch.randperm(len(data["codes"]))
    while True:
        over = spent >= 60 * minutes
        if over or spent >= point * 60 * minutes / POINTS:
            held = (data[name][: None if over else GLANCE] for name in ("held_text", "held_codes"))
            facts = {"seconds": spent, "step": step, "bits_per_code": bits_per_code(model, *held)}
            print(json.dumps(facts), flush=True)
            point += 1
        if over:
            return
        began = time.perf_counter()
        rows = order[torch.arange(step * BATCH, (step + 1) * BATCH) % len(order)]
        loss = model(data["text"][rows], data["codes"][rows], return_loss=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        adam.step()
        adam.zero_grad()
        step += 1
        spent += time.perf_counter() - began


if __name__ == "__main__":
    main()
