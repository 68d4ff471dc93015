"""Any folder of pictures, nested as deep as it likes.

Captions are in a `.txt` beside a picture, one a line; lines such as "de.utf8=Ein Hund" are
translations and skipped. Only if the whole tree holds no `.txt` does the nearest folder's name
label a picture; those right in the top folder have no label. Links to files are followed.
"""

import codecs
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep.archives import is_picture, read_file, refuse, walk
from dallebaby_cli.prep.images import Rejected
from dallebaby_cli.prep.readers import Record, Records
from dallebaby_cli.store import captions

TRANSLATION = re.compile(r"^[a-z]{2,3}(_[A-Z]{2})?(@\w+)?\.utf8=")


def fits(names: set[str]) -> bool:
    """Any folder will do."""
    return True


def read(folder: Path) -> Records:
    """The pictures below a folder, sorted by path. Raises BadInput if there are none."""
    paths = sorted(walk(folder), key=lambda path: path.split("/"))
    pictures = [path for path in paths if is_picture(path) or (folder / path).is_dir()]
    if not pictures:
        raise BadInput(
            f"{folder} holds no pictures (jpg, jpeg, png, webp, gif, bmp, tif, tiff); "
            "name a folder that does"
        )
    texts = {path[:-4]: path for path in reversed(paths) if path.lower().endswith(".txt")}
    return Records(_rows(folder, pictures, texts), len(pictures))


def caption_lines(content: bytes) -> tuple[str, ...]:
    """The captions in a text file."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
    return captions.clean(line for line in text.splitlines() if not TRANSLATION.match(line))


def _rows(folder: Path, pictures: list[str], texts: dict[str, str]) -> Iterator[Record]:
    for path in pictures:
        read_picture = partial(read_file, folder / path)
        text = texts.get(path.rpartition(".")[0])
        if text is not None:
            try:
                yield Record(path, read_picture, caption_lines(read_file(folder / text)))
            except (OSError, Rejected) as error:
                why = f"its captions in {text}: {error}"
                yield Record(path, partial(refuse, "unreadable", why))
        elif not texts and "/" in path:
            label = captions.plain(path.split("/")[-2])
            made = captions.from_labels([label], path)
            yield Record(path, read_picture, made, label, written_by="template")
        else:
            yield Record(path, read_picture)
