"""What is said of pictures finds them: texts beside them under any spelling of their names, lists,
folders as classes; what finds none is counted and named."""

import json
import unicodedata
from pathlib import Path

import pytest
from conftest import Ran
from test_layouts import tarred
from test_prep import Cli, noise, rejects
from test_readers import coco_captions, left_out, picture, put, read, zipped

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import readers, sidecars
from dallebaby_cli.prep.readers import folder as folder_reader
from dallebaby_cli.store import captions
from dallebaby_cli.store.shards import Shards


def texts(folder: Path) -> dict[str, tuple[str, ...]]:
    return {file: record.captions for file, record in read(folder).items()}


# ---------------------------------------------------------------- archives in a folder


@pytest.mark.parametrize("archive", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.xz", "x.tbz2"])
def test_pictures_in_an_archive_of_any_kind(tmp_path: Path, archive: str) -> None:
    members = {"cats/tabby/0.png": noise(0), "cats/siamese/0.png": noise(1)}
    if archive.endswith(".zip"):
        zipped(tmp_path / archive, members)
    else:
        kinds = {"tar": "w", "gz": "w:gz", "tgz": "w:gz", "xz": "w:xz", "tbz2": "w:bz2"}
        tarred(tmp_path / archive, members, kinds[archive.rpartition(".")[2]])
    put(tmp_path / "dogs/poodle/1.png", noise(2))
    there = read(tmp_path, "folder" if archive != "x.tar" else None)
    assert {file: (record.label, record.read()) for file, record in there.items()} == {
        "dogs/poodle/1.png": ("poodle", noise(2)),
        f"{archive}/cats/tabby/0.png": ("tabby", noise(0)),
        f"{archive}/cats/siamese/0.png": ("siamese", noise(1)),
    }


@pytest.mark.parametrize(("archive", "mode"), [("s-0.tar", "w"), ("s-0.tar.gz", "w:gz")])
def test_shards_beside_a_picture(tmp_path: Path, archive: str, mode: str) -> None:
    shard = {"000.png": noise(0), "000.txt": b"zero", "001.txt": b"one", "001.png": noise(1)}
    tarred(tmp_path / archive, shard, mode)
    put(tmp_path / "thumbnail.png", noise(2))
    assert texts(tmp_path) == {
        f"{archive}/000.png": ("zero",),
        f"{archive}/001.png": ("one",),
        "thumbnail.png": (),
    }


def test_a_fetched_zip_of_pictures_can_be_prepared(tmp_path: Path, cli: Cli) -> None:
    zipped(tmp_path / "in/x.zip", {"a.png": noise(0), "a.txt": b"zero", "deep/b.png": noise(1)})
    ran: Ran = cli("prep", tmp_path / "in", "--home", tmp_path / "home", "--px", 16)
    assert ran.code == 0, ran.err
    assert "captions from files beside pictures or lists of them, for 1 of 2" in ran.err
    shards = Shards(tmp_path / "home/images/in")
    assert sorted(map(shards.captions, range(2))) == [[], ["zero"]]


# ---------------------------------------------------------------- names


def test_names_spelt_in_other_ways(tmp_path: Path) -> None:
    composed, split = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    told = {
        f"{composed}.png": (f"{split}.txt", "a coffee cup"),
        "IMG_1.JPG": ("img_1.txt", "in other letters"),
        "a.png": ("a.png.txt", "with both endings"),
        "b.png": ("b.caption", "a caption"),
        "c.webp": ("c.json", '"in JSON"'),
        "d.v1.png": ("d.v1.txt", "a key with a dot"),
        "e.left.png": ("e.txt", "up to the first dot"),
        "f.image.png": ("f.caption.txt", "each with a part of its own"),
        "photo": ("photo.txt", "no ending"),
    }
    for number, (name, (text, content)) in enumerate(told.items()):
        put(tmp_path / name, noise(number))
        put(tmp_path / text, in_json(text, content))
    wanted = {name: (content.strip('"'),) for name, (_, content) in told.items()}
    assert texts(tmp_path) == wanted
    assert left_out(tmp_path) == {}
    packed = {name: noise(number) for number, name in enumerate(told)}
    packed |= {text: in_json(text, content).encode() for text, content in told.values()}
    tarred(tmp_path / "tar/x.tgz", packed)
    zipped(tmp_path / "zip/x.zip", packed)
    for folder, archive in (("tar", "x.tgz"), ("zip", "x.zip")):
        assert texts(tmp_path / folder) == {f"{archive}/{n}": told for n, told in wanted.items()}


def in_json(name: str, content: str) -> str:
    return f'{{"caption": {content}}}' if name.endswith(".json") else content


def test_doubtful_names_are_told_and_not_guessed(tmp_path: Path) -> None:
    for number, name in enumerate(("A.png", "a.png", "B.png", "b.png", "1.5.png", "1.6.png")):
        put(tmp_path / name, noise(number))
    for name in ("A.txt", "a.txt", "B.TXT", "1.5.txt", "1.7.txt"):
        put(tmp_path / name, f"of {name[:-4]}")
    assert texts(tmp_path) == {
        "A.png": ("of A",),
        "a.png": ("of a",),
        "B.png": ("of B",),
        "b.png": (),
        "1.5.png": ("of 1.5",),
        "1.6.png": (),
    }
    assert left_out(tmp_path) == {"1.7.txt": ("unmatched caption", "no picture has its name")}
    put(tmp_path / "x/C.png", noise(7))
    put(tmp_path / "x/c.png", noise(8))
    put(tmp_path / "x/c.PNG.txt", "of which?")
    assert left_out(tmp_path / "x") == {
        "c.PNG.txt": ("unmatched caption", "no picture has its name")
    }


def test_many_files_that_begin_alike(tmp_path: Path) -> None:
    frames = [f"frame.{number:03}" for number in range(90)]
    members = {f"{frame}.png": noise(number) for number, frame in enumerate(frames)}
    members |= {f"{frame}.txt": frame.encode() for frame in frames}
    tarred(tmp_path / "x.tar.gz", dict(sorted(members.items())))
    assert texts(tmp_path) == {f"x.tar.gz/{frame}.png": (frame,) for frame in frames}


def test_files_far_from_their_pictures_are_not_looked_for_among_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 100
    for number in range(count):
        put(tmp_path / f"V1.5_{number:03}.png", noise(number))
        put(tmp_path / f"v1.5_{number:03}.txt", str(number))
    compared, owned = [0], sidecars.owned

    def counted(pictures: list[str], beside: list[str]) -> list[list[int]]:
        compared[0] += len(pictures) * len(beside)
        return owned(pictures, beside)

    monkeypatch.setattr(sidecars, "owned", counted)
    found = texts(tmp_path)
    assert found == {f"V1.5_{number:03}.png": (str(number),) for number in range(count)}
    assert compared[0] <= 2 * count * sidecars.MOST


def test_texts_of_no_picture_in_a_compressed_tar_do_not_fill_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"A.txt": b"apart", "B.txt": bytes(999), "C.txt": b"too late"}
    tarred(tmp_path / "0.tgz", members | {f"{x}.png": noise(ord(x)) for x in "abc"}, "w:gz")
    assert texts(tmp_path)["0.tgz/c.png"] == ("too late",)
    monkeypatch.setattr(folder_reader, "MOST_HELD", 1000)
    found = texts(tmp_path)
    assert [found[f"0.tgz/{x}.png"] for x in "abc"] == [("apart",), (), ()]
    assert {"0.tgz/B.txt", "0.tgz/C.txt"} <= {*left_out(tmp_path)}


