"""manifest.json: what an artefact folder holds, what it was made from, and whether it is whole.

Every arrow of the pipeline ends in a folder `HOME/KIND/NAME` with one of these. Stages meet only
here: they find their inputs through `newest` and `find`, and check parents by content id.
"""

import dataclasses
import itertools
import json
import re
import shlex
import typing
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import shorten
from typing import Any

from dallebaby_cli import __version__, files, names
from dallebaby_cli.config.settings import nearest
from dallebaby_cli.errors import BadInput, MissingInput, UsageError
from dallebaby_cli.text import clean

FORMAT = 1
LARGEST = 256 << 20  # bytes: a torrent may have a million files
LONGEST_NAME = 100  # bytes in UTF-8: names of files are made of two of them

MADE_BY = {
    "raw": "dallebaby fetch NAME",
    "images": "dallebaby prep NAME",
    "vae": "dallebaby train-vae",
    "tokens": "dallebaby encode",
    "dalle": "dallebaby train",
    "classifier": "dallebaby evaluate",
    "judges": "dallebaby evaluate",
}
"""Kind of artefact (also its folder below HOME) → the command that makes one, in this order."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of one manifest.json."""

    kind: str
    name: str
    id: str = ""
    """hash of the content; empty until complete"""
    complete: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    """"KIND/NAME" of each input → its id"""
    counts: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    """file → its SHA-256, where no other file says it: to tell which of them is damaged"""
    when: str = ""
    version: str = __version__
    format: int = FORMAT


SHAPES: dict[str, Any] = typing.get_type_hints(Manifest)
TIME = re.compile(r"([12]\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00)?").fullmatch
PRINTABLE = str.isprintable


def artefact(home: Path, kind: str, name: str) -> Path:
    """The folder of an artefact; refuses names that would leave its kind's folder."""
    letters = re.fullmatch(r"[^\W_][\w.@+-]*", name)
    longest = 2 * LONGEST_NAME + 1 if kind == "tokens" else LONGEST_NAME  # those are NAME@RUN
    if not letters or len(name.encode()) > longest or names.unsafe(name):
        raise UsageError(
            f"{name!r} cannot be a name: use up to {longest} letters, digits and . _ - + @, "
            "beginning with a letter or digit, and no name that the system keeps for itself"
        )
    return home / kind / name


def as_name(text: str, otherwise: str) -> str:
    """What an artefact after a title or a folder may be called, in letters of all scripts;
    `otherwise` if nothing is left."""
    letters = re.sub(r"[^\w.@+-]+", "-", clean(text)).lstrip("-._@+").encode()[:LONGEST_NAME]
    return letters.decode(errors="ignore").rstrip("-._@+") or otherwise


def write(folder: Path, manifest: Manifest) -> None:
    """Write `folder`/manifest.json atomically, stamped with the time: where the clock has gone
    back, with one just after that of the newest artefact of its kind."""
    now = datetime.now(UTC)
    for other in folder.parent.glob("*/"):
        with suppress(ValueError):  # the 31st of February
            if before := read_if_whole(other):
                now = max(now, datetime.fromisoformat(before.when) + timedelta(microseconds=1))
    stamped = dataclasses.replace(manifest, when=now.isoformat(timespec="microseconds"))
    text = json.dumps(dataclasses.asdict(stamped), indent=2, sort_keys=True)
    files.write_text(folder / "manifest.json", text + "\n")


def read(folder: Path) -> Manifest | None:
    """The manifest in `folder`, or None if there is none. Raises BadInput if it makes no sense. An
    artefact is called what its folder is called: who copies or renames one renames it."""
    path = folder / "manifest.json"
    redo = f"remove {folder} and make it again"
    try:
        content = files.read_json(path, redo, most=LARGEST)
    except FileNotFoundError:
        return None
    if content.get("format") != FORMAT:
        found = shorten(repr(content.get("format")), 60)
        raise BadInput(
            f"{path} has format {found} and this version reads {FORMAT}; "
            f"make {folder.name} again, or use the version of dallebaby that made it"
        )
    known = {k: v for k, v in content.items() if k in SHAPES}
    if wrong := _wrong(known):
        raise BadInput(f"{path} is damaged ({wrong}); {redo}")
    stands = folder.parent.name == known["kind"]
    return Manifest(**known | ({"name": folder.name} if stands else {}))


def _wrong(content: dict[str, Any]) -> str:
    """What no manifest says of itself; "" if there is nothing of that kind."""
    for name in ("kind", "name"):
        if name not in content:
            return f"{name} is missing"
    for name, value in content.items():
        shape = SHAPES[name]
        if type(value) is not (typing.get_origin(shape) or shape):
            return f"{name} is {shorten(repr(value), 60)}"
        if shape is str and not (TIME if name == "when" else PRINTABLE)(value):
            return f"{name} is {shorten(repr(value), 60)}"
    for name in ("parents", "hashes"):
        for key, value in content.get(name, {}).items():
            if names.unsafe(key) or not isinstance(value, str) or not value.isprintable():
                return f"{name} holds {shorten(repr({key: value}), 60)}"
    if any("/" in file for file in content.get("hashes", ())):
        return "hashes holds files of other folders"
    return _wrong_of_kind(content)


