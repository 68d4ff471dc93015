"""What is found of a model: figures as data, which the terminal, JSON and pages show."""

from dataclasses import dataclass, field
from pathlib import Path

from dallebaby_cli.quality.pretrained import Compared


@dataclass(frozen=True)
class Row:
    """How often pictures of one kind answer what was asked."""

    kind: str
    pictures: str
    """"drawn"; or, for what the classifier itself can do, "real" ones (renders of the same scenes,
    hold-out pictures of the same classes), or "rebuilt" ones, which the image tokenizer encoded and
    decoded: the most that drawn ones can be expected to reach"""
    count: int
    right: dict[str, float]
    """share of right answers to each question: agreement.QUESTIONS of scenes, "class" of other
    pictures (the mean of the classes' shares)"""


@dataclass(frozen=True)
class Pair:
    """A drawn picture and the training picture nearest to it."""

    prompt: str
    caption: str
    """of the training picture; empty if it has none"""
    codes_differ: float
    """share of the codes that are not the same"""
    seen_apart: float | None
    """1 - cosine of what a network sees in them; None without a network"""


@dataclass(frozen=True)
class OfClass:
    """How often a judge reads one class where it is asked for."""

    name: str
    asked: int
    """drawn pictures"""
    held_out: int
    """real ones, which are also rebuilt"""
    drawn: float | None
    """share that is read as this class; None where nothing was drawn"""
    rebuilt: float
    real: float
    taken_for: str | None
    """the class that most of the others of the drawn pictures are read as"""


@dataclass(frozen=True)
class Judged:
    """The judge of classes, and what guessing would reach."""

    folder: Path
    classes: int
    """that it knows"""
    trained_on: int
    """pictures"""
    asked: int
    """classes that were asked for"""
    chance: float


@dataclass(frozen=True)
class Retrieved:
    """How well the model itself finds the caption of a picture, among others, by log p(codes |
    caption)."""

    pictures: str
    """"drawn", or the "real" ones of the same captions"""
    count: int
    captions: int
    """different ones, which it chooses among"""
    first: float
    """share of the pictures whose own caption comes first"""
    rank: float
    """mean place of the own caption, 1 the best"""
    chance_first: float
    chance_rank: float


@dataclass
class Evaluated:
    """All figures of one model; what could not be measured is missing, with a sentence."""

    model: Path
    vae: Path | None = None
    """whose decoder paints, if not the model's own"""
    holdout: dict[str, float] = field(default_factory=dict)
    reconstruction: dict[str, float] = field(default_factory=dict)
    distance: dict[str, float] = field(default_factory=dict)
    """shares of codes that differ from the nearest training picture's"""
    distance_seen: dict[str, dict[str, float]] = field(default_factory=dict)
    """network → the same by 1 - cosine of what it sees"""
    nearest: list[Pair] = field(default_factory=list)
    """of all drawn pictures, those that are nearest to a training picture"""
    agreement: list[Row] = field(default_factory=list)
    judge: Judged | None = None
    """who read the classes of `agreement`, where the pictures are no scenes"""
    classes: list[OfClass] = field(default_factory=list)
    retrieval: list[Retrieved] = field(default_factory=list)
    pretrained: dict[str, float] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)
    """how far sets of pictures are from the hold-out ones, to pretrained networks"""
    missing: list[str] = field(default_factory=list)
    samples: list[Path] = field(default_factory=list)
    """drawn pictures with what was asked and what was read, or beside the nearest in training"""
    report: Path | None = None
    """the page that shows all of this"""
