"""Every artefact in the workspace: what it is, how big, from what, whole or not."""

from dataclasses import dataclass
from pathlib import Path

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.store import manifest
from dallebaby_cli.store.codes_id import is_maker
from dallebaby_cli.store.manifest import MADE_BY, Manifest


@dataclass(frozen=True)
class Artefact:
    """One row of the table."""

    kind: str
    name: str
    state: str
    """"complete", "unfinished", or "(damaged)" and what is wrong"""
    bytes: int
    parents: list[str]
    newest: bool
    """whether the next command takes this one when none is named"""
    when: str
    report: str = ""
    """the path of its page, if it has one"""


def status(home: Path) -> list[Artefact]:
    """All artefacts in pipeline order, newest first within a kind."""
    rows: list[Artefact] = []
    for kind in MADE_BY:
        taken = next((folder.name for folder, m in manifest.every(home, kind) if m.complete), None)
        found = _rows(home, kind, f"{kind}/*", taken)
        rows += sorted(found, key=lambda row: row.when, reverse=True)
        if kind == "images":
            rows += _rows(home, "captions", "images/*/captions", None)
    return rows


def _rows(home: Path, kind: str, place: str, taken: str | None) -> list[Artefact]:
    """The artefacts whose folders are at `place`; the one called `taken` is the newest."""
    found: list[Artefact] = []
    for folder in sorted(p for p in home.glob(place) if p.is_dir()):
        name, size = folder.relative_to(home).parts[1], files.folder_bytes(folder)
        try:
            about = manifest.read(folder)
        except BadInput as error:
            found.append(Artefact(kind, name, f"(damaged) {error}", size, [], False, ""))
            continue
        if about is not None:
            parents = _parents(home, about.parents)
            state, newest, page = _state(folder, about), name == taken, folder / "report.html"
            report = str(page) if page.is_file() else ""
            row = Artefact(kind, name, state, size, parents, newest, about.when, report)
            found.append(row)
    return found


def _state(folder: Path, about: Manifest) -> str:
    """What the manifest says, unless files are gone without which it cannot be true. What is in
    them is checked when they are loaded: that may take minutes."""
    if not about.complete:
        return "unfinished"
    if about.kind in ("vae", "dalle", "classifier", "judges"):
        needed = ["config.json", "model.safetensors"]
        needed += ["vae.safetensors", "tokenizer.json"] if about.kind == "dalle" else []
    elif about.kind == "images":
        needed = ["index.arrow"]
    else:
        needed = [*about.hashes]
    gone = [name for name in needed if not (folder / name).is_file()]
    return f"(damaged) {', '.join(gone)} gone; {manifest.again(about)}" if gone else "complete"


def _parents(home: Path, parents: dict[str, str]) -> list[str]:
    """The parents' names, each marked if it is gone, damaged, or has been made anew since."""
    marked = []
    for path, identity in parents.items():
        try:
            now = manifest.read(home / path)
            mark = " (gone)" if now is None else ""
            if now is not None and not _is_same(home / path, now, identity):
                mark = " (changed since)"
        except (BadInput, MissingInput):
            mark = " (damaged)"
        marked.append(path + mark)
    return marked


def _is_same(folder: Path, now: Manifest, identity: str) -> bool:
    """Whether an artefact is still the one that had this id; of a dVAE, whether its codes are."""
    return now.id == identity or (now.kind == "vae" and is_maker(folder, now, identity))
