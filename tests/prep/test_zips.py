"""Zips of all makers: names with backslashes or in UTF-8 that nobody says is, files that are
encrypted, packed by methods that we lack, under one name, or laid over each other."""

import json
import zipfile
from pathlib import Path

import pytest
from conftest import Ran
from test_prep import Cli, noise, rejects
from test_readers import left_out, picture, put, read, zipped
from test_tars import found

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives

LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
FLAGS, METHOD = {LOCAL: 6, CENTRAL: 8}, {LOCAL: 8, CENTRAL: 10}


def patched(path: Path, places: dict[bytes, int], number: int, value: int) -> None:
    """Write `value` into one of the 16-bit fields in both headers of the file of that number."""
    content = bytearray(path.read_bytes())
    for start, offset in places.items():
        at = -1
        for _ in range(number + 1):
            at = content.index(start, at + 1)
        content[at + offset : at + offset + 2] = value.to_bytes(2, "little")
    path.write_bytes(bytes(content))


def three(path: Path) -> None:
    zipped(path, {f"{number}.png": noise(number) for number in range(3)})


@pytest.mark.parametrize(
    ("places", "value", "why"),
    [
        (FLAGS, 1, "it is encrypted; unpack the archive with its password and prepare the folder"),
        (METHOD, 9, "it is packed with Deflate64; unpack the archive and prepare the folder"),
        (METHOD, 77, "it is packed with method 77; unpack the archive and prepare the folder"),
    ],
)
def test_files_that_cannot_be_unpacked_are_named(
    tmp_path: Path, cli: Cli, places: dict[bytes, int], value: int, why: str
) -> None:
    three(tmp_path / "in/x.zip")
    patched(tmp_path / "in/x.zip", places, 1, value)
    ran: Ran = cli("prep", tmp_path / "in", "--home", tmp_path / "home", "--px", 16)
    assert ran.code == 0 and "2 pictures" in ran.out, ran.err
    assert found(tmp_path / "in")["x.zip/1.png"] == ("unreadable", why)
    rows = (tmp_path / "home/images/in/rejects.jsonl").read_text(encoding="utf-8").splitlines()
    expected = {"file": "x.zip/1.png", "reason": "unreadable", "detail": why}
    assert [json.loads(row) for row in rows] == [expected]


def test_annotations_that_are_encrypted(tmp_path: Path, cli: Cli) -> None:
    zipped(tmp_path / "in/train2017.zip", {"train2017/1.jpg": picture()})
    zipped(tmp_path / "in/annotations_trainval2017.zip", {"captions_train2017.json": b"{}"})
    patched(tmp_path / "in/annotations_trainval2017.zip", FLAGS, 0, 1)
    ran: Ran = cli("prep", tmp_path / "in", "--home", tmp_path / "home")
    assert ran.code == 1 and ran.err.splitlines()[-1] == (
        "error: annotations_trainval2017.zip/captions_train2017.json cannot be read: it is "
        "encrypted; unpack the archive with its password and prepare the folder"
    )


def test_names_with_backslashes(tmp_path: Path) -> None:
    zipped(tmp_path / "x.zip", {r"cats\tabby\1.png": noise(1), r"cats\siamese\1.png": noise(2)})
    there = read(tmp_path)
    assert there["x.zip/cats/tabby/1.png"].captions[0] == "a photo of a tabby"
    assert there["x.zip/cats/siamese/1.png"].read() == noise(2)


def test_names_in_utf8_without_its_flag(tmp_path: Path) -> None:
    raw = "caf\u00e9".encode().decode("cp437")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(f"{raw}/1.png", noise(1))
    content = (tmp_path / "x.zip").read_bytes()
    stored = content.replace(f"{raw}/1.png".encode(), "caf\u00e9/1.png".encode().ljust(0))
    assert stored != content and len(raw.encode()) != len("caf\u00e9".encode())
    name = "caf\u00e9/1.png".encode()  # written anew, with the same length, for the flag
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x" * len(name), noise(1))
    put(tmp_path / "x.zip", (tmp_path / "x.zip").read_bytes().replace(b"x" * len(name), name))
    assert read(tmp_path)["x.zip/caf\u00e9/1.png"].label == "caf\u00e9"


def test_two_files_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive, pytest.warns(UserWarning):
        archive.writestr("a.png", noise(1))
        archive.writestr("a.png", noise(2))
    there = [member.reader()() for member in archives.members(tmp_path)]
    assert there == [noise(1), noise(2)]


def test_files_laid_over_each_other_are_not_unpacked(tmp_path: Path) -> None:
    three(tmp_path / "x.zip")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    first, second = content.index(CENTRAL), content.index(CENTRAL, content.index(CENTRAL) + 1)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]  # where it begins
    put(tmp_path / "x.zip", bytes(content))
    there = found(tmp_path)
    why = "it shares its bytes with another file of the archive, as bombs do"
    assert there["x.zip/0.png"] == there["x.zip/1.png"] == ("unreadable", why)
    assert there["x.zip/2.png"] == noise(2)


def test_archives_that_are_not_looked_into_are_named(tmp_path: Path) -> None:
    put(tmp_path / "a.png", noise(1))
    put(tmp_path / "more.7z", b"7z\xbc\xaf\x27\x1c")
    zipped(tmp_path / "outer.zip", {"b.png": noise(2), "inner.zip": b"PK"})
    (tmp_path / "gone.zip").symlink_to("nowhere")
    there = found(tmp_path)
    not_read = ("unreadable", "it is an archive that is not looked into; unpack it into the folder")
    assert there.pop("more.7z") == there.pop("outer.zip/inner.zip") == not_read
    assert there.pop("gone.zip") == ("unreadable", "it is no file, or a link that leads nowhere")
    assert there == {"a.png": noise(1), "outer.zip/b.png": noise(2)}


def test_what_calls_itself_a_zip(tmp_path: Path) -> None:
    put(tmp_path / "a.png", noise(1))
    put(tmp_path / "page.zip", b"<html>404</html>")
    with pytest.raises(BadInput, match=r"page\.zip cannot be read to its end .*; remove it and"):
        read(tmp_path)


def test_texts_that_no_caption_can_be(tmp_path: Path, cli: Cli) -> None:
    """They neither fill memory nor go unnoticed, and their pictures stay."""
    zipped(tmp_path / "in/x.zip", {"a.png": noise(1), "a.txt": b"\0" * 2_000_000})
    assert left_out(tmp_path / "in") == {
        "x.zip/a.txt": ("odd caption", "2,000,000 bytes; the limit is 1,000,000")
    }
    ran: Ran = cli("prep", tmp_path / "in", "--home", tmp_path / "home", "--px", 16)
    assert ran.code == 0 and "1 pictures with 0 captions" in ran.out
    assert rejects(tmp_path / "home/images/in") == {"x.zip/a.txt": "odd caption"}
