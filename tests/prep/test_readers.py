"""Readers: what each raw layout turns into, from tiny copies of the true layouts."""

import io
import json
import os
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import readers
from dallebaby_cli.prep.images import Rejected
from dallebaby_cli.prep.member import refuse
from dallebaby_cli.prep.readers import Record
from dallebaby_cli.store import captions


def picture(shade: int = 0, kind: str = "JPEG", size: tuple[int, int] = (24, 20)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 128)).save(out, kind)
    return out.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zipped(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def read(folder: Path, layout: str | None = None) -> dict[str, Record]:
    assert layout is None or readers.detect(folder) == layout
    found = readers.read(layout or readers.detect(folder), folder)
    records = [record for record in found.rows if not without_picture(record)]
    assert found.count in (None, len(records))
    by_file = {record.file: record for record in records}
    assert len(by_file) == len(records)
    return by_file


def without_picture(record: Record) -> tuple[str, str] | None:
    """Reason and detail of a record that stands for a caption that could not be used, or for what
    is no part of the dataset."""
    read = record.read
    if isinstance(read, partial) and read.func is refuse:
        if read.args[0] == "left out" or read.args[0].endswith(" caption"):
            return read.args
    return None


def left_out(folder: Path) -> dict[str, tuple[str, str]]:
    """File → why what it says of pictures could not be used."""
    rows = readers.read(readers.detect(folder), folder).rows
    return {row.file: why for row in rows if (why := without_picture(row))}


# ---------------------------------------------------------------- folders


def test_folder_with_captions(tmp_path: Path) -> None:
    for name in ("a/b/c.jpg", "a-b.png", "a/lonely.GIF", "a/Up.JPEG", "z.tif", "z.tiff", "z.bmp"):
        put(tmp_path / name, picture())
    put(
        tmp_path / "a/b/c.txt",
        "A  dog.\r\n\r\nde.utf8=Ein Hund.\npt_BR.utf8=Um cachorro\nca@valencia.utf8=Un gos\n"
        "A dog.\n  Two\tdogs?\nDE.utf8=kept\n",
    )
    put(tmp_path / "a/Up.TXT", b"\xef\xbb\xbfup\n")
    put(tmp_path / "z.txt", "caf\u00e9".encode("cp1252"))
    found = read(tmp_path, "folder")
    assert list(found) == [
        "a/Up.JPEG",
        "a/b/c.jpg",
        "a/lonely.GIF",
        "a-b.png",
        "z.bmp",
        "z.tif",
        "z.tiff",
    ]
    assert found["a/b/c.jpg"].captions == ("A dog.", "Two dogs?", "DE.utf8=kept")
    assert found["a/Up.JPEG"].captions == ("up",)
    assert found["z.tif"].captions == found["z.bmp"].captions == ("café",)
    assert found["a/lonely.GIF"].captions == () and found["a/lonely.GIF"].label is None
    assert found["a/b/c.jpg"].read() == picture()


def test_folder_of_classes(tmp_path: Path) -> None:
    put(tmp_path / "animals/polar_bear/1.jpg", picture())
    put(tmp_path / "animals/eagle/1.jpg", picture())
    put(tmp_path / "top.jpg", picture())
    put(tmp_path / "animals/._note.txt", "litter is no caption")
    found = read(tmp_path)
    assert found["animals/polar_bear/1.jpg"].label == "polar bear"
    assert found["animals/polar_bear/1.jpg"].captions[0] == "a photo of a polar bear"
    assert found["animals/eagle/1.jpg"].captions[0] == "a photo of an eagle"
    assert found["top.jpg"].captions == () and found["top.jpg"].label is None


def test_a_text_that_is_of_no_picture_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path / "dog/1.jpg", picture())
    put(tmp_path / "dog/README.txt", "not about a picture")
    put(tmp_path / "deep/down/notes.txt", "not about a picture either")
    assert read(tmp_path)["dog/1.jpg"].captions[0] == "a photo of a dog"
    assert left_out(tmp_path) == {
        "deep/down/notes.txt": ("unmatched caption", "no picture has its name")
    }


