"""The shape of each model: what is saved beside its weights and rebuilds it.

The string below a field is its help. Importing this file does not import torch.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from dallebaby_cli.config.bounds import COUNT, Bounded, bounded, check

LARGEST_PX = 4096  # side of a picture that a model may have
PX_A_CODE, MOST_CODES = 4, 16  # along one side, of a grid that nobody chose
DRAWN_PX, DRAWN_GRID = 64, 8  # drawn scenes that are no larger need no more codes
FEW_LEVELS, MANY_LEVELS = (8, 5, 5, 5), (8, 8, 8, 5, 5, 5)  # 1,000 codes; 64,000 for photographs
WHOLE = 8192  # most codes that are predicted whole: each has a class of its own then
MOST_VALUES = 256  # of all numbers of a code together that share what is learned
NEAREST, MOST_NEAR = 3, 11  # known codes around one: of the row above; all of 5 x 5

IDEAS: dict[str, Any] = {  # on trial once, all off (docs/experiments.md 10)
    "noise": 0.0,
    "foresight": 0.0,
    "inputs": "codes",
    "outputs": "codes",
    "levels": [],
    "neighbours": NEAREST,
    "values": False,
    "shortcut": False,
    "skips": False,
    "gates": False,
    "mlp": "relu2",
}

PixelLoss = Literal["l1", "l2", "l1+l2", "laplace"]


@dataclass(frozen=True, kw_only=True)
class DVAEConfig(Bounded):
    """A discrete VAE: pictures to a grid of codes and back."""

    section = "model."

    image_px: int = bounded(0, ge=0, le=LARGEST_PX)
    """side of the pictures in pixels; always taken from the shards, and 0 until then"""
    grid: int = bounded(0, ge=0, le=LARGEST_PX)
    """codes along one side; must divide image_px. 0 leaves it to the pictures: one for about 4 px,
    at most 16 (8 of 32 px, 16 of 64 px and more); of drawn scenes of up to 64 px 8"""
    width: int = bounded(96, ge=8, le=16384)
    """channels at the stem's resolution; doubled at the grid's"""
    depth: int = bounded(2, ge=0, le=COUNT)
    """residual blocks at each resolution, in the encoder and in the decoder"""
    loss: PixelLoss = "l2"
    """of pixels; laplace (the DALL-E paper's) makes the decoder say how sure it is, too"""
    quantizer: Literal["fsq", "vq", "gumbel", "gumbel-free"] = "fsq"
    """how features become codes; gumbel-free is for research: after minutes few codes are in use"""
    levels: tuple[int, ...] = bounded((), ge=5, le=65536)
    """fsq: steps along each code dimension; their product is the number of codes. [] leaves it to
    the pictures: 8 8 8 5 5 5 (64,000 codes) for photographs, else 8 5 5 5 (1,000). Over 8,192 of
    them are predicted in digits, one after the other"""
    codebook: int = bounded(1024, ge=2, le=65536)
    """all but fsq: number of codes"""
    code_dim: int = bounded(16, ge=2, le=65536)
    """all but fsq: numbers that describe a code"""
    commitment: float = bounded(0.25, ge=0, le=1_000_000)
    """vq: how hard the codes pull the features"""
    kl_weight: float = bounded(1e-4, ge=0, le=1_000_000)
    """both gumbels: of the divergence from equally likely codes, in nats a code"""
    temperatures: tuple[float, ...] = bounded((1.0, 0.0625), ge=0.001, le=1000)
    """both gumbels: how much chance, or softness, is in the choice at first and at last"""
    anneal_fraction: float = bounded(0.5, ge=0, le=1)
    """both gumbels: of the run, after which the last temperature is reached"""

    def __post_init__(self) -> None:
        super().__post_init__()
        px = self.image_px
        check(
            px % (self.grid or 1) == 0,
            "model.grid",
            self.grid,
            f"must divide the pictures' {px} px; {_divisors(px)} do (--set model.grid=N)",
        )
        check(self.width % 8 == 0, "model.width", self.width, "must be a multiple of 8")
        check(self.codes <= 65536, "model.levels", self.levels, "gives over 65,536 codes")
        two = len(self.temperatures) == 2
        check(two, "model.temperatures", self.temperatures, "needs two numbers")

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        return math.prod(self.steps) if self.quantizer == "fsq" else self.codebook

    @property
    def steps(self) -> tuple[int, ...]:
        """Those of `levels`, or the usual few where nobody and no pictures chose them."""
        return self.levels or FEW_LEVELS

    @property
    def output_channels(self) -> int:
        """Of the decoder: colours, and for the logit-Laplace loss how far each may be off."""
        return 6 if self.loss == "laplace" else 3

    @property
    def patch_px(self) -> int:
        """Pixels along one side that the space-to-depth stem folds into channels: at most 4 where
        the rest is a power of two, and less than the whole way down where it is even."""
        px = self.image_px
        check(px > 0, "model.image_px", px, "must be that of the pictures to build a model")
        check(self.grid > 0, "model.grid", self.grid, "must be chosen to build a model")
        factor = patch = px // self.grid
        while patch % 2 == 0 and (patch > 4 or patch == factor):
            patch //= 2
        return patch

    @property
    def halvings(self) -> int:
        """Strided convolutions between the stem and the grid."""
        return (self.image_px // self.grid // self.patch_px).bit_length() - 1


def usual_grid(px: int, drawn: bool = False) -> int:
    """Codes along one side of pictures of so many px, where nobody chose: the divisor that is the
    nearest to one code for 4 px, but at most 16; `drawn` ones, of scenes, do with 8. Raises
    UsageError where no divisor is near, that is within a half."""
    if drawn and px <= DRAWN_PX and px % DRAWN_GRID == 0:
        return DRAWN_GRID
    wanted = min(px / PX_A_CODE, MOST_CODES)
    divisors = (grid for grid in range(1, MOST_CODES + 1) if px % grid == 0)
    nearest = min(divisors, key=lambda grid: max(grid / wanted, wanted / grid))
    check(
        2 * nearest >= wanted,
        "model.grid",
        0,
        f"pictures of {px} px cannot be divided into about {wanted:.0f} x {wanted:.0f} codes; "
        f"prepare them with another --px, such as {max(px // 8, 1) * 8}, or take one of "
        f"{_divisors(px)} (--set model.grid=N)",
    )
    return nearest


def usual_levels(photographs: bool) -> tuple[int, ...]:
    """The steps of a code that nobody chose: photographs hold more than 1,000 codes can say
    (docs/experiments.md 7), drawings do not."""
    return MANY_LEVELS if photographs else FEW_LEVELS


def usual_digits(levels: tuple[int, ...]) -> tuple[int, ...]:
    """How many values each digit of a code has that a transformer predicts, given how many each of
    the numbers has that an image tokenizer writes it in: neighbouring ones together, so that there
    are as few digits of at most WHOLE values as can be, and of these the fewest values in all. None
    for few codes, which are predicted whole, and for those that cannot be divided."""
    if math.prod(levels) <= WHOLE:
        return ()
    for cuts in range(1, len(levels)):
        ways = [
            tuple(math.prod(levels[a:b]) for a, b in itertools.pairwise((0, *ends, len(levels))))
            for ends in itertools.combinations(range(1, len(levels)), cuts)
        ]
        if fitting := [digits for digits in ways if max(digits) <= WHOLE]:
            return min(fitting, key=sum)
    return levels if len(levels) > 1 else ()


def usual_numbers(levels: tuple[int, ...]) -> tuple[int, ...]:
    """How many values each of the numbers has by which a transformer reads and tells apart codes,
    given those that an image tokenizer writes them in; none where a code is one number alone, or
    they have so many values that the table of what each code is would be large."""
    return levels if len(levels) > 1 and sum(levels) <= MOST_VALUES else ()


def _divisors(px: int) -> str:
    return " ".join(str(grid) for grid in range(2, px + 1) if px % grid == 0)


def meaning(described: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json's description of an image tokenizer says of the meaning of its codes,
    beside the weights that make them: not how it was trained, nor what its decoder gives out. Of
    an architecture that is not known here, all."""
    if described.get("architecture", "dvae") != "dvae":  # dallebaby 0.1 named none
        return dict(described)
    said = {**asdict(DVAEConfig()), **described}  # older ones lack what had no other value then
    said["levels"] = said["levels"] or FEW_LEVELS
    sizes = ("levels",) if said["quantizer"] == "fsq" else ("codebook", "code_dim")
    kind = said["quantizer"].removesuffix("-free")  # `gumbel` it was, until there was another
    return {**{name: said[name] for name in ("image_px", "grid", *sizes)}, "quantizer": kind}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Bounded):
    """A decoder-only transformer over caption tokens, then image codes."""

    section = "model."
    retired: ClassVar[Mapping[str, Any]] = {"trials": IDEAS}
    """ideas on trial, of which models without any still tell"""

    text_tokens: int = bounded(32, ge=1, le=COUNT)
    """longest caption; longer ones are cut"""
    vocabulary: int = bounded(4096, ge=256, le=1_000_000)
    """most entries of the text tokenizer; fewer if the captions hold fewer. 256 of them are bytes,
    so that no word is unknown"""
    dim: int = bounded(384, ge=4, le=1_000_000)
    """width of the residual stream"""
    depth: int = bounded(8, ge=1, le=COUNT)
    """blocks"""
    heads: int = bounded(6, ge=1, le=COUNT)
    """attention heads; must divide dim"""
    dropout: float = bounded(0.1, ge=0, lt=1)
    """on the residual branches"""
    codes: int = bounded(1000, ge=2, le=65536)
    """size of the image codebook; always taken from the dVAE"""
    digits: tuple[int, ...] = bounded((), ge=2, le=65536)
    """how many values each digit of a code has, if those are predicted one after another; always
    taken from the dVAE, none where codes are predicted whole"""
    numbers: tuple[int, ...] = bounded((), ge=2, le=65536)
    """how many values each of the numbers has in which the dVAE writes a code; always taken from
    it, none where it writes none. Codes that are alike share what is learned of their numbers"""
    grid: int = bounded(16, ge=1, le=LARGEST_PX)
    """codes along one side; always taken from the dVAE"""
    guided: float = bounded(1.0, ge=1, le=100)
    """guidance that is trained in: drawing with that same guidance then takes half the work, and
    with any other as much as before; 1 is none"""
    any_order: bool = False
    """whether it knows any order of codes, and so draws several at a time and around others; always
    follows from random_order and the codes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.dim % (4 * self.heads) == 0,
            "model.heads",
            self.heads,
            f"must divide dim={self.dim} into heads whose width is a multiple of 4",
        )
        check(
            not self.digits or math.prod(self.digits) == self.codes,
            "model.digits",
            self.digits,
            f"must make codes={self.codes:,} when multiplied",
        )
        made = tuple(map(math.prod, self.parts)) == self.radices
        check(
            not self.numbers or (made and sum(self.parts, ()) == self.numbers),
            "model.numbers",
            self.numbers,
            f"must make {' x '.join(map(str, self.radices))} codes when multiplied",
        )
        few = sum(self.numbers) <= MOST_VALUES
        check(few, "model.numbers", self.numbers, f"has over {MOST_VALUES} values")

    @property
    def radices(self) -> tuple[int, ...]:
        """How many values each digit of a code has; one that is predicted whole is one digit."""
        return self.digits or (self.codes,)

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """For each digit of a code, how many values each of the numbers has that make it; nothing
        where codes are no numbers."""
        parts, first = [], 0
        for radix in self.radices if self.numbers else ():
            last = first + 1
            while math.prod(self.numbers[first:last]) < radix and last < len(self.numbers):
                last += 1
            parts.append(self.numbers[first:last])
            first = last
        return tuple(parts)

    @property
    def near(self) -> int:
        """How many codes that come before in raster order a position is told, beside the one before
        it; in any order their mirror images, too. Where each code must be learned by itself, more
        of them do harm (docs/experiments.md 10)."""
        return MOST_NEAR if self.numbers else NEAREST

    @property
    def image_tokens(self) -> int:
        """Codes of one picture."""
        return self.grid * self.grid

    @property
    def sequence_len(self) -> int:
        """Positions of one training sequence: start, caption, picture (but for its last code)."""
        return self.text_tokens + self.image_tokens


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(Bounded):
    """A classifier that reads drawn scenes."""

    section = "classifier.model."

    image_px: int = bounded(64, ge=8, le=LARGEST_PX)
    """side of the pictures in pixels; always taken from the dVAE"""
    width: int = bounded(64, ge=8, le=16384)
    """channels of the finer feature maps; doubled in the coarser ones"""
    depth: int = bounded(1, ge=0, le=COUNT)
    """residual blocks at each of the two resolutions"""

    def __post_init__(self) -> None:
        super().__post_init__()
        multiple = self.width % 8 == 0
        check(multiple, "classifier.model.width", self.width, "must be a multiple of 8")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig(Bounded):
    """A classifier that says of which class a picture is."""

    section = "judge.model."

    image_px: int = bounded(64, ge=8, le=LARGEST_PX)
    """side of the pictures in pixels; always taken from the dVAE"""
    widths: tuple[int, ...] = bounded((32, 64, 128), ge=8, le=16384)
    """channels at each resolution, the finest first"""
    depth: int = bounded(1, ge=0, le=COUNT)
    """residual blocks at each resolution"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.widths), "judge.model.widths", self.widths, "needs one number or more")
