"""What is found of a model: figures as data, which the terminal, JSON and pages show."""

from dataclasses import dataclass, field
from pathlib import Path

from dallebaby_cli.quality.pretrained import Compared


@dataclass(frozen=True)
class Row:
    """How often pictures of one kind answer what was asked."""

    kind: str
    pictures: str
    """"drawn"; or, for what the classifier itself can do, "real" renders of the same scenes, or
    "rebuilt" ones, which the image tokenizer encoded and decoded: the most that drawn ones can
    reach"""
    count: int
    right: dict[str, float]
    """share of each of agreement.QUESTIONS"""


@dataclass(frozen=True)
class Evaluated:
    """All figures of one model; what could not be measured is missing, with a sentence."""

    model: Path
    vae: Path | None = None
    """whose decoder paints, if not the model's own"""
    holdout: dict[str, float] = field(default_factory=dict)
    reconstruction: dict[str, float] = field(default_factory=dict)
    distance: dict[str, float] = field(default_factory=dict)
    """shares of codes that differ from the nearest training picture's"""
    agreement: list[Row] = field(default_factory=list)
    pretrained: dict[str, float] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)
    """how far sets of pictures are from the hold-out ones, to pretrained networks"""
    missing: list[str] = field(default_factory=list)
    samples: list[Path] = field(default_factory=list)
    """drawn pictures with what was asked and what was read"""
