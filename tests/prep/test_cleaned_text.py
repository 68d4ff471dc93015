"""Whatever file names, labels and captions hold, what is stored is clean UTF-8."""

import io
import json
import os
import tarfile
from functools import partial
from pathlib import Path

import pyarrow as pa
from conftest import run
from test_images import corners, save

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.prep import pieces
from dallebaby_cli.prep.pieces import Task
from dallebaby_cli.prep.readers import Record
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.text import clean

NASTY = {
    "half \ud800 pair": "half \ufffd pair",
    "two\ud83d\ude00halves": "two\U0001f600halves",
    "a\0nul and \x1b[31mred": "anul and [31mred",
    "in\u202evoice\u200b": "invoice",
    "cafe\u0301": "café",
    "two\nlines\u2028more": "two lines more",
    "caf\udce9": "caf\ufffd",
}


def test_every_reader_passes_the_gate(tmp_path: Path) -> None:
    """What any of them says of a picture is cleaned where it is stored."""
    picture = save(corners())
    by = ("human", "template")
    rows = [
        Record(f"{text}.png", partial(bytes, picture), (text, "a dog"), text, written_by=by)
        for text in NASTY
    ]
    config = PrepConfig(image_px=16)
    table = pa.ipc.open_file(content_of(Task(tmp_path, tuple(rows), config))).read_all()
    table.validate(full=True)
    assert table["label"].to_pylist() == [*NASTY.values()]
    assert table["captions"].to_pylist() == [[text, "a dog"] for text in NASTY.values()]
    assert table["caption_sources"].to_pylist() == [["human", "template"]] * len(NASTY)
    assert [name.split() for name in table["file"].to_pylist()] == [
        f"{text}.png".split() for text in NASTY.values()
    ]


def content_of(task: Task) -> pa.Buffer:
    pieces.make(Task(task.path / "0.arrow", task.records, task.config))
    whole = pa.py_buffer((task.path / "0.arrow").read_bytes())
    return whole[pieces._start(whole) :]


def prepared(tmp_path: Path, folder: Path) -> tuple[Shards, list[dict]]:
    """Prepare a folder, and read all that is stored with any tool's eyes."""
    ran = run(tmp_path / "home", "prep", folder, "--px", 16, "--workers", 1, "--name", "odd")
    made = tmp_path / "home/images/odd"
    for line in (made / "rejects.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line)
    with tarfile.open(made / "odd-00000.tar") as tar:
        about = [json.loads(tar.extractfile(m).read()) for m in tar if m.name.endswith(".json")]  # type: ignore[union-attr]
    assert "\x1b" not in ran.out + ran.err and "\u202e" not in ran.out + ran.err
    return Shards(made), about


def test_folders_of_any_bytes_become_classes(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "classes")
    labels = {
        b"caf\xe9": ("caf\ufffd", "café"),  # which of them the reader decides
        "in\u202evoice".encode(): ("invoice",),
        b"\x1b[31mred": ("[31mred",),
        b"a\nb": ("a b",),
        b"dog": ("dog",),
    }
    for number, name in enumerate(labels):
        os.makedirs(os.path.join(folder, name))
        with open(os.path.join(folder, name, b"1.png"), "wb") as out:
            out.write(save(corners(64, 64 + number)))
    shards, about = prepared(tmp_path, tmp_path / "classes")
    found = {shards.label(row) for row in range(len(shards))}
    assert len(found) == len(labels)
    assert all(found & {*either} for either in labels.values())
    assert all(row["captions"] and clean(row["source"]) == row["source"] for row in about)


def test_texts_of_any_code_points_become_captions(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, text in enumerate(NASTY):
            about = json.dumps({"caption": f"{text} of a dog", "label": text}).encode()
            for ending, content in (("json", about), ("png", save(corners(64, 64 + number)))):
                info = tarfile.TarInfo(f"{number}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    shards, about = prepared(tmp_path, folder)
    spaces = str.maketrans("\0\x1b", "  ")  # between words, where it can be a gap
    kept = [clean(text.translate(spaces)).replace("\ufffd", " ") for text in NASTY]
    expected = [" ".join(f"{text} of a dog".split()) for text in kept]
    stored = [shards.captions(row)[0] for row in range(len(shards))]
    assert sorted(stored) == sorted(expected)
    assert sorted(row["captions"][0] for row in about) == sorted(stored)
