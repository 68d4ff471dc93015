"""Every artefact in the workspace: what it is, how big, from what, whole or not."""

from dataclasses import dataclass
from pathlib import Path

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import MADE_BY


@dataclass(frozen=True)
class Artefact:
    """One row of the table."""

    kind: str
    name: str
    state: str
    """"complete", "unfinished", or what is wrong with its manifest"""
    bytes: int
    parents: list[str]
    newest: bool
    """whether the next command takes this one when none is named"""
    when: str


def status(home: Path) -> list[Artefact]:
    """All artefacts in pipeline order, newest first within a kind."""
    rows: list[Artefact] = []
    for kind in MADE_BY:
        found = _rows(home, kind, f"{kind}/*")
        found.sort(key=lambda row: row.when, reverse=True)
        taken = next((row for row in found if row.state == "complete"), None)
        rows += [Artefact(**{**vars(row), "newest": row is taken}) for row in found]
        if kind == "images":
            rows += _rows(home, "captions", "images/*/captions")
    return rows


def _rows(home: Path, kind: str, place: str) -> list[Artefact]:
    """The artefacts whose folders are at `place`; none of them the newest yet."""
    found: list[Artefact] = []
    for folder in sorted(p for p in home.glob(place) if p.is_dir()):
        name, size = folder.relative_to(home).parts[1], files.folder_bytes(folder)
        try:
            about = manifest.read(folder)
        except BadInput as error:
            found.append(Artefact(kind, name, str(error), size, [], False, ""))
            continue
        if about is not None:
            state = "complete" if about.complete else "unfinished"
            parents = _parents(home, about.parents)
            found.append(Artefact(kind, name, state, size, parents, False, about.when))
    return found


def _parents(home: Path, parents: dict[str, str]) -> list[str]:
    """The parents' names, each marked if it is gone or has been made anew since."""
    marked = []
    for path, identity in parents.items():
        now = manifest.read(home / path)
        mark = " (gone)" if now is None else "" if now.id == identity else " (changed since)"
        marked.append(path + mark)
    return marked
