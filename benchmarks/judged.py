"""What `dallebaby evaluate` says of the pictures that a model draws, in a few columns."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

import baby


def judged(
    home: Path, model: Path, pictures: int, settings: Iterable[str] = ()
) -> dict[str, float]:
    """Distances by figure and network, and how often a picture is what was asked for, by kind: of
    all that was asked at once, where that is told. What cannot be measured here is left out."""
    sets = [word for setting in settings for word in ("--set", setting)]
    asked = ("--pictures", pictures, "--json", *sets)
    found = json.loads(baby.dallebaby(home, "evaluate", "--model", model, *asked))
    far = {
        f"{row['figure']}, {row['network']}": row["drawn"]
        for row in found.get("compared", ())
        if row.get("drawn") is not None
    }
    right = {
        f"right, {row.get('kind', 'asked')}": row["right"].get("all", mean(row["right"].values()))
        for row in found.get("agreement", ())
        if row.get("pictures") == "drawn" and row.get("right")
    }
    return far | right


def lower_is_better(column: str) -> bool:
    """Of a column of `judged`: distances, and not shares that are right."""
    return not column.startswith("right, ")
