"""What is said of pictures, as it comes broken: read, or named, or one sentence."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import strategies as st
from mutations import anything, fuzz, mutated
from test_fuzz_archives import TINY

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.errors import DallebabyError
from dallebaby_cli.prep import pieces, readers
from dallebaby_cli.store import captions

ROWS = [
    {"file_name": f"{n}.png", "text": f"number {n}", "label": n, "split": "train"} for n in range(4)
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TABLE = b'file_name,text\r\n0.png,"a, b"\r\n1.png,two\r\nsub/2.png,three\r\n'
FIELDS = st.sampled_from(
    ["captions", "caption", "text", "label", "split", "caption_sources", "file_name"]
)
ABOUT = st.dictionaries(FIELDS, anything, max_size=5)
COCO = {
    "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(3)],
    "annotations": [{"id": n, "image_id": n % 3, "caption": f"text {n}"} for n in range(5)],
}
REGIONS = [
    {"id": n, "regions": [{"phrase": f"phrase {n}"}, {"phrase": "another"}]} for n in range(3)
]
TEXTS = [b"a dog\nde.utf8=Hund\n0 1 2 3", "un ni\u00f1o".encode("utf-16")]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def changed(draw: st.DrawFn, original: Any) -> bytes:
    """JSON with one of its values replaced by anything, or left out."""
    found = json.loads(json.dumps(original))
    inside = found
    while True:
        places = [*inside] if isinstance(inside, dict) else [*range(len(inside))]
        place = draw(st.sampled_from(places))
        if not isinstance(inside[place], dict | list) or not inside[place] or draw(st.booleans()):
            break
        inside = inside[place]
    if draw(st.booleans()):
        inside[place] = draw(anything)
    else:
        del inside[place]
    return dumped(found)


def prepare(folder: Path, layout: str, files: dict[str, bytes]) -> None:
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        rows = tuple(readers.read(layout, folder).rows)
    except DallebabyError:
        return
    pieces.content(pieces.Task(folder / "piece", rows, PrepConfig(image_px=8, workers=1)))


@fuzz(
    name=st.sampled_from(["metadata.jsonl", "captions.csv", "captions.txt"]),
    content=mutated(LINES, TABLE),
)
def test_any_list(folder: Path, name: str, content: bytes) -> None:
    prepare(folder, "folder", {"0.png": TINY, "1.png": TINY, name: content})


@fuzz(rows=st.lists(ABOUT | anything, max_size=4))
def test_any_rows(folder: Path, rows: list[Any]) -> None:
    lines = b"".join(dumped(row) + b"\n" for row in rows)
    out = io.StringIO()
    csv.writer(out).writerows(
        [["file_name", "text"], *(row for row in rows if isinstance(row, list))]
    )
    table = out.getvalue().encode(errors="surrogatepass")
    prepare(folder, "folder", {"0.png": TINY, "metadata.jsonl": lines, "metadata.csv": table})


@fuzz(about=ABOUT.map(dumped) | anything.map(dumped) | mutated(dumped(ROWS[0])))
def test_any_json_beside_a_picture(folder: Path, about: bytes) -> None:
    prepare(folder, "folder", {"0.png": TINY, "0.json": about})


@fuzz(ending=st.sampled_from(["txt", "caption", "cls"]), content=mutated(*TEXTS))
def test_any_text_beside_a_picture(folder: Path, ending: str, content: bytes) -> None:
    prepare(folder, "folder", {"0.png": TINY, f"0.{ending}": content})


@fuzz(value=anything)
def test_any_value_as_captions(value: Any) -> None:
    good, odd = captions.given(value)
    assert all(isinstance(text, str) for text in (*good, *odd))
    assert all("\ufffd" not in text and "\0" not in text for text in captions.clean(good))


@fuzz(content=mutated(dumped(COCO)) | changed(COCO))
def test_any_annotations_of_coco(folder: Path, content: bytes) -> None:
    prepare(folder, "coco", {"captions_train2017.json": content})


@fuzz(content=mutated(dumped(REGIONS)) | changed(REGIONS))
def test_any_regions_of_visual_genome(folder: Path, content: bytes) -> None:
    prepare(folder, "visual-genome", {"region_descriptions.json": content})