def test_litter_is_ignored(tmp_path: Path) -> None:
    put(tmp_path / "good.jpg", picture())
    for name in (
        "._good.jpg",
        "__MACOSX/good.jpg",
        "Thumbs.db",
        ".DS_Store",
        "x.mp4",
        ".git/a.png",
    ):
        put(tmp_path / name, b"litter")
    assert list(read(tmp_path)) == ["good.jpg"]


def test_links(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere/far.jpg", picture(9))
    folder = tmp_path / "pictures"
    put(folder / "here.jpg", picture())
    (folder / "near.jpg").symlink_to("here.jpg")
    (folder / "far.jpg").symlink_to(tmp_path / "elsewhere/far.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop").symlink_to(folder)
    (folder / "others").symlink_to(tmp_path / "elsewhere")
    found = read(folder)
    assert list(found) == ["dangling.jpg", "far.jpg", "here.jpg", "near.jpg"]
    assert found["far.jpg"].read() == picture(9)
    with pytest.raises(FileNotFoundError):
        found["dangling.jpg"].read()


def test_own_workspace_is_not_a_source(tmp_path: Path) -> None:
    put(tmp_path / "mine.jpg", picture())
    before = readers.fingerprint(tmp_path)
    put(tmp_path / "home/images/x/manifest.json", '{"format": 1, "kind": "images", "name": "x"}')
    put(tmp_path / "home/samples/drawn.png", picture(kind="PNG"))
    assert list(read(tmp_path)) == ["mine.jpg"]
    assert readers.fingerprint(tmp_path) == before
    put(tmp_path / "other.jpg", picture())
    assert readers.fingerprint(tmp_path) != before


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(Rejected):
        read(tmp_path)["pipe.jpg"].read()


def test_folder_without_pictures(tmp_path: Path) -> None:
    put(tmp_path / "notes.txt", "hello")
    with pytest.raises(BadInput, match="holds no pictures"):
        read(tmp_path)


def test_captions_are_cleaned() -> None:
    odd = ["  a\u00a0dog \n", "", "\t", "a dog", "e\u0301", "x\x00y\x07", "word " * 1000]
    cleaned = captions.clean(odd)
    assert cleaned[:3] == ("a dog", "é", "x y")
    assert len(cleaned) == 4 and len(cleaned[3]) <= 1000 and cleaned[3].endswith("word")


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("dog", "a dog"),
        ("hour glass", "an hour glass"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("dogs", "dogs"),
        ("bus", "a bus"),
        ("glass", "a glass"),
        ("apple pie", "an apple pie"),
        ("furniture", "furniture"),
        ("kitchenware", "kitchenware"),
        ("human hair", "human hair"),
        ("coffee table", "a coffee table"),
        ("cup of coffee", "a cup of coffee"),
        ("pair of shoes", "a pair of shoes"),
        ("pianos", "pianos"),
        ("pizzas", "pizzas"),
        ("women", "women"),
        ("cats and dogs", "cats and dogs"),
        ("camera lens", "a camera lens"),
        ("octopus", "an octopus"),
        ("iris", "an iris"),
        ("the beach", "the beach"),
        ("my cat", "my cat"),
        ("theatre", "a theatre"),
        ("2024-05", "2024-05"),
    ],
)
def test_articles(label: str, text: str) -> None:
    assert captions.from_labels([label], "1.jpg")[0] == f"a photo of {text}"


# ---------------------------------------------------------------- coco


def coco_captions(names: dict[int, str], texts: list[tuple[int, str]]) -> bytes:
    images = [{"id": i, "file_name": name, "width": 24, "height": 20} for i, name in names.items()]
    rows = [{"id": n, "image_id": i, "caption": text} for n, (i, text) in enumerate(texts)]
    return json.dumps({"info": {}, "licenses": [], "images": images, "annotations": rows}).encode()