def test_what_two_files_say_of_a_picture(tmp_path: Path) -> None:
    put(tmp_path / "a.png", noise(0))
    put(tmp_path / "a.json", json.dumps({"caption": "a dog", "label": "dog"}))
    put(tmp_path / "a.png.json", json.dumps({"caption": "it runs"}))
    assert texts(tmp_path) == {"a.png": ("a dog", "it runs")}


@pytest.mark.parametrize("label", [-1, True, "-1", "1.5"])
def test_labels_that_are_no_words_make_no_captions(tmp_path: Path, label: object) -> None:
    put(tmp_path / "a.png", noise(0))
    put(tmp_path / "a.json", json.dumps({"label": label}))
    assert texts(tmp_path) == {"a.png": ()}


def test_boxes_are_no_captions(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"dog/{number}.png", noise(number))
        put(tmp_path / f"dog/{number}.txt", "0 0.51 0.43 0.2 0.3\n1 .5 1e-3 0.2 0.3\n")
    assert texts(tmp_path)["dog/0.png"][0] == "a photo of a dog"
    assert left_out(tmp_path)["dog/2.txt"] == (
        "odd caption",
        "'0 0.51 0.43 0.2 0.3' is no caption",
    )


# ---------------------------------------------------------------- lists


def huggingface(folder: Path, kind: str) -> None:
    for side in ("train", "test"):
        rows = []
        for number in range(3):
            name = f"{number:04}.png"
            put(folder / side / name, noise(number + 3 * (side == "train")))
            rows.append({"file_name": name, "text": f"{side} {number}"})
        if kind == "jsonl":
            content = "".join(json.dumps(row) + "\n" for row in rows)
        else:
            content = "file_name,text\r\n" + "".join(
                f'{r["file_name"]},"{r["text"]}"\r\n' for r in rows
            )
        put(folder / side / f"metadata.{kind}", content)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_lists_of_hugging_face(tmp_path: Path, kind: str) -> None:
    huggingface(tmp_path, kind)
    assert texts(tmp_path) == {
        f"{side}/{number:04}.png": (f"{side} {number}",)
        for side in ("test", "train")
        for number in range(3)
    }


