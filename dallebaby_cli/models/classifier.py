"""The classifier that reads a drawn scene: what is in it, in which colours, where, on what.

The things of a scene have different colours, so it is read colour by colour: for each colour one
map over the picture says where that colour's thing is. The map's softmax gathers the features
that say which thing it is and the centre of where it is; its weighted mean says whether there is
one at all. Which thing it is does not depend on the colour by construction, so pairs that are
rare are read as well as any.

Shapes: B pictures, P pixels along a side, F features, N places, C colours, T things.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dallebaby_cli.config import ClassifierConfig
from dallebaby_cli.models.pictures import to_float
from dallebaby_cli.models.tokenizers.dvae import Residual

GRID = 16  # about so many places along a side at the finer resolution
PLACE_WEIGHT = 4  # nats for being off by the picture's whole side


@dataclass(frozen=True)
class Vocabulary:
    """How many of each kind there are."""

    things: int
    colours: int
    backgrounds: int


@dataclass(frozen=True)
class Read:
    """What the classifier says."""

    present: Tensor
    """(B, C) log odds that the picture holds a thing of a colour"""
    things: Tensor
    """(B, C, T) logits of which thing it is"""
    centres: Tensor
    """(B, C, 2) its centre, x and y, as shares of the side"""
    background: Tensor
    """(B, backgrounds) logits"""


class Classifier(nn.Module):
    """uint8 (B, 3, P, P) → Read"""

    def __init__(self, config: ClassifierConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config = config
        width, stride = config.width, max(round(config.image_px / GRID), 1)
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 2 * stride, stride=stride, padding=stride // 2),
            *(Residual(width) for _ in range(config.depth)),
            nn.Conv2d(width, 2 * width, 2, stride=2),
            *(Residual(2 * width) for _ in range(config.depth)),
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
        )
        self.maps = nn.Conv2d(2 * width, vocabulary.colours, 1)
        self.thing = nn.Linear(2 * width, vocabulary.things)
        self.background = nn.Linear(2 * width, vocabulary.backgrounds)
        self.init_weights()

    def init_weights(self) -> None:
        """All initial values.

        | part                         | value                                |
        | convolutions, linear layers  | N(0, 1 / fan-in), bias 0             |
        | last convolution of Residual | 0: each block starts as the identity |
        | GroupNorm                    | scale 1, shift 0                     |
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Residual):
                nn.init.zeros_(module.conv2.weight)

    def forward(self, pictures: Tensor) -> Read:
        """Read pictures; refuses anything but uint8 (B, 3, P, P) with a sentence."""
        x = to_float(pictures, self.config.image_px) / 127.5 - 1
        features = self.body(x)  # (B, F, g, g)
        maps = self.maps(features).flatten(2)  # (B, C, N)
        places = _centres(*features.shape[2:]).to(x.device)
        with torch.autocast(x.device.type, enabled=False):  # bf16 would make the places coarse
            maps, features = maps.float(), features.flatten(2).float()
            weights = maps.softmax(-1)
            return Read(
                present=(weights * maps).sum(-1),
                things=self.thing(weights @ features.mT),
                centres=weights @ places,
                background=self.background(features.mean(-1)),
            )


def _centres(height: int, width: int) -> Tensor:
    """(N, 2) x and y of each place in raster order, as shares of the side."""
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack((x, y), dim=-1).view(-1, 2)


def loss(read: Read, things: Tensor, centres: Tensor, background: Tensor) -> Tensor:
    """How wrong a reading is, in nats a picture (and shares of the side), all parts summed, given
    the thing of each colour (B, C), -1 where there is none, its centre (B, C, 2), and the
    background (B,)."""
    there = things >= 0
    present = F.binary_cross_entropy_with_logits(read.present, there.float(), reduction="sum")
    which = F.cross_entropy(read.things[there], things[there], reduction="sum")
    off = (read.centres[there] - centres[there]).abs().sum()
    behind = F.cross_entropy(read.background, background, reduction="sum")
    return (present + which + PLACE_WEIGHT * off + behind) / len(things)
