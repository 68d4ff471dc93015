"""Where words go: results to stdout, for people or as JSON; progress, notes and hints to stderr."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from dallebaby_cli import files, settings
from dallebaby_cli import progress as events


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
        from rich.table import Table

        table = Table("", "", show_header=False, box=None)
        for name, value in manifest.counts.items():
            table.add_row(name.replace("_", " "), f"{value:,.4g}")
        state = "trained" if fresh else "already trained"
        facts = {"folder": folder, "id": manifest.id, "fresh": fresh, **manifest.counts}
        self.result(facts, f"{folder}: {state}", table)

    def result(self, facts: dict[str, Any], *human: RenderableType) -> None:
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
            return
        from dallebaby_cli.commands.live import Bars, Lines

        if self.err.is_terminal and not self.quiet:
            with Bars(self.err) as bars:
                yield bars
        else:
            yield Lines(self.err, self.quiet)

    @staticmethod
    def _json_event(event: events.Event) -> None:
        row = {"event": type(event).__name__.lower(), **asdict(event)}
        print(json.dumps(row, default=str), file=sys.stderr, flush=True)


def amount(value: float, unit: str) -> str:
    """A count with its unit, bytes scaled: "12.3 MB", "1,200 images"."""
    if unit == "B":
        return files.human_bytes(value)
    return f"{value:,.0f} {unit}".rstrip()
