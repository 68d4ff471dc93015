"""Where words go: results to stdout, for people or as JSON; progress, notes and hints to stderr."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from dallebaby_cli import progress as events
from dallebaby_cli.config import settings
from dallebaby_cli.text import UNWANTED


class Screen(Console):
    """A console to which all text is plain text, wherever it comes from: names of files, captions
    and what servers say are no markup, and bring no escape codes of their own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, markup=False, soft_wrap=True, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """What is written; rich marks its own codes as such."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else UNWANTED.sub("", segment.text)
            yield Segment(text, segment.style, segment.control)


@dataclass(frozen=True)
class Settings:
    """The global options, as every command finds them in `ctx.obj`."""

    home: Path
    arguments: tuple[str, ...] = ()
    """the whole command line, global options first"""
    config: Path | None = None
    set: tuple[str, ...] = ()
    device: str = "auto"
    json: bool = False
    quiet: bool = False
    debug: bool = False
    out: Console = field(default_factory=Screen)
    err: Console = field(default_factory=lambda: Screen(stderr=True))

    def load(
        self, section: str, flags: Mapping[str, Any] | None = None, preset: str | None = None
    ) -> Any:
        """The config of a command: preset < --config < --set < named flags."""
        return settings.load(
            section, preset=preset, file=self.config, settings=self.set, flags=flags
        )

    def load_several(self, sections: Sequence[str], preset: str) -> dict[str, Any]:
        """The configs of several commands; see `shared`."""
        return {
            section: settings.load(section, preset=preset, file=self.config, settings=mine)
            for section, mine in self.shared(sections).items()
        }

    def shared(self, sections: Sequence[str]) -> dict[str, list[str]]:
        """The `--set` settings that each of several commands takes: those that it knows. One that
        none knows goes to all, which refuse it."""
        taken: dict[str, list[str]] = {section: [] for section in sections}
        for setting in self.set:
            key = setting.partition("=")[0]
            for known in (key, key.partition(".")[0]):  # if not the whole, then its first part
                takers = [section for section in sections if settings.knows(section, known)]
                if takers:
                    break
            for section in takers or sections:
                taken[section].append(setting)
        return taken

    def preset(self, chosen: str | None) -> str:
        """The preset that was asked for, or the one that suits the device."""
        from dallebaby_cli.models.device import default_preset

        return chosen or default_preset(self.device)

    def in_processes(self, wanted: str | None) -> None:
        """Do the command in several processes and leave with their exit code; return at once in
        each of them, and where one is enough."""
        from dallebaby_cli.training import engine

        if wanted is None or engine.started():
            return
        count = engine.processes(wanted)
        if count == 1:
            return
        rest = list(self.arguments)
        for place, argument in enumerate(rest):
            if argument.partition("=")[0] == "--processes":
                del rest[place : place + (1 if "=" in argument else 2)]
                break
        raise SystemExit(engine.launch(count, rest))

    def train(
        self,
        section: str,
        stage: Callable[..., Any],
        names: list[str] | None,
        preset: str | None,
        flags: Mapping[str, Any],
        **run: str | None,
    ) -> None:
        """Call one of the two training stages and print what its run ended with."""
        from rich.table import Table

        preset = self.preset(preset)
        config = self.load(section, flags, preset=preset)
        with self.reporter() as report:
            done = stage(
                self.home,
                config,
                names or [],
                preset=preset,
                device=self.device,
                report=report,
                **run,
            )

        counts = dict(done.manifest.counts)
        if config.steps is not None:
            counts.pop("minutes", None)  # nobody asked for those
        table = Table("", "", show_header=False, box=None)
        for name, value in counts.items():
            words = {True: "yes", False: "no"}
            told = words[value] if isinstance(value, bool) else f"{value:,.4g}"
            if name == "mfu":
                name, told = "MFU", f"{value:.1%} of this device's measured peak"
            table.add_row(name.replace("_", " "), told)
        state = "trained" if done.fresh else "already trained"
        facts = {"folder": done.folder, "id": done.manifest.id, "fresh": done.fresh}
        lines: list[RenderableType] = [f"{done.folder}: {state}", table]
        if done.warning:
            facts["warning"] = done.warning
            lines.append(f"warning: {done.warning}")
        self.result({**facts, **counts}, *lines)

    def result(self, facts: dict[str, Any], *human: RenderableType) -> None:
        """Print a command's result: `facts` as one JSON line with --json, else the human lines."""
        if self.json:
            print(json.dumps(facts, default=str), flush=True)
            return
        for line in human:
            self.out.print(line)

    def hint(self, text: str) -> None:
        """Say what could be run next."""
        if not (self.json or self.quiet):
            self.err.print(f"next: {text}", style="dim")

    @contextmanager
    def reporter(self, bars: bool = True) -> Iterator[events.Report]:
        """A listener for a stage's events: bars in a terminal, plain or JSON lines elsewhere, and
        where no bars are wanted: their screen is drawn anew all the time."""
        if self.json:
            yield self._json_event
            return
        from dallebaby_cli.commands.live import Bars, Lines

        if bars and self.err.is_terminal and not self.quiet:
            with Bars(self.err) as drawn:
                yield drawn
        else:
            yield Lines(self.err, self.quiet)

    @staticmethod
    def _json_event(event: events.Event) -> None:
        row = {"event": type(event).__name__.lower(), **asdict(event)}
        print(json.dumps(row, default=str), file=sys.stderr, flush=True)
