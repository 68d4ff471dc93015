"""Where words go: results to stdout, for people or as JSON; progress, notes and hints to stderr."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from dallebaby_cli import progress as events
from dallebaby_cli import settings
from dallebaby_cli.commands import panel

PLAIN_EVERY_S = 10.0  # between two plain progress lines of one task, when nobody watches a bar


@dataclass(frozen=True)
class Settings:
    """The global options, as every command finds them in `ctx.obj`."""

    home: Path
    config: Path | None = None
    set: tuple[str, ...] = ()
    device: str = "auto"
    json: bool = False
    quiet: bool = False
    debug: bool = False
    out: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    err: Console = field(
        default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True)
    )

    def load(
        self, section: str, flags: Mapping[str, Any] | None = None, preset: str | None = None
    ) -> Any:
        """The config of a command: preset < --config < --set < named flags."""
        return settings.load(
            section, preset=preset, file=self.config, settings=self.set, flags=flags
        )

    def preset(self, chosen: str | None) -> str:
        """The preset that was asked for, or the one that suits the device."""
        from dallebaby_cli.models.device import default_preset

        return chosen or default_preset(self.device)

    def trained(self, folder: Path, manifest: Any, fresh: bool) -> None:
        """Print what a training run ended with."""
        table = Table("", "", show_header=False, box=None)
        for name, value in manifest.counts.items():
            table.add_row(name.replace("_", " "), f"{value:,.4g}")
        state = "trained" if fresh else "already trained"
        facts = {"folder": folder, "id": manifest.id, "fresh": fresh, **manifest.counts}
        self.result(facts, f"{folder}: {state}", table)

    def result(self, facts: dict[str, Any], *human: str | Table) -> None:
        """Print a command's result: `facts` as one JSON line with --json, else the human lines."""
        if self.json:
            print(json.dumps(facts, default=str), flush=True)
            return
        for line in human:
            self.out.print(line, markup=False) if isinstance(line, str) else self.out.print(line)

    def hint(self, text: str) -> None:
        """Say what could be run next."""
        if not (self.json or self.quiet):
            self.err.print(f"next: {text}", style="dim", markup=False)

    @contextmanager
    def reporter(self) -> Iterator[events.Report]:
        """A listener for a stage's events: bars in a terminal, plain or JSON lines elsewhere."""
        if self.json:
            yield self._json_event
        elif self.err.is_terminal and not self.quiet:
            with _Bars(self.err) as bars:
                yield bars
        else:
            yield _Lines(self.err, self.quiet)

    @staticmethod
    def _json_event(event: events.Event) -> None:
        row = {"event": type(event).__name__.lower(), **asdict(event)}
        print(json.dumps(row, default=str), file=sys.stderr, flush=True)


def amount(value: float, unit: str) -> str:
    """A count with its unit, bytes scaled: "12.3 MB", "1,200 images"."""
    if unit == "B":
        from dallebaby_cli.files import human_bytes

        return human_bytes(value)
    return f"{value:,.0f} {unit}".rstrip()


def _note(console: Console, event: events.Note) -> None:
    warning = event.level == "warning"
    text = f"warning: {event.text}" if warning else event.text
    console.print(text, style="yellow" if warning else None, markup=False)


class _Bars:
    """Live progress bars with rate and time left, notes printed above them."""

    def __init__(self, console: Console) -> None:
        self.rich = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[amount]}"),
            TextColumn("{task.fields[detail]}", style="dim"),
            TimeRemainingColumn(),
            console=console,
        )
        self.panel = Live(console=console, refresh_per_second=4)
        self.tasks: dict[str, TaskID] = {}
        self.first: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> "_Bars":
        self.rich.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.panel.stop()
        self.rich.stop()

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Note):
            _note(self.rich.console, event)
            return
        if isinstance(event, events.Transfer):
            if not self.panel.is_started:
                self.rich.stop()  # one live display at a time
                self.panel.start()
            self.panel.update(panel.panel(event))
            return
        now = time.monotonic()
        began, start = self.first.setdefault(event.task, (now, event.done))
        rate = (event.done - start) / (now - began) if now > began else 0.0
        text = amount(event.done, "" if event.total else event.unit)
        if event.total:
            text = f"{text} of {amount(event.total, event.unit)}"
        if rate:
            text += f", {amount(rate, event.unit) if rate >= 10 else f'{rate:.2g} {event.unit}'}/s"
        if event.task not in self.tasks:
            self.tasks[event.task] = self.rich.add_task(event.task, amount="", detail="")
        self.rich.update(
            self.tasks[event.task],
            completed=event.done,
            total=event.total,
            amount=text,
            detail=event.detail,
        )


class _Lines:
    """Plain lines for pipes and logs: one a task every few seconds, and one at its end."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self.last: dict[str, float] = {}

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Note):
            if not self.quiet or event.level == "warning":
                _note(self.console, event)
            return
        if isinstance(event, events.Transfer):
            event = events.Progress(event.task, event.done, event.total, "B", panel.line(event))
        now = time.monotonic()
        finished = event.total is not None and event.done >= event.total
        due = now - self.last.get(event.task, now if event.done == 0 else 0) >= PLAIN_EVERY_S
        if self.quiet or not (due or finished):
            self.last.setdefault(event.task, now)
            return
        self.last[event.task] = now
        of = f" of {amount(event.total, event.unit)}" if event.total else ""
        line = f"{event.task}: {amount(event.done, event.unit)}{of} {event.detail}".rstrip()
        self.console.print(line, markup=False)
