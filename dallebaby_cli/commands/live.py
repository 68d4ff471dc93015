"""How a stage's events look while it works: bars and panels in a terminal, lines elsewhere."""

import time

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dallebaby_cli import progress as events
from dallebaby_cli.commands import panel
from dallebaby_cli.progress import amount
from dallebaby_cli.text import one_line

PLAIN_EVERY_S = 10.0  # between two plain progress lines of one task, when nobody watches a bar


def _note(console: Console, event: events.Note) -> None:
    warning = event.level == "warning"
    text = one_line(f"warning: {event.text}" if warning else event.text)
    console.print(text, style="yellow" if warning else None)


class Bars:
    """Live progress bars with rate and time left, notes printed above them."""

    def __init__(self, console: Console) -> None:
        self.rich = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[amount]}", markup=False),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            TimeRemainingColumn(),
            console=console,
        )
        self.panel = Live(console=console, refresh_per_second=4)
        self.tasks: dict[str, TaskID] = {}
        self.first: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> "Bars":
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
            self.tasks[event.task] = self.rich.add_task(one_line(event.task), amount="", detail="")
        self.rich.update(
            self.tasks[event.task],
            completed=event.done,
            total=event.total,
            amount=text,
            detail=one_line(event.detail),
        )


class Lines:
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
        line = f"{event.task}: {amount(event.done, event.unit)}{of} {event.detail}"
        self.console.print(one_line(line))
