"""A download as people see it: a live panel in a terminal, one line elsewhere."""

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dallebaby_cli.files import human_bytes
from dallebaby_cli.progress import Transfer

BAR = 24


def line(event: Transfer) -> str:
    """Everything about a download but its size, in a few words."""
    facts: list[str] = [event.state] if event.state != "downloading" else []
    if event.state == "downloading" and not event.waiting_for:
        facts.append(f"{human_bytes(event.rate)}/s")
    if event.peers is not None:
        facts.append(f"{event.peers} peers, {event.seeds} of them seeds")
    if event.web_seeds:
        facts.append(f"{event.web_seeds} web seeds")
    if event.available is not None and event.available < 1:
        facts.append(f"{percent(event.available)} available")
    if event.eta_s is not None and not event.waiting_for:
        facts.append(f"{duration(event.eta_s)} left")
    return ", ".join(facts) + (f"; {event.waiting_for}" if event.waiting_for else "")


def panel(event: Transfer) -> RenderableType:
    """The live picture of a download: totals, who gives, each file, and what it waits for."""
    size = f" of {human_bytes(event.total)}" if event.total else ""
    head = Table.grid(padding=(0, 2))
    head.add_row(
        ProgressBar(total=event.total, completed=event.done, width=BAR, pulse=not event.total),
        Text(f"{human_bytes(event.done)}{size}", style="bold"),
        Text(line(event).partition(";")[0]),
    )
    files = Table.grid(padding=(0, 2))
    for path, done, total in event.files:
        files.add_row(
            ProgressBar(total=total or None, completed=done, width=BAR, pulse=not total),
            Text(f"{human_bytes(done)} of {human_bytes(total)}" if total else human_bytes(done)),
            Text(path, style="dim", overflow="ellipsis", no_wrap=True),
        )
    rows: list[RenderableType] = [head, *([files] if event.files else [])]
    if event.waiting_for:
        rows.append(Text(f"waiting: {event.waiting_for}", style="yellow"))
    return Panel(Group(*rows), title=f"fetch {event.task}", title_align="left")


def percent(share: float) -> str:
    """A share; never rounded up to look like the whole."""
    return "100 %" if share >= 1 else f"{int(share * 1000) / 10:.1f} %"


def duration(seconds: float) -> str:
    """A time as people say it: "50 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