def test_lists_name_pictures_elsewhere_and_in_other_ways(tmp_path: Path) -> None:
    rows = [
        {"file_name": "images/a.png", "text": "by its path"},
        {"file_name": r".\images\B.PNG", "caption": "by one with backslashes, in capitals"},
        {"file_name": "c.png", "captions": ["by its name", "alone"]},
        {"file_name": "d.png", "text": "of one of two"},
        {"file_name": "gone.png", "text": "of none"},
        {"file_name": "e.png", "text": 5},
        {"text": "of what?"},
        "no row",
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    put(tmp_path / "metadata.jsonl", content + "{\n")
    for number, name in enumerate(
        ("images/a.png", "images/b.png", "deep/c.png", "x/d.png", "y/d.png")
    ):
        put(tmp_path / name, noise(number))
    assert texts(tmp_path) == {
        "images/a.png": ("by its path",),
        "images/b.png": ("by one with backslashes, in capitals",),
        "deep/c.png": ("by its name", "alone"),
        "x/d.png": (),
        "y/d.png": (),
    }
    put(tmp_path / "deep/metadata.parquet", b"PAR1")
    assert left_out(tmp_path)["deep/metadata.parquet"][0] == "odd caption"
    rest = [row for row in readers.read("folder", tmp_path).rows if row.file == "metadata.jsonl"]
    details = [row.read.args for row in rest]  # type: ignore[union-attr]
    assert details == [
        (
            "odd caption",
            "row 6: `text` is or holds a number, not a text and 3 others cannot be read",
        ),
        (
            "unmatched caption",
            "3 of its 6 rows are of no picture that is here, or of several; the first is of d.png",
        ),
    ]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_lists_with_a_row_for_each_caption(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "a.png", noise(0))
    rows = [("a.png", "a dog"), ("A.png", ""), ("a.png", "it runs"), ("a.png", "a dog")]
    if kind == "jsonl":
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
    else:
        lines = ["file_name,text", *(f"{name},{text}" for name, text in rows)]
    put(tmp_path / f"metadata.{kind}", "\n".join(lines))
    assert texts(tmp_path) == {"a.png": ("a dog", "it runs")}


def test_texts_with_commas_and_no_quotes_are_not_cut(tmp_path: Path) -> None:
    put(tmp_path / "a.png", noise(0))
    put(tmp_path / "b.png", noise(1))
    put(tmp_path / "metadata.csv", "file_name,text\na.png,a dog, running\nb.png,a cat, ,\n")
    assert texts(tmp_path) == {"a.png": (), "b.png": ("a cat",)}
    assert left_out(tmp_path) == {"metadata.csv": ("odd caption", "row 1 cannot be read")}


@pytest.mark.parametrize("quoted", ["a dog", "a dog,\nwhich runs", 'a "dog"'])
def test_a_quote_that_nothing_closes_swallows_no_rows(tmp_path: Path, quoted: str) -> None:
    for number, name in enumerate("abc"):
        put(tmp_path / f"{name}.png", noise(number))
    cell = quoted.replace('"', '""')
    rows = f'image,caption\na.png,"{cell}"\nb.png,"never closed\nc.png,a cat\n'
    put(tmp_path / "captions.csv", rows)
    texts_of_a = (" ".join(quoted.split()),)
    assert texts(tmp_path) == {"a.png": texts_of_a, "b.png": (), "c.png": ("a cat",)}
    assert left_out(tmp_path) == {"captions.csv": ("odd caption", "row 2 cannot be read")}


@pytest.mark.parametrize("name", ["captions.txt", "captions.csv", "captions.jsonl"])
def test_lists_are_called_captions_too(tmp_path: Path, name: str) -> None:
    put(tmp_path / "images" / "a.jpg", noise(0))
    row = json.dumps({"image": "images/a.jpg", "caption": "a dog"})
    put(tmp_path / name, row if name.endswith("l") else "image,caption\nimages/a.jpg,a dog\n")
    assert texts(tmp_path) == {"images/a.jpg": ("a dog",)}


def test_one_damaged_line_spoils_no_other(tmp_path: Path) -> None:
    put(tmp_path / "a.png", noise(0))
    put(tmp_path / "b.png", noise(1))
    lines = '{"file_name": "a.png", "text": "café 猫"}\n'.encode()
    lines += b'{"file_name": "b.png", "text": "caf\xe9"}\n'
    put(tmp_path / "metadata.jsonl", lines)
    assert texts(tmp_path) == {"a.png": ("café 猫",), "b.png": ("café",)}


# ---------------------------------------------------------------- shapes of JSON


@pytest.mark.parametrize(
    ("value", "good", "odd"),
    [
        ("a dog", ["a dog"], []),
        (["a dog", "a cat"], ["a dog", "a cat"], []),
        ({"en": "a dog", "de": "ein Hund"}, ["a dog"], []),
        ({"fr": "un chien", "de": ["ein Hund"]}, ["un chien", "ein Hund"], []),
        (None, [], []),
        ([None, "a dog", 5, {"en": "a cat"}], ["a dog", "a cat"], ["a number"]),
        (5, [], ["a number"]),
        (True, [], ["true or false"]),
        ([[["a dog"]]], [], ["a list"]),
        ({"en": {"deep": {"x": "y"}}}, [], ["an object"]),
        ([{"caption": "a dog", "url": "https://example.org", "id": 3}], ["a dog"], []),
        ({"author": "Bob", "address": "https://example.org"}, [], ["an object"]),
        ({"pt-BR": "um gato", "id": "kucing"}, ["um gato", "kucing"], []),
        ({"english": "a dog", "german": "ein Hund"}, ["a dog"], []),
    ],
)
def test_the_gate_of_captions(value: object, good: list[str], odd: list[str]) -> None:
    assert captions.given(value) == (good, odd)


@pytest.mark.parametrize("name", ["captions", "caption", "text"])
def test_a_text_is_a_caption_and_no_list_of_letters(tmp_path: Path, name: str) -> None:
    members = {"a.png": noise(1), "a.json": json.dumps({name: "a dog"}).encode()}
    members |= {"b.png": noise(2), "b.json": json.dumps({name: ["a cat", "one"]}).encode()}
    members |= {"c.png": noise(3), "c.json": json.dumps({name: 7}).encode()}
    members |= {"d.png": noise(4), "d.json": b'{"caption": "half \\ud83d"}'}
    tarred(tmp_path / "0.tar", members, "w")
    found = texts(tmp_path)
    assert [*found.values()] == [("a dog",), ("a cat", "one"), (), ("half",)]
    why = f"`{name}` is or holds a number, not a text"
    assert left_out(tmp_path) == {"0.tar/c.json": ("odd caption", why)}


def test_odd_captions_in_coco(tmp_path: Path, cli: Cli) -> None:
    rows: list = [(1, "a dog"), (2, None), (1, ["one", "more"]), (2, 5)]
    names = {1: "train2017/1.jpg", 2: "sub\\2.jpg"}
    annotations = {"annotations/captions_train2017.json": coco_captions(names, rows)}
    zipped(tmp_path / "in/annotations_trainval2017.zip", annotations)
    pictures = {"train2017\\1.jpg": picture(1), "train2017\\2.jpg": picture(200)}
    zipped(tmp_path / "in/train2017.zip", pictures)
    assert [*texts(tmp_path / "in").values()] == [("a dog", "one", "more"), ()]
    assert cli("prep", tmp_path / "in", "--home", tmp_path / "home", "--px", 16).code == 0
    assert rejects(tmp_path / "home/images/in") == {"captions_train2017.json": "odd caption"}


@pytest.mark.parametrize(
    "content", [b"[]", b'{"images": [1], "annotations": []}', b"[" * 5000, b"9" * 5000]
)
def test_annotations_of_coco_that_make_no_sense(tmp_path: Path, content: bytes) -> None:
    zipped(tmp_path / "annotations_trainval2017.zip", {"captions_train2017.json": content})
    zipped(tmp_path / "train2017.zip", {"train2017/1.jpg": picture(1)})
    with pytest.raises(BadInput, match=r"captions_train2017\.json in .* is damaged"):
        read(tmp_path)


# ---------------------------------------------------------------- folders as classes


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["train/dog", "train/cat", "test/dog"], ["dog", "cat", "dog"]),
        (["train", "test", "val2017"], [None, None, None]),
        (["data/images", "data/images-2"], [None, None]),
        (["train", "plane", "car"], ["train", "plane", "car"]),
        (["dog/images", "cat/images"], ["dog", "cat"]),
        (["my-set/train", "my-set/test"], [None, None]),
        (["00000", "00001"], [None, None]),
        (["0", "7"], ["0", "7"]),
        (["2021/2021-05", "2021/2021-06"], [None, None]),
        (["001.Black_footed_Albatross", "002.Laysan_Albatross"],
         ["Black footed Albatross", "Laysan Albatross"]),
        (["n01443537", "n99999999"], ["goldfish", "n99999999"]),
    ],
)  # fmt: skip
def test_which_folders_are_classes(
    tmp_path: Path, folders: list[str], labels: list[str | None]
) -> None:
    put(tmp_path / "words.txt", "n01443537\tgoldfish, Carassius auratus\nn00001740\tentity\n")
    for number, folder in enumerate(folders):
        put(tmp_path / folder / "1.png", noise(number))
    there = read(tmp_path)
    assert [there[f"{folder}/1.png"].label for folder in folders] == labels
    for record in there.values():
        in_words = record.label is not None and record.label != "n99999999"
        assert bool(record.captions) == in_words


