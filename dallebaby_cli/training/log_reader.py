"""What log.jsonl tells of a run, as far as it is one: a power cut may have left zeros or half a
line, and a run that went back to a checkpoint takes steps again, of which the last ones count."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput

MOST_CURVES = 40
MOST = 10**15  # that a step or a figure can be
MOST_STARTS = 50
LONGEST = 500  # letters of a warning
OF_A_STEP = ("loss", "lr", "epochs")


@dataclass
class Story:
    """What a log tells."""

    curves: dict[str, dict[int, float]] = field(default_factory=lambda: {"loss": {}})
    """figure → step → value, the loss first; NaN is one, too"""
    starts: list[dict[str, Any]] = field(default_factory=list)
    """what each start found: device, precision, parameters, pictures"""
    resumed: list[int] = field(default_factory=list)
    """steps from which the run went on after it was stopped"""
    warning: tuple[int, str] | None = None
    """step and text of the last one"""
    turned: str = ""
    """what was said where the hold-out loss had turned"""
    taken: int = 0
    """the last step"""
    scored: int = 0
    """step of the last evaluation"""
    seconds: float = 0.0
    """at work, without the time between a stop and the next start"""


def read(log: Path) -> Story:
    """The story of a log; an empty one where there is none to read."""
    story, before = Story(), math.nan
    for event in _events(log):
        told, step, time = event.get("event"), event.get("step"), event.get("time")
        if told == "start" and len(story.starts) < MOST_STARTS:
            story.starts.append({k: v for k, v in event.items() if k not in ("event", "time")})
        if told in ("start", "resume") or not _is_figure(time):
            before = math.nan
        elif 0 <= time - before < MOST:  # type: ignore[operator]
            story.seconds += time - before  # type: ignore[operator]
        before = time if _is_figure(time) else math.nan  # type: ignore[assignment]
        if type(step) is int and 0 <= step < MOST:
            _add(story, event, step)
    return story


def _add(story: Story, event: dict[str, Any], step: int) -> None:
    told, text = event.get("event"), event.get("text")
    if told == "warning" and isinstance(text, str):
        story.warning = (step, text[:LONGEST])
    if told == "turned" and isinstance(text, str):
        story.turned = f"step {step:,}: {text[:LONGEST]}"
    if told == "evaluation":
        story.scored = step
    if told == "resume":
        story.resumed = [*story.resumed, step][-MOST_STARTS:]
    if told not in ("step", "evaluation"):
        return
    names = OF_A_STEP if told == "step" else [n for n in event if n not in ("step", "time")]
    if told == "step":
        if step < story.taken:  # the run went back, and what came later is no more
            for points in story.curves.values():
                for undone in [s for s in points if s > step]:
                    del points[undone]
        story.taken = step
    for name in names:
        value, known = event.get(name), name in story.curves or len(story.curves) < MOST_CURVES
        if known and _is_figure(value):
            story.curves.setdefault(name, {})[step] = value  # type: ignore[assignment]


def _is_figure(value: object) -> bool:
    return type(value) in (int, float) and not abs(value) >= MOST  # type: ignore[arg-type]


def _events(log: Path) -> Iterator[dict[str, Any]]:
    with suppress(FileNotFoundError, BadInput):
        for line in files.read_lines(log):
            with suppress(ValueError):
                event = files.parse_json(line.lstrip(b"\0"))
                if isinstance(event, dict):
                    yield event
