"""A download as people see it: a live panel in a terminal, one line elsewhere."""

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dallebaby_cli.files import human_bytes
from dallebaby_cli.progress import Transfer
from dallebaby_cli.text import one_line

BAR = 24


def line(event: Transfer) -> str:
    """Everything about a download but its size, in a few words."""
    facts = ", ".join(part for part in (_pace(event), _givers(event)) if part)
    return f"{facts}; {event.waiting_for}" if event.waiting_for else facts


def _pace(event: Transfer) -> str:
    if event.state != "downloading":
        return event.state
    if event.waiting_for:
        return ""
    left = "" if event.eta_s is None else f", {duration(event.eta_s)} left"
    return f"{human_bytes(event.rate)}/s{left}"


def _givers(event: Transfer) -> str:
    """Who gives, and whether all of it can be had from them."""
    facts = []
    if event.peers is not None:
        facts.append(f"{_count(event.peers, 'peer')} ({_count(event.seeds or 0, 'seed')})")
    if event.web_seeds:
        facts.append(_count(event.web_seeds, "web seed"))
    if event.available is not None:
        facts.append(f"{percent(event.available)} available")
    return ", ".join(facts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def panel(event: Transfer) -> RenderableType:
    """The live picture of a download: totals, who gives, each file, and what it waits for."""
    size = f" of {human_bytes(event.total)}" if event.total else ""
    head = Table.grid(padding=(0, 2))
    head.add_row(
        ProgressBar(total=event.total, completed=event.done, width=BAR, pulse=not event.total),
        Text(f"{human_bytes(event.done)}{size}", style="bold"),
        Text(_pace(event)),
    )
    files = Table.grid(padding=(0, 2))
    for path, done, total in event.files:
        files.add_row(
            ProgressBar(total=total or None, completed=done, width=BAR, pulse=not total),
            Text(f"{human_bytes(done)} of {human_bytes(total)}" if total else human_bytes(done)),
            Text(one_line(path), style="dim", overflow="ellipsis", no_wrap=True),
        )
    rows: list[RenderableType] = [head, *([files] if event.files else [])]
    if givers := _givers(event):
        rows.append(Text(givers, style="dim"))
    if event.waiting_for:
        rows.append(Text(one_line(f"waiting: {event.waiting_for}"), style="yellow"))
    return Panel(Group(*rows), title=Text(one_line(f"fetch {event.task}")), title_align="left")


def percent(share: float) -> str:
    """A share; never rounded up to look like the whole."""
    return "100 %" if share >= 1 else f"{int(share * 1000) / 10:.1f} %"


def duration(seconds: float) -> str:
    """A time as people say it: "50 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
