"""`dallebaby datasets`: the catalogue."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from dallebaby_cli.commands.output import Settings
from dallebaby_cli.config.settings import nearest
from dallebaby_cli.errors import UsageError
from dallebaby_cli.progress import amount
from dallebaby_cli.text import one_line, without_secrets

if TYPE_CHECKING:
    from dallebaby_cli.fetch.catalog import Dataset


def datasets(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Show everything that is known about this one.")
    ] = None,
) -> None:
    """The datasets that can be fetched by name, and which of them are here."""
    from dallebaby_cli.fetch import catalog

    settings: Settings = ctx.obj
    known = catalog.load(settings.home)
    if name is not None:
        if name not in known:
            raise UsageError(f"no dataset {name!r} in the catalogue{nearest(name, known)}")
        dataset = known[name]
        facts = {**_shown(asdict(dataset)), **_here(settings, name)}
        settings.result(facts, *_in_full(dataset, facts))
        settings.hint(f"dallebaby {'prep' if dataset.transport == 'none' else 'fetch'} {name}")
        return
    table = Table("name", "pictures", "download", "captions", "here", box=None)
    table.columns[1].justify = table.columns[2].justify = "right"
    rows = []
    for dataset in known.values():
        here = _here(settings, dataset.name)
        table.add_row(
            _cell(dataset.name),
            f"{dataset.images:,}" if dataset.images else "?",
            _size(dataset.download_bytes),
            _cell(dataset.captions),
            ", ".join(word for word, so in here.items() if so),
        )
        rows.append(
            {
                "name": dataset.name,
                "title": dataset.title,
                "images": dataset.images,
                "bytes": dataset.download_bytes,
                "captions": dataset.captions,
                **here,
            }
        )
    settings.result({"datasets": rows}, table)
    settings.hint("dallebaby datasets NAME, then dallebaby fetch NAME")


def _here(settings: Settings, name: str) -> dict[str, bool]:
    """Which of its artefacts are complete in this workspace."""
    from dallebaby_cli.store import manifest

    found = {"fetched": "raw", "prepared": "images"}
    return {
        word: bool((m := manifest.read_if_whole(settings.home / kind / name)) and m.complete)
        for word, kind in found.items()
    }


def _in_full(dataset: "Dataset", facts: dict[str, object]) -> list[Table | str]:
    """Everything about one dataset, and its files."""
    about = Table(show_header=False, box=None)
    skip = {"files", "name", "listed_bytes"}
    about.add_row("download", _size(dataset.download_bytes))
    for key, value in facts.items():
        if key not in skip and value not in (None, "", ()):
            lines = [str(v) for v in value] if isinstance(value, tuple) else [_plain(value)]
            about.add_row(key.replace("_", " "), _cell(*lines))
    files = Table("file", "size", "wanted", "from", "note", box=None)
    files.columns[0].overflow = "fold"
    for file in dataset.files:
        ways = ["torrent"] if dataset.info_hash and file.in_torrent else []
        ways += ["Kaggle"] if dataset.kaggle else []
        ways += [f"{len(file.urls)} site(s)"] if file.urls else []
        wanted = "yes" if file.wanted else "no"
        size, note = _size(file.size_bytes), _cell(file.note)
        files.add_row(_cell(file.path), size, wanted, ", ".join(ways), note)
    return [about, files] if dataset.files else [about]


def _cell(*lines: str) -> Text:
    """Text from a catalogue as a table may show it: no markup, no escape codes."""
    return Text("\n".join(map(one_line, lines)))


def _shown(value: Any) -> Any:
    """The same without the names and passwords that addresses hold."""
    if isinstance(value, dict):
        return {key: _shown(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_shown, value))
    return without_secrets(value) if isinstance(value, str) else value


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _size(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else amount(size_bytes, "B")