def test_tiny_imagenet(tmp_path: Path) -> None:
    top, fish, koala = tmp_path / "tiny-imagenet-200", "n01443537", "n01882714"
    words = f"n00001740\tentity\n{fish}\tgoldfish, Carassius auratus\n{koala}\tkoala, koala bear\n"
    put(top / "words.txt", words)
    put(top / "wnids.txt", f"{fish}\n{koala}\n")
    for number, wnid in enumerate((fish, koala)):
        put(top / f"train/{wnid}/images/{wnid}_0.JPEG", noise(number, kind="JPEG"))
        put(top / f"train/{wnid}/{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
        put(top / f"val/images/val_{number}.JPEG", noise(9 + number, kind="JPEG"))
    put(
        top / "val/val_annotations.txt",
        f"val_0.JPEG\t{koala}\t0\t32\t44\t62\nval_1.JPEG\t{fish}\t1\t2\t3\t4\n",
    )
    there = read(tmp_path)
    assert {Path(file).name: record.label for file, record in there.items()} == {
        f"{fish}_0.JPEG": "goldfish",
        f"{koala}_0.JPEG": "koala",
        "val_0.JPEG": "koala",
        "val_1.JPEG": "goldfish",
    }
    assert {record.captions[0] for record in there.values()} == {
        "a photo of a goldfish",
        "a photo of a koala",
    }
    assert left_out(tmp_path) == {}


# ---------------------------------------------------------------- what is decided


def test_what_most_pictures_have_decides_and_a_setting_overrules(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "in"
    for number, name in enumerate(("dog/0", "dog/1", "cat/2", "cat/3")):
        put(folder / f"{name}.png", noise(number))
    put(folder / "dog/0.txt", "my dog")

    def first(*settings: str) -> list[str]:
        home = tmp_path / "home" / "-".join(settings or ["auto"])
        ran: Ran = cli(
            "prep", folder, "--home", home, "--px", 16, *(f for s in settings for f in ("--set", s))
        )
        assert ran.code == 0, ran.err
        said.append(next(line for line in ran.err.splitlines() if "captions from" in line))
        shards = Shards(home / "images/in")
        return sorted((shards.captions(row) or [""])[0] for row in range(4))

    said: list[str] = []
    cats = ["a photo of a cat"] * 2
    assert first() == [*cats, "a photo of a dog", "my dog"], "less than half have any"
    assert said[-1].startswith(
        "prep: captions from files beside pictures or lists of them, for 1 of 4 and the names of 2 "
        "folders as classes (cat, dog) (--set captions_from="
    )
    assert first("captions_from=files") == ["", "", "", "my dog"]
    assert first("captions_from=folders") == [*cats, *["a photo of a dog"] * 2]
    put(folder / "dog/1.txt", "her dog")
    assert first() == ["", "", "her dog", "my dog"], "half of them have some"
    assert "for 2 of 4 (--set" in said[-1]
    assert first("captions_from=both") == [*cats, "her dog", "my dog"]
