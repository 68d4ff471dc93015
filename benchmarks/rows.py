"""What tables of runs share: rows by name, and results that are kept: nothing is run twice."""

import json
import statistics
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dallebaby_cli import files

T = TypeVar("T")
F = TypeVar("F", bound=Mapping[Any, Any])


def settings_of(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The settings of rows that are given as "NAME: SETTING SETTING", by name."""
    split = (text.partition(":") for text in texts)
    return {name.strip(): tuple(settings.split()) for name, _, settings in split}


def chosen(known: Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    """The rows of those names; ends with a sentence where there is no such row."""
    names = [*names]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"--only {unknown[0]}: no such row; there are {', '.join(known)}")
    return {name: known[name] for name in names}


def kept(path: Path) -> dict[str, Any] | None:
    """What was found before."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def keep(path: Path, facts: F) -> F:
    """Keep what was found."""
    files.write_text(path, json.dumps(facts, indent=1))
    return facts


def spread(values: list[float], form: str) -> str:
    """The mean, and the least and the most where there are several."""
    mean = format(statistics.mean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ({format(min(values), form)} to {format(max(values), form)})"
