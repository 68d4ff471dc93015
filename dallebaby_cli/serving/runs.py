"""What is known of the runs of a workspace while they learn, and afterwards."""

import math
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput
from dallebaby_cli.quality import report
from dallebaby_cli.serving.refused import Refused
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.training import log_reader, pictures_of_run
from dallebaby_cli.training.log_reader import Story

KINDS = ("dalle", "vae")
RUNNING_S = 120  # a log that has grown since belongs to a run at work
POINTS = 300  # of a curve
FRAMES = 100  # of a filmstrip
STORIES = 64  # runs of which what they told is kept in memory
GONE = "there is no such run"

_read: dict[Path, tuple[int, Story]] = {}
"""log → when it was written, and what it told then: only the newest of each is kept"""
_reading = threading.Lock()


def listed(home: Path) -> list[dict[str, Any]]:
    """All runs: those at work first, then the newest."""
    found = [_about(folder, about) for kind in KINDS for folder, about in _every(home, kind)]
    found.sort(key=lambda run: run["when"] or "", reverse=True)
    return sorted(found, key=lambda run: run["state"] != "running")


def one(home: Path, kind: str, name: str) -> dict[str, Any]:
    """Curves, frames and the rest of a run. Raises Refused."""
    folder, about = _find(home, kind, name)
    story, place = _story(folder), f"/runs/{kind}/{quote(folder.name)}"
    frames = pictures_of_run.frames(folder)
    steps = [*frames]
    chosen = np.linspace(0, len(steps) - 1, min(len(steps), FRAMES)).round().astype(int)
    shown = [steps[i] for i in chosen]
    return {
        **_about(folder, about),
        "curves": {key: _curve(points) for key, points in story.curves.items() if points},
        "frames": [
            {"step": step, "url": f"{place}/frames/{step}.png?v={_when(frames[step])}"}
            for step in shown
        ],
        "report": f"{place}/report.html",
        "warning": story.warning[1] if story.warning else None,
        "turned": story.turned or None,
        "minutes": round(story.seconds / 60, 2),
    }


def frame(home: Path, kind: str, name: str, step: str) -> bytes:
    """The PNG of a step. Raises Refused."""
    frames = pictures_of_run.frames(_find(home, kind, name)[0])
    path = next((path for number, path in frames.items() if str(number) == step), None)
    try:
        if path is not None:
            return files.read_small(path, follow=False)
    except (FileNotFoundError, BadInput):
        pass
    raise Refused(404, "there is no such frame")


def page(home: Path, kind: str, name: str) -> str:
    """The report of a run in HTML: what its end or an evaluation left, or one of this moment.
    Raises Refused."""
    folder, about = _find(home, kind, name)
    try:
        if about.complete:
            return files.read_small(folder / report.NAME, 64 << 20, follow=False).decode()
    except (FileNotFoundError, BadInput, UnicodeDecodeError):
        pass
    return report.of_run(folder)


def _every(home: Path, kind: str) -> list[tuple[Path, Manifest]]:
    """All runs of a kind, but for folders whose names an address cannot hold."""
    return [found for found in manifest.every(home, kind) if found[0].name.isprintable()]


def _find(home: Path, kind: str, name: str) -> tuple[Path, Manifest]:
    """A run by its name in the listing."""
    if kind in KINDS:
        for folder, about in _every(home, kind):
            if folder.name == name:
                return folder, about
    raise Refused(404, GONE)


def _about(folder: Path, about: Manifest) -> dict[str, Any]:
    steps, planned = about.counts.get("steps"), about.counts.get("planned")
    step = steps if about.complete else _story(folder).taken
    state = "finished" if about.complete else "running" if _grows(folder) else "stopped"
    return {
        "kind": folder.parent.name,
        "name": folder.name,
        "state": state,
        "step": step if type(step) is int else 0,
        "planned": next((n for n in (planned, steps) if type(n) is int), None),
        "when": about.when or None,
    }


def _grows(folder: Path) -> bool:
    """Whether the run, or its finish, has just written into its log."""
    logs = (folder / "log.jsonl", folder / "finish" / "log.jsonl")
    return any(time.time() - _when(log) / 1e9 < RUNNING_S for log in logs)


def _when(path: Path) -> int:
    """When a file was written, in ns; 0 if there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _story(folder: Path) -> Story:
    """What its log tells by now; do not change it."""
    log = folder / "log.jsonl"
    when = _when(log)
    with _reading:
        before, story = _read.get(log, (0, Story()))
        if when != before:
            story = log_reader.read(log)
            _read.pop(log, None)
            _read[log] = when, story
            if len(_read) > STORIES:
                del _read[next(iter(_read))]
        return story


def _curve(points: dict[int, float]) -> dict[str, list[Any]]:
    """At most so many points of a curve, evenly over it; JSON has no numbers without end."""
    steps = sorted(points)
    chosen = np.linspace(0, len(steps) - 1, min(len(steps), POINTS)).round().astype(int)
    taken = [steps[i] for i in chosen]
    values = [points[step] if math.isfinite(points[step]) else None for step in taken]
    return {"steps": taken, "values": values}
