"""The shape of each model: what is saved beside its weights and rebuilds it.

The string below a field is its help. Importing this file does not import torch.
"""

import math
from dataclasses import dataclass
from typing import Literal

from dallebaby_cli.errors import UsageError

PixelLoss = Literal["l1", "l2", "l1+l2", "laplace"]


def check(ok: bool, name: str, value: object, why: str) -> None:
    """Refuse a field's value with a sentence that names the field, the value and the reason."""
    if not ok:
        raise UsageError(f"{name}={value!r}: {why}")


@dataclass(frozen=True, kw_only=True)
class DVAEConfig:
    """A discrete VAE: pictures to a grid of codes and back."""

    image_px: int = 64
    """side of the pictures in pixels; always taken from the shards"""
    grid: int = 16
    """codes along one side; must divide image_px"""
    width: int = 96
    """channels at the stem's resolution; doubled at the grid's"""
    depth: int = 2
    """residual blocks at each resolution, in the encoder and in the decoder"""
    loss: PixelLoss = "l2"
    """of pixels; laplace (the DALL-E paper's) makes the decoder say how sure it is, too"""
    quantizer: Literal["fsq", "vq", "gumbel"] = "fsq"
    """how features become codes"""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """fsq: steps along each code dimension; their product is the number of codes"""
    codebook: int = 1024
    """vq, gumbel: number of codes"""
    code_dim: int = 16
    """vq, gumbel: numbers that describe a code"""
    commitment: float = 0.25
    """vq: how hard the codes pull the features"""
    kl_weight: float = 1e-4
    """gumbel: of the divergence from equally likely codes, in nats a code"""
    temperatures: tuple[float, ...] = (1.0, 0.0625)
    """gumbel: how soft the choice is at first and at last"""
    anneal_fraction: float = 0.5
    """gumbel: of the run, after which the last temperature is reached"""

    def __post_init__(self) -> None:
        check(self.grid >= 1, "model.grid", self.grid, "must be 1 or more")
        check(
            self.image_px % self.grid == 0,
            "model.grid",
            self.grid,
            f"must divide the pictures' {self.image_px} px; "
            f"{' '.join(map(str, self._grids()))} do (--set model.grid=N)",
        )
        check(
            self.width >= 8 and self.width % 8 == 0,
            "model.width",
            self.width,
            "must be a multiple of 8",
        )
        check(self.depth >= 0, "model.depth", self.depth, "must not be negative")
        self._check_quantizer()

    def _check_quantizer(self) -> None:
        check(
            len(self.levels) > 0 and min(self.levels) >= 5,
            "model.levels",
            self.levels,
            "needs one or more numbers of at least 5",
        )
        check(2 <= self.codebook <= 65536, "model.codebook", self.codebook, "must be 2 to 65536")
        check(self.codes <= 65536, "model.levels", self.levels, "gives over 65536 codes")
        check(self.code_dim >= 2, "model.code_dim", self.code_dim, "must be 2 or more")
        for name in ("commitment", "kl_weight"):
            value = getattr(self, name)
            check(value >= 0, f"model.{name}", value, "must not be negative")
        check(
            len(self.temperatures) == 2 and min(self.temperatures) > 0,
            "model.temperatures",
            self.temperatures,
            "needs two numbers above 0",
        )
        check(
            0 <= self.anneal_fraction <= 1,
            "model.anneal_fraction",
            self.anneal_fraction,
            "must be from 0 to 1",
        )

    def _grids(self) -> list[int]:
        return [g for g in range(2, self.image_px // 2 + 1) if self.image_px % g == 0]

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        return math.prod(self.levels) if self.quantizer == "fsq" else self.codebook

    @property
    def output_channels(self) -> int:
        """Of the decoder: colours, and for the logit-Laplace loss how far each may be off."""
        return 6 if self.loss == "laplace" else 3

    @property
    def patch_px(self) -> int:
        """Pixels along one side that the space-to-depth stem folds into channels: at most 4 where
        the rest is a power of two, and less than the whole way down where it is even."""
        factor = patch = self.image_px // self.grid
        while patch % 2 == 0 and (patch > 4 or patch == factor):
            patch //= 2
        return patch

    @property
    def halvings(self) -> int:
        """Strided convolutions between the stem and the grid."""
        return (self.image_px // self.grid // self.patch_px).bit_length() - 1


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A decoder-only transformer over caption tokens, then image codes."""

    text_tokens: int = 32
    """longest caption; longer ones are cut"""
    vocabulary: int = 4096
    """most entries of the text tokenizer; fewer if the captions hold fewer"""
    dim: int = 384
    """width of the residual stream"""
    depth: int = 8
    """blocks"""
    heads: int = 6
    """attention heads; must divide dim"""
    dropout: float = 0.1
    """on the residual branches"""
    codes: int = 1000
    """size of the image codebook; always taken from the dVAE"""
    grid: int = 16
    """codes along one side; always taken from the dVAE"""

    def __post_init__(self) -> None:
        check(self.text_tokens >= 1, "model.text_tokens", self.text_tokens, "must be 1 or more")
        check(
            self.vocabulary >= 256,
            "model.vocabulary",
            self.vocabulary,
            "must be 256 or more: every byte is a token, so that no word is unknown",
        )
        check(
            self.heads >= 1 and self.dim % (4 * self.heads) == 0,
            "model.heads",
            self.heads,
            f"must divide dim={self.dim} into heads whose width is a multiple of 4",
        )
        check(self.depth >= 1, "model.depth", self.depth, "must be 1 or more")
        check(0 <= self.dropout < 1, "model.dropout", self.dropout, "must be from 0 to below 1")

    @property
    def image_tokens(self) -> int:
        """Codes of one picture."""
        return self.grid * self.grid

    @property
    def sequence_len(self) -> int:
        """Positions of one training sequence: start, caption, picture (but for its last code)."""
        return self.text_tokens + self.image_tokens


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A classifier that reads drawn scenes."""

    image_px: int = 64
    """side of the pictures in pixels; always taken from the dVAE"""
    width: int = 64
    """channels of the finer feature maps; doubled in the coarser ones"""
    depth: int = 1
    """residual blocks at each of the two resolutions"""

    def __post_init__(self) -> None:
        check(
            self.width >= 8 and self.width % 8 == 0,
            "classifier.model.width",
            self.width,
            "must be a multiple of 8",
        )
        check(self.depth >= 0, "classifier.model.depth", self.depth, "must not be negative")
