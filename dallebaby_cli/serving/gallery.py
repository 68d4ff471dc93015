"""The pictures that were kept in HOME/samples, and what they say of how they were made."""

import io
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dallebaby_cli import files
from dallebaby_cli.config import SampleConfig, settings
from dallebaby_cli.errors import BadInput, UsageError
from dallebaby_cli.serving.models import Models
from dallebaby_cli.serving.refused import Refused
from dallebaby_cli.serving.wish import SAMPLING
from dallebaby_cli.store.pictures import metadata_of, read_metadata
from dallebaby_cli.text import one_line

PAGE = 50  # pictures of an answer
APART = {"size", "vae"}  # what `generate` can do and the page cannot
GONE = "there is no picture of that name"


class Gallery:
    """The single pictures of a folder, newest first. A name from outside is looked up in a listing
    and becomes no path."""

    def __init__(self, folder: Path, models: Models) -> None:
        self.folder, self.models = folder, models

    def listed(self) -> dict[str, int]:
        """Every PNG's name and the time (ns) when it was written: the newest drawing first, its
        pictures in their order."""
        try:
            with os.scandir(self.folder) as entries:
                found = {
                    entry.name: entry.stat(follow_symlinks=False).st_mtime_ns
                    for entry in entries
                    if _is_ours(entry)
                }
        except FileNotFoundError:
            return {}
        newest: dict[str, int] = {}
        for name, when in found.items():
            newest[_drawing(name)] = max(when, newest.get(_drawing(name), 0))
        order = sorted(found, key=lambda name: (-newest[_drawing(name)], name))
        return {name: found[name] for name in order}

    def read(self, name: str) -> bytes:
        """The content of a picture. Raises Refused."""
        if name not in self.listed():
            raise Refused(404, GONE)
        try:
            return files.read_small(self.folder / name, follow=False)
        except (FileNotFoundError, BadInput):
            raise Refused(404, GONE) from None

    def page(self, after: str | None) -> dict[str, Any]:
        """The pictures that come after the one of that name, and the name to ask for more with.
        Raises Refused where there is no such picture."""
        listed, names = self.listed(), self.models.names()
        if after is not None and after not in listed:
            raise Refused(404, GONE)
        order, shown = [*listed], list[dict[str, Any]]()
        for name in order[0 if after is None else order.index(after) + 1 :]:
            about = _about(_says(self.folder / name, listed[name]), names)
            if about is None or about["grid"]:
                continue
            if len(shown) == PAGE:
                return {"pictures": shown, "next": shown[-1]["name"]}
            shown.append({"name": name, "url": url(name, listed[name]), **about})
        return {"pictures": shown, "next": None}

    def settings_of(self, content: bytes) -> dict[str, Any]:
        """What a PNG from outside says. Raises Refused."""
        try:
            says = metadata_of(io.BytesIO(content))
        except Exception:  # libraries fail in any way on files made wrong or to harm
            raise Refused(400, "this is no PNG, or it is damaged; give a whole one") from None
        if about := _about(says, self.models.names()):
            return about
        raise Refused(400, "dallebaby did not write this picture, so it has no settings to read")


def url(name: str, when: int) -> str:
    """Where a picture is; another one for another picture of that name, so it can be cached."""
    return f"/pictures/{quote(name)}?v={when}"


def _drawing(name: str) -> str:
    """What all pictures of a drawing are called, but for their number."""
    return name.rpartition("-")[0]


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Whether it can be a picture that we wrote: no link, and no name that JSON cannot hold."""
    named = entry.name.endswith(".png") and entry.name[0] != "." and entry.name.isprintable()
    return named and entry.is_file(follow_symlinks=False)


@lru_cache(maxsize=4096)
def _says(path: Path, when: int) -> dict[str, str]:
    """The metadata of a file as it was written then."""
    return read_metadata(path)


def _about(says: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Any] | None:
    """What a picture of ours says, with its model's name: `settings` that a request may have, how
    many codes were `kept` of another picture, whether it takes more than its settings to draw it
    again (`apart`), whether it is a `grid`. None for all others."""
    try:
        sampling = files.parse_json(says["sampling"])
        config = settings.as_dict(settings.build(SampleConfig, sampling))
        made = {
            "prompt": one_line(says["prompt"].partition("\n")[0]),
            "seed": str(int(says["seed"])),
            "model": names.get(says.get("model", "")),
        }
    except (KeyError, TypeError, ValueError, AttributeError, UsageError):
        return None
    made |= {name: config[name] for name in SAMPLING}
    codes = says.get("kept", says.get("known", says.get("varied", ""))).split()
    kept = sum(code != "-1" for code in codes)
    apart = kept > 0 or not APART.isdisjoint(says)
    return {"settings": made, "kept": kept, "apart": apart, "grid": "n" in says}
