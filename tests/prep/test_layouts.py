"""Every dataset of the catalogue, from a tiny archive in its true layout, with its known traps."""

import csv
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from test_prep import noise, rejects
from test_readers import left_out, picture, put, read, zipped

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives, images, readers
from dallebaby_cli.prep import member as prep_member
from dallebaby_cli.prep.images import Rejected
from dallebaby_cli.prep.member import Member
from dallebaby_cli.progress import ignore
from dallebaby_cli.stages.prep import prep
from dallebaby_cli.store.shards import Shards


def tarred(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            tar.addfile(info, io.BytesIO(content))


def table(*rows: tuple[object, ...]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def ends(found: dict[str, readers.Record], end: str) -> readers.Record:
    (record,) = (record for file, record in found.items() if file.endswith(end))
    return record


def test_visual_genome(tmp_path: Path) -> None:
    regions = [
        {
            "id": 7,
            "regions": [{"image_id": 7, "phrase": p} for p in (" red  ball", "red ball", "")],
        },
        {"image_id": 8, "id": 99, "regions": [{"phrase": "a dog"}]},
    ]
    cut = noise(3, kind="JPEG")[:700]  # as 1592, 1722, 4616 and 4617 are
    content = {"VG_100K/7.jpg": noise(7), "VG_100K/1.jpg": noise(1), "VG_100K/1592.jpg": cut}
    zipped(tmp_path / "images.zip", content)
    zipped(tmp_path / "images2.zip", {"VG_100K_2/8.jpg": noise(8), "VG_100K_2/9.jpg": b""})
    zipped(
        tmp_path / "region_descriptions.json.zip",
        {"region_descriptions.json": json.dumps(regions).encode()},
    )
    found = read(tmp_path, "visual-genome")
    assert next(iter(found)) == "images.zip/VG_100K/1.jpg" and len(found) == 5
    assert ends(found, "/7.jpg").captions == ("red ball",)
    assert ends(found, "/8.jpg").captions == ("a dog",)
    assert ends(found, "/1.jpg").captions == ()
    made = prep(tmp_path / "home", str(tmp_path), PrepConfig(image_px=16), report=ignore)
    assert made.manifest.counts["accepted"] == 3
    bad = {"images2.zip/VG_100K_2/9.jpg": "empty", "images.zip/VG_100K/1592.jpg": "truncated"}
    assert rejects(made.folder) == bad


def test_visual_genome_keeps_to_cocos_split(tmp_path: Path) -> None:
    pictures = {f"VG_100K/{number}.jpg": noise(number) for number in (1, 2, 3, 4)}
    zipped(tmp_path / "images.zip", pictures)
    packed(tmp_path / "region_descriptions.json.zip", [])
    cocos = {1: 139, 2: 9, 3: None}
    about = [{"image_id": n, "coco_id": same, "flickr_id": None} for n, same in cocos.items()]
    packed(tmp_path / "image_data.json.zip", about)
    assert {r.split for r in read(tmp_path, "visual-genome").values()} == {None}
    val = {"images": [{"id": 139, "file_name": "000000000139.jpg"}], "annotations": []}
    packed(tmp_path / "annotations_trainval2017.zip", val, "annotations/captions_val2017.json")
    found = read(tmp_path, "visual-genome")
    sides = [ends(found, f"/{number}.jpg").split for number in (1, 2, 3, 4)]
    assert sides == ["holdout", "train", None, None]
    packed(tmp_path / "image_data.json.zip", [{"id": 1}])
    with pytest.raises(BadInput, match="image_data.json or captions_val2017.json .* is damaged"):
        read_as("visual-genome", tmp_path)


def packed(path: Path, content: object, name: str = "") -> None:
    zipped(path, {name or path.stem: json.dumps(content).encode()})


def test_visual_genome_without_or_with_damaged_regions(tmp_path: Path) -> None:
    zipped(tmp_path / "images.zip", {"VG_100K/7.jpg": picture()})
    with pytest.raises(BadInput, match="lacks region_descriptions"):
        read_as("visual-genome", tmp_path)
    for content in ('[{"id": 7, "regions": [{"phr', '[{"id": ' + "9" * 5000 + "}]", "[" * 5000):
        put(tmp_path / "region_descriptions.json", content)
        with pytest.raises(BadInput, match=r"region_descriptions\.json is damaged"):
            read_as("visual-genome", tmp_path)


def read_as(layout: str, folder: Path) -> list[readers.Record]:
    return list(readers.read(layout, folder).rows)


RESULTS = """image_name| comment_number| comment
1234.jpg| 0| Two  children run , "fast" .
1234.jpg| 1| None
2199200615.jpg| 3| Two dogs .
2199200615.jpg| 4   A dog runs across the grass .
5.jpg| 0|
"""


@pytest.mark.parametrize("unpacked", [False, True])
def test_flickr30k(tmp_path: Path, unpacked: bool) -> None:
    top = "flickr30k_images/flickr30k_images"
    members = {
        "flickr30k_images/results.csv": RESULTS.encode(),
        f"{top}/results.csv": RESULTS.encode(),
    }
    for name in ("1234.jpg", "2199200615.jpg", "5.jpg"):
        members[f"{top}/{name}"] = members[f"{top}/flickr30k_images/{name}"] = noise(len(name))
    raw = tmp_path / "raw"
    raw.mkdir()
    if unpacked:
        for name, content in members.items():
            put(raw / name, content)
    else:
        zipped(raw / "flickr-image-dataset.zip", members)
    found = read(raw, "flickr30k")
    assert len(found) == 6
    one = ends(found, f"{top}/flickr30k_images/1234.jpg")
    assert one.captions == ('Two children run , "fast" .', "None")
    two = ends(found, f"{top}/flickr30k_images/2199200615.jpg")
    assert two.captions == ("Two dogs .", "A dog runs across the grass .")
    made = prep(tmp_path / "home", str(raw), PrepConfig(image_px=16), report=ignore)
    assert made.manifest.counts["accepted"] == 3 and made.manifest.counts["duplicates"] == 3


STL_CLASSES = b"airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n"


def stl_picture(seed: int) -> tuple[np.ndarray, bytes]:
    pixels = np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return pixels, pixels.transpose(2, 1, 0).tobytes()


def test_stl10(tmp_path: Path) -> None:
    pixels = [stl_picture(seed)[0] for seed in range(5)]
    stored = [stl_picture(seed)[1] for seed in range(5)]
    members = {
        "stl10_binary/": b"",
        "stl10_binary/test_X.bin": stored[0],
        "stl10_binary/test_y.bin": bytes([1]),
        "stl10_binary/train_X.bin": stored[1] + stored[2],
        "stl10_binary/train_y.bin": bytes([10, 2]),
        "stl10_binary/unlabeled_X.bin": stored[3] + stored[4],
        "stl10_binary/class_names.txt": STL_CLASSES,
        "stl10_binary/fold_indices.txt": b"4999 0\n",
    }
    tarred(tmp_path / "stl10_binary.tar.gz", members)
    found = list(read(tmp_path, "stl10").values())
    assert [r.label for r in found] == ["airplane", "truck", "bird", None, None]
    assert [r.split for r in found] == ["holdout"] + ["train"] * 4
    assert found[0].captions[0] == "a photo of an airplane" and found[3].captions == ()
    for record, expected in zip(found, pixels, strict=True):
        assert np.array_equal(record.read(), expected)  # type: ignore[arg-type]
    members["stl10_binary/train_y.bin"] = bytes([0, 2])
    tarred(tmp_path / "stl10_binary.tar.gz", members)
    with pytest.raises(BadInput, match="does not fit its labels"):
        read_as("stl10", tmp_path)


def cifar_row(seed: int, *labels: int) -> tuple[np.ndarray, bytes]:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return pixels, bytes(labels) + pixels.transpose(2, 0, 1).tobytes()


def test_cifar10(tmp_path: Path) -> None:
    (first, row), (_, other) = cifar_row(1, 0), cifar_row(2, 9)
    members = {
        "cifar-10-batches-bin/data_batch_1.bin": row + other,
        "cifar-10-batches-bin/batches.meta.txt": b"airplane\ntruck2\n" + b"x\n" * 7 + b"truck\n\n",
        "cifar-10-batches-bin/readme.html": b"<html>",
        "cifar-10-batches-bin/test_batch.bin": other,
    }
    tarred(tmp_path / "cifar-10-binary.tar.gz", members)
    found = list(read(tmp_path, "cifar10").values())
    assert [r.label for r in found] == ["airplane", "truck", "truck"]
    assert [r.split for r in found] == ["train", "train", "holdout"]
    assert np.array_equal(found[0].read(), first)  # type: ignore[arg-type]
    whole = gzip.decompress((tmp_path / "cifar-10-binary.tar.gz").read_bytes()).rstrip(b"\0")
    put(tmp_path / "cifar-10-binary.tar.gz", gzip.compress(whole + bytes(-len(whole) % 512)))
    with pytest.raises(Rejected, match="no end mark"):
        read(tmp_path, "cifar10")["cifar-10-binary.tar.gz"].read()
    tarred(tmp_path / "cifar-10-binary.tar.gz", members | {"cifar-10-batches-bin/x.bin": row[:-1]})
    with pytest.raises(BadInput, match="cut off"):
        read_as("cifar10", tmp_path)


def test_cifar100(tmp_path: Path) -> None:
    pixels, row = cifar_row(1, 1, 2)
    members = {
        "cifar-100-binary/train.bin": row,
        "cifar-100-binary/test.bin": row,
        "cifar-100-binary/coarse_label_names.txt": b"fish\nvehicles_1\n",
        "cifar-100-binary/fine_label_names.txt": b"apple\nbear\npickup_truck\n",
    }
    tarred(tmp_path / "cifar-100-binary.tar.gz", members)
    train, test = read(tmp_path, "cifar100").values()
    assert train.label == "pickup truck" and (train.split, test.split) == ("train", "holdout")
    assert train.captions[0] == "a photo of a pickup truck"
    assert train.captions[-1] == "pickup truck, vehicles"
    assert np.array_equal(train.read(), pixels)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    tarred(tmp_path / f"{name}-python.tar.gz", {f"{name}-batches-py/data_batch_1": b"\x80\x02}."})
    with pytest.raises(BadInput, match=rf"pickle.*{name}-binary\.tar\.gz"):
        read(tmp_path, name.replace("-", ""))


def test_openimages(tmp_path: Path) -> None:
    ids = [f"{i:016x}" for i in range(4)]
    kinds = ("train", "validation", "test")
    tops = ("train-256", "validation", "test")
    for number, (part, top) in enumerate(zip(kinds, tops, strict=True)):
        content = {f"{top}/": b"", f"{top}/{ids[number]}.jpg": noise(number)}
        tarred(tmp_path / "256px" / f"{part}-256.tar.gz", content)
        rows = [
            ("ImageID", "Source", "LabelName", "Confidence"),
            (ids[number], "verification", "/m/01", 1),
            (ids[number], "crowdsource-verification", "/m/01", 1),
            (ids[number], "verification", "/m/02", 0),
            (ids[number], "verification", "/m/03", 1),
            (ids[number], "machine", "/m/04", 0.9),
        ]
        put(tmp_path / f"{part}-annotations-human-imagelabels-boxable.csv", table(*rows))
    tarred(tmp_path / "256px" / "test_challenge_2018-256.tar.gz", {"x/1.jpg": noise(9)})
    classes = table(
        ("/m/01", "Orange"), ("/m/02", "Dog"), ("/m/03", "Box, small"), ("/m/04", "Cat")
    )
    put(tmp_path / "class-descriptions-boxable.csv", classes)
    found = read(tmp_path, "openimages")
    assert len(found) == 3
    train = ends(found, f"{ids[0]}.jpg")
    assert train.captions[0] == "a photo of an orange and a box, small"
    assert train.label == "orange, box, small"
    sides = [ends(found, f"{i}.jpg").split for i in ids[:3]]
    assert sides == ["train", "holdout", "holdout"]


ROTATION_HEADER = (
    *("ImageID", "Subset", "OriginalURL", "OriginalLandingURL", "License", "AuthorProfileURL"),
    *("Author", "Title", "OriginalSize", "OriginalMD5", "Thumbnail300KURL", "Rotation"),
)


def test_openimages_are_turned_upright(tmp_path: Path) -> None:
    upright = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    upright.paste("red", (0, 0, 20, 20))
    six = Image.Exif()
    six[0x0112] = 6
    stored = {  # id → the table's degrees counterclockwise, and the picture as it lies there
        0: ("0.0", upright, None),
        1: ("90.0", upright.rotate(-90, expand=True), None),
        2: ("180.0", upright.rotate(180), None),
        3: ("270.0", upright.rotate(90, expand=True), six),  # EXIF says it too: not twice
        4: ("", upright, None),
        5: ("nan", upright, None),
    }
    rows, members = [ROTATION_HEADER], {}
    for number, (degrees, lying, exif) in stored.items():
        out = io.BytesIO()
        lying.save(out, "JPEG", quality=95, **({"exif": exif} if exif else {}))
        name = f"{number:016x}"
        members[f"train-256/{name}.jpg"] = out.getvalue()
        title = 'A "title",\nin two lines'
        rows.append((name, "train", "https://a", "", "", "", "", title, 9, "x==", "", degrees))
    tarred(tmp_path / "256px/train-256.tar.gz", members)
    put(tmp_path / "train-images-boxable-with-rotation.csv", table(*rows))
    put(tmp_path / "train-annotations-human-imagelabels-boxable.csv",
        table(("ImageID", "Source", "LabelName", "Confidence")))  # fmt: skip
    put(tmp_path / "class-descriptions-boxable.csv", table(("/m/01", "Orange")))
    expected = np.asarray(upright.crop((16, 0, 80, 64)), np.int16)
    for file, record in read(tmp_path, "openimages").items():
        content = record.read()
        assert isinstance(content, bytes)
        assert np.abs(images.decode(content, 64) - expected).mean() < 3, file
    put(tmp_path / "train-images-boxable-with-rotation.csv", "ImageID,Rotation\n1,up\n")
    with pytest.raises(BadInput, match="labels in .* are damaged"):
        read_as("openimages", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_yelp(tmp_path: Path, packed: bool) -> None:
    photos = table(("photo_id", "business_id"), (12, 3), (13, 4), (14, 3))
    businesses = table(("business_id", "labels"), (3, "1 5 6"), (4, ""))
    for name, content in (("train_photo_to_biz_ids.csv", photos), ("train.csv", businesses)):
        if packed:
            tarred(tmp_path / f"{name}.tgz", {f"._{name}": b"\x00\x05\x16\x07", name: content})
        else:
            put(tmp_path / name, content)
    members = {f"train_photos/{n}.jpg": noise(n % 2) for n in (12, 13, 14)}
    members |= {f"train_photos/._{n}.jpg": b"\x00\x05\x16\x07" for n in (12, 13, 14)}
    tarred(tmp_path / "train_photos.tgz", members)
    tarred(tmp_path / "test_photos.tgz", {"test_photos/12.jpg": noise(0)})  # another 12
    found = read(tmp_path, "yelp")
    assert len(found) == 4 and ends(found, "test_photos/12.jpg").captions == ()
    first = ends(found, "train_photos/12.jpg")
    assert first.label == "good for dinner, has alcohol, has table service"
    assert first.captions[0] == (
        "a photo of a restaurant that is good for dinner, that serves alcohol and "
        "with table service"
    )
    assert ends(found, "13.jpg").captions == () and ends(found, "13.jpg").label is None
    made = prep(tmp_path / "home", str(tmp_path), PrepConfig(image_px=16), report=ignore)
    assert made.manifest.counts["accepted"] == 2 and made.manifest.counts["duplicates"] == 2


def test_indoor67(tmp_path: Path) -> None:
    members = {
        "Images/": b"",
        "Images/bakery/a 1.jpg": noise(1),
        "Images/airport_inside/b.jpg": noise(2, kind="GIF"),
        "Images/dining_room/c.JPG": noise(3)[:500],
        "Images/stairscase/d.jpg": noise(4),
    }
    tarred(tmp_path / "indoorCVPR_09.tar", members, "w")
    found = read(tmp_path, "indoor67")
    assert ends(found, "a 1.jpg").captions[0] == "a photo of a bakery"
    assert ends(found, "b.jpg").label == "airport interior"
    assert ends(found, "d.jpg").captions[0] == "a photo of a staircase"
    assert ends(found, "c.JPG").label == "dining room" and ends(found, "c.JPG").split is None
    put(tmp_path / "TestImages.txt", "airport_inside/b.jpg\r\ngym/x.jpg\r\n")
    found = read(tmp_path, "indoor67")
    assert [ends(found, e).split for e in ("a 1.jpg", "b.jpg")] == ["train", "holdout"]
    made = prep(tmp_path / "home", str(tmp_path), PrepConfig(image_px=16), report=ignore)
    assert made.manifest.counts["accepted"] == 3 and len(Shards(made.folder)) == 3
    assert list(rejects(made.folder)) == ["indoorCVPR_09.tar/Images/dining_room/c.JPG"]


@pytest.mark.parametrize("lists", ["food-101", "food-101/meta"])
def test_food101(tmp_path: Path, lists: str) -> None:
    members = {f"food-101/images/apple_pie/{n}.jpg": noise(n) for n in (1, 2)}
    members[f"{lists}/test.json"] = b'{"apple_pie": ["apple_pie/2"]}'
    members[f"{lists}/train.json"] = b'{"apple_pie": ["apple_pie/1"]}'
    tarred(tmp_path / "food-101.tgz", members)
    found = read(tmp_path, "food101")
    assert [ends(found, f"{n}.jpg").split for n in (1, 2)] == ["train", "holdout"]
    assert ends(found, "1.jpg").captions[0] == "a photo of apple pie"


def digit_struct(numbers: dict[str, list[int]]) -> bytes:
    """A digitStruct.mat as MATLAB 7.3 writes it."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        names = file.create_dataset("digitStruct/name", (len(numbers), 1), h5py.ref_dtype)
        boxes = file.create_dataset("digitStruct/bbox", (len(numbers), 1), h5py.ref_dtype)
        for row, (name, digits) in enumerate(numbers.items()):
            text = np.array([[ord(c)] for c in name], np.uint16)
            names[row, 0] = file.create_dataset(f"#refs#/n{row}", data=text).ref
            box = file.create_group(f"#refs#/b{row}")
            if len(digits) == 1:
                box["label"] = np.array([[float(digits[0])]])
            else:
                refs = box.create_dataset("label", (len(digits), 1), h5py.ref_dtype)
                for place, digit in enumerate(digits):
                    value = np.array([[float(digit)]])
                    refs[place, 0] = file.create_dataset(f"#refs#/v{row}_{place}", data=value).ref
            boxes[row, 0] = box.ref
    return out.getvalue()


def test_svhn(tmp_path: Path) -> None:
    for part, numbers in {
        "train": {"1.png": [1, 9], "2.png": [10]},
        "test": {"1.png": [5]},
        "extra": {"1.png": [2, 10, 10]},
    }.items():
        members = {f"{part}/{name}": noise(len(part) + i) for i, name in enumerate(numbers)}
        members |= {f"{part}/digitStruct.mat": digit_struct(numbers), f"{part}/see.m": b"%"}
        tarred(tmp_path / "housenumbers" / f"{part}.tar.gz", members)
    found = read(tmp_path, "svhn")
    labels = {file: (record.label, record.split) for file, record in found.items()}
    top = "housenumbers/{0}.tar.gz/{0}/"
    assert labels == {
        top.format("extra") + "1.png": ("200", "train"),
        top.format("test") + "1.png": ("5", "holdout"),
        top.format("train") + "1.png": ("19", "train"),
        top.format("train") + "2.png": ("0", "train"),
    }
    texts = ends(found, "train/1.png").captions
    assert texts[0] == "a photo of the house number 19"
    tarred(tmp_path / "housenumbers/test.tar.gz", {"test/digitStruct.mat": b"MATLAB 5.0"})
    with pytest.raises(BadInput, match=r"test/digitStruct\.mat is damaged"):
        read_as("svhn", tmp_path)


def test_imagenet64(tmp_path: Path) -> None:
    tarred(tmp_path / "small/train_64x64.tar", {"train_64x64/0000001.png": noise(1)}, "w")
    tarred(tmp_path / "small/valid_64x64.tar", {"valid_64x64/00001.png": noise(2)}, "w")
    train, valid = read(tmp_path, "imagenet64").values()
    assert (train.split, valid.split) == ("train", "holdout")
    assert train.captions == () and train.read() == noise(1)


def test_webdataset(tmp_path: Path) -> None:
    img2dataset = {"caption": "a  boat", "key": "000", "status": "success"}
    members = {
        "000.jpg": noise(1),
        "000.json": json.dumps(img2dataset).encode(),
        "000.txt": b"a boat",
        "001.txt": b"one\ntwo\n",
        "001.webp": noise(2),
        "002.png": noise(3),
        "002.cls": b"7",
        "003.png": noise(4),
        "003.cls": b"polar_bear",
        "004.json": b"{",
        "004.png": noise(5),
        "005.txt": b"no picture",
    }
    tarred(tmp_path / "a.tar", members, "w")
    tarred(tmp_path / "b.tar.gz", {"000.png": noise(6)})
    found = read(tmp_path, "webdataset")
    assert len(found) == 6
    assert ends(found, "a.tar/000.jpg").captions == ("a boat",)
    assert ends(found, "001.webp").captions == ("one", "two")
    assert ends(found, "002.png").captions == () and ends(found, "002.png").label == "7"
    assert ends(found, "003.png").captions[0] == "a photo of a polar bear"
    assert ends(found, "004.png").captions == ()
    assert ends(found, "b.tar.gz/000.png").read() == noise(6)
    assert left_out(tmp_path) == {
        "a.tar/004.json": ("odd caption", "it holds no JSON object"),
        "a.tar/005.txt": ("unmatched caption", "no picture has its name"),
    }


def test_own_shards_are_read_again(tmp_path: Path) -> None:
    pictures = {f"{n:02}.png": noise(n) for n in range(40)}
    told = {f"{n:02}.txt": f"number {n}\nzwei".encode() for n in range(0, 40, 2)}
    told |= {f"{n:02}.cls": b"dog" for n in range(1, 40, 2)}
    tarred(tmp_path / "raw/mixed.tar", dict(sorted((pictures | told).items())), "w")
    config = PrepConfig(image_px=16)
    first = Shards(prep(tmp_path / "one", str(tmp_path / "raw"), config, report=ignore).folder)
    again = Shards(prep(tmp_path / "two", str(first.folder), config, report=ignore).folder)
    assert [again.captions(r) for r in range(40)] == [first.captions(r) for r in range(40)]
    written_by = [first.caption_sources(r) for r in range(40)]
    assert written_by.count(["human"] * 2) == written_by.count(["template"] * 3) == 20
    assert [again.caption_sources(r) for r in range(40)] == written_by
    rows = np.arange(40)
    assert again.splits(rows) == first.splits(rows)
    assert all(np.array_equal(again.image(r), first.image(r)) for r in range(40))


# ---------------------------------------------------------------- archives


def listing(folder: Path) -> dict[str, Member]:
    return {member.path: member for member in archives.members(folder)}


def every_kind(folder: Path) -> Iterator[str]:
    content = {"a/b.png": noise(1), "../escape.png": noise(2), "._a.png": b"litter"}
    zipped(folder / "x.zip", content)
    yield "x.zip/a/b.png"
    for end, mode in ((".tar", "w"), (".tgz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")):
        tarred(folder / f"y{end}", content, mode)
        yield f"y{end}/a/b.png"
    tarred(folder / "misnamed.tar", content, "w:gz")
    yield "misnamed.tar/a/b.png"


def test_members_of_every_archive(tmp_path: Path) -> None:
    expected = list(every_kind(tmp_path))
    taken = {m.path: m.reader() for m in archives.members(tmp_path)}
    assert all(taken[path]() == noise(1) for path in expected)
    assert not any("._a" in path for path in taken)
    assert {p.name for p in tmp_path.iterdir()} == {path.split("/")[0] for path in expected}
    assert not (tmp_path.parent / "escape.png").exists()


@pytest.mark.parametrize("end", ["zip", "tar", "tgz", "tar.xz"])
def test_damaged_archives(tmp_path: Path, end: str) -> None:
    list(every_kind(tmp_path))
    source = next(p for p in tmp_path.iterdir() if p.name.endswith(f".{end}") and p.name[0] != "m")
    content = source.read_bytes()
    for path in tmp_path.iterdir():
        path.unlink()
    put(tmp_path / f"cut.{end}", content[: len(content) // 4])
    with pytest.raises(BadInput, match=rf"cut\.{end}.* cannot be read to its end"):
        for member in archives.members(tmp_path):
            member.reader()


def test_links_in_archives_are_rejected(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(Rejected):
        listing(tmp_path)["x.tar/link.png"].reader()()


def test_a_bomb_in_a_zip_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prep_member, "MAX_FILE_BYTES", 1_000_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(2_000_000))
    tarred(tmp_path / "y.tgz", {"bomb.png": bytes(2_000_000)})
    for member in archives.members(tmp_path):
        with pytest.raises(Rejected, match="2,000,000 bytes"):
            member.reader()()


def test_what_is_no_part_of_a_known_dataset_is_named(tmp_path: Path) -> None:
    """People put other things beside what they have downloaded; nothing of it vanishes."""
    zipped(tmp_path / "train2017.zip", {"train2017/000000000001.jpg": noise(1)})
    said = {"images": [{"id": 1, "file_name": "000000000001.jpg"}], "annotations": []}
    told = json.dumps(said | {"annotations": [{"image_id": 1, "id": 1, "caption": "a cat"}]})
    inside = {f"annotations/captions_{part}2017.json": told for part in ("train", "val")}
    zipped(tmp_path / "annotations_trainval2017.zip", inside)
    zipped(tmp_path / "more" / "cats.zip", {"a.png": noise(2), "b.png": noise(3)})
    zipped(tmp_path / "texts.zip", {"notes.txt": b"nothing to see"})
    (tmp_path / "mine.png").write_bytes(noise(4))
    (tmp_path / "mine.txt").write_text("my own cat", encoding="utf-8")
    assert readers.detect(tmp_path) == "coco"
    found = {}
    for record in readers.read("coco", tmp_path).rows:
        try:
            found[record.file] = bool(record.read())
        except Rejected as rejected:
            found[record.file] = rejected.reason
    taken = [file for file, what in found.items() if what is True]
    assert len(taken) == 1 and taken[0].startswith("train2017.zip/")
    assert {f: what for f, what in found.items() if what is not True} == {
        "mine.png": "left out",
        "more/cats.zip": "left out",
    }
    layout = readers.detect(tmp_path, "both")
    assert layout == "folder"
    rows = list(readers.read(layout, tmp_path, "both").rows)
    assert "my own cat" in [text for row in rows for text in row.captions]


def test_a_table_of_another_program_is_not_flickr30k(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "results.csv").write_text("epoch,loss\n1,2\n", encoding="utf-8")
    (tmp_path / "cat.png").write_bytes(noise(1))
    assert readers.detect(tmp_path) == "folder"