def _wrong_of_kind(content: dict[str, Any]) -> str:
    """What no manifest of its kind lacks; who reads others (`raw`, runs) looks at them there."""
    if content["kind"] == "tokens":
        images = [path for path in content.get("parents", {}) if path.startswith("images/")]
        return "" if len(images) == 1 else "parents does not name the pictures"
    if content["kind"] == "captions":
        models, counts = content.get("config", {}).get("models"), content.get("counts", {})
        whole = isinstance(models, dict) and models.keys() >= counts.keys()
        if not whole or any(not isinstance(figures, dict) for figures in counts.values()):
            return "counts does not fit the models"
    return ""


def read_if_whole(folder: Path) -> Manifest | None:
    """The manifest in `folder`, or None if there is none that makes sense: for those who look at
    many artefacts and can do without one."""
    try:
        return read(folder)
    except BadInput:
        return None


def every(home: Path, kind: str) -> list[tuple[Path, Manifest]]:
    """All artefacts of a kind with a readable manifest, newest first."""
    folders = sorted((home / kind).glob("*/"))
    found = [(folder, about) for folder in folders if (about := read_if_whole(folder))]
    return sorted(found, key=lambda pair: pair[1].when, reverse=True)


def newest(home: Path, kind: str) -> tuple[Path, Manifest]:
    """The newest complete artefact of a kind. Raises MissingInput that says how to make one."""
    for folder, manifest in every(home, kind):
        if manifest.complete:
            return folder, manifest
    raise MissingInput(f"nothing complete in {home / kind}; run `{MADE_BY[kind]}` first")


def find(home: Path, kind: str, name: str | None) -> tuple[Path, Manifest]:
    """The complete artefact of that name, or with None the newest one of the kind."""
    if name is None:
        return newest(home, kind)
    folder = artefact(home, kind, name)
    manifest = read(folder)
    command = MADE_BY[kind].replace("NAME", name)
    if manifest is None:
        names = [m.name for _, m in every(home, kind)]
        raise MissingInput(f"no {kind}/{name} in {home}{nearest(name, names)} (run `{command}`)")
    if not manifest.complete:
        raise MissingInput(f"{folder} is not finished; {again(manifest)} to continue it")
    return folder, manifest


def find_all(home: Path, kind: str, names: list[str]) -> list[tuple[Path, Manifest]]:
    """The artefacts of those names, or the newest one of the kind if there are none; in the order
    of their names, so that what is made from them depends on no other. Raises UsageError if one is
    named twice."""
    found = [find(home, kind, name) for name in names] or [newest(home, kind)]
    found.sort(key=lambda pair: pair[1].name)
    for (_, before), (_, after) in itertools.pairwise(found):
        if before.name == after.name:
            raise UsageError(f"{kind}/{after.name} is named twice; name each of them once")
    return found


def is_scenes(found: Manifest) -> bool:
    """Whether the pictures are the embedded dataset: scenes that the package drew itself."""
    source = found.config.get("source")
    return isinstance(source, dict) and source.get("layout") == "scenes"


def of_scenes(home: Path, about: Manifest) -> bool:
    """Whether a model learned from drawn scenes alone, by its pictures' manifests if they are still
    there, else by their names."""
    drawn = []
    for parent in (p for p in about.parents if p.startswith(("tokens/", "images/"))):
        name = parent.split("/")[1].partition("@")[0]  # of captions beside pictures, too
        found = read_if_whole(artefact(home, "images", name))
        drawn.append(is_scenes(found) if found else name == "scenes")
    return all(drawn) and bool(drawn)


def again(found: Manifest) -> str:
    """What to do to make an artefact anew or to go on with it: "run `COMMAND` again", as far as its
    manifest knows the command."""
    inputs: dict[str, list[str]] = {kind: [] for kind in MADE_BY}
    for path in found.parents:
        kind, _, name = path.partition("/")
        if kind in inputs and "/" not in name:
            inputs[kind].append(name)
    words = MADE_BY.get(found.kind, f"dallebaby {found.kind}").replace("NAME", found.name).split()
    if found.kind == "images":
        source = found.config.get("source")
        made_of = [source.get("folder"), source.get("layout")] if isinstance(source, dict) else []
        words[2] = str(next(filter(None, [*inputs["raw"], *made_of]), found.name))
        words += ["--name", found.name] if words[2] != found.name else []
    elif found.kind == "tokens":
        words += inputs["images"] + [word for name in inputs["vae"] for word in ("--vae", name)]
    elif found.kind in ("vae", "dalle"):
        words += inputs["images" if found.kind == "vae" else "tokens"] + ["--run", found.name]
        finish = found.config.get("finish")
        only = isinstance(finish, dict) and finish.get("share") == 1
        flag = "--sharpen" if only else "--from"
        words += [word for name in inputs[found.kind] for word in (flag, name)]
    settings = " with its settings" if found.config and found.kind != "raw" else ""
    return f"run `{shlex.join(words)}` again{settings}"