def coco(folder: Path, parts: tuple[str, ...] = ("train2017", "val2017")) -> None:
    folder.mkdir(parents=True)
    train = {7: "000000000007.jpg", 9: "000000000009.jpg"}
    annotations = {
        "annotations/instances_train2017.json": b"{",
        "annotations/captions_train2017.json": coco_captions(
            train, [(9, "A small dog\non a sofa. "), (7, "A cat."), (9, "A dog."), (7, "")]
        ),
        "annotations/captions_val2017.json": coco_captions({8: "000000000008.jpg"}, [(8, "Val.")]),
    }
    zipped(folder / "annotations_trainval2017.zip", annotations)
    pictures = {
        "train2017": {
            "train2017/": b"",
            "train2017/000000000009.jpg": picture(9),
            "train2017/000000000007.jpg": picture(7),
            "__MACOSX/train2017/._000000000007.jpg": b"litter",
        },
        "val2017": {"val2017/000000000008.jpg": picture(8)},
        "unlabeled2017": {"unlabeled2017/000000000001.jpg": picture(1)},
    }
    for part in parts:
        zipped(folder / f"{part}.zip", pictures[part])


TOP = "fast-ai-coco"


def test_coco(tmp_path: Path) -> None:
    coco(tmp_path / "raw" / TOP, ("train2017", "val2017", "unlabeled2017"))
    zipped(tmp_path / "raw" / TOP / "test2017.zip", {"test2017/000000000002.jpg": picture(2)})
    with tarfile.open(tmp_path / "raw" / TOP / "coco_sample.tgz", "w:gz") as sample:
        sample.add(put(tmp_path / "again.jpg", picture(7)), "coco_sample/000000000007.jpg")
    found = read(tmp_path / "raw", "coco")
    assert list(found) == [
        f"{TOP}/train2017.zip/train2017/000000000007.jpg",
        f"{TOP}/train2017.zip/train2017/000000000009.jpg",
        f"{TOP}/unlabeled2017.zip/unlabeled2017/000000000001.jpg",
        f"{TOP}/val2017.zip/val2017/000000000008.jpg",
    ]
    train = found[f"{TOP}/train2017.zip/train2017/000000000009.jpg"]
    assert train.captions == ("A small dog on a sofa.", "A dog.") and train.split == "train"
    assert found[f"{TOP}/train2017.zip/train2017/000000000007.jpg"].captions == ("A cat.",)
    assert found[f"{TOP}/val2017.zip/val2017/000000000008.jpg"].captions == ("Val.",)
    assert found[f"{TOP}/val2017.zip/val2017/000000000008.jpg"].split == "holdout"
    assert found[f"{TOP}/unlabeled2017.zip/unlabeled2017/000000000001.jpg"].captions == ()
    assert train.read() == picture(9)


def test_coco_without_val(tmp_path: Path) -> None:
    coco(tmp_path / "raw", ("train2017",))
    assert len(read(tmp_path / "raw", "coco")) == 2


def test_damaged_coco(tmp_path: Path) -> None:
    coco(tmp_path / "raw")
    train = tmp_path / "raw/train2017.zip"
    whole = train.read_bytes()
    train.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"train2017\.zip cannot be read to its end"):
        read(tmp_path / "raw", "coco")
    annotations = tmp_path / "raw/annotations_trainval2017.zip"
    zipped(annotations, {"annotations/captions_train2017.json": b'{"images": ['})
    train.write_bytes(whole)
    with pytest.raises(BadInput, match=r"captions_train2017\.json in .* is damaged"):
        read(tmp_path / "raw", "coco")


# ---------------------------------------------------------------- scenes


def test_scenes_are_drawn_by_number() -> None:
    from dallebaby_cli.prep.readers import scenes

    records = scenes.read(seed=3, px=32)
    first, second = next(records.rows), next(records.rows)
    drawn = first.read()
    assert isinstance(drawn, readers.Drawn) and drawn.pixels.shape == (32, 32, 3)
    assert drawn.captions and first.file != second.file
    again = next(scenes.read(seed=3, px=32).rows).read()
    assert isinstance(again, readers.Drawn) and np.array_equal(drawn.pixels, again.pixels)
