"""The embedded dataset: pictures drawn by code, without end; `limit` says how many are taken."""

import itertools
from functools import partial

from dallebaby_cli.prep.readers import Drawn, Record, Records
from dallebaby_cli.scenes import spec

COUNT = 20_000  # taken where nothing else is said


def read(seed: int, px: int) -> Records:
    """Scenes number 0, 1, 2, … of a seed."""
    rows = (Record(f"scene-{i:07}", partial(draw, seed, i, px)) for i in itertools.count())
    return Records(rows)


def draw(seed: int, index: int, px: int) -> Drawn:
    """Draw one scene."""
    return Drawn(*spec.draw(seed, index, px))
