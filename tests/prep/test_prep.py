"""`prep`, from the command line to the bytes on disk."""

import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import Ran, draw_folder, run, start
from PIL import Image
from test_duplicates import photo
from test_readers import coco, picture, put, zipped

from dallebaby_cli.config import PrepConfig
from dallebaby_cli.errors import Busy
from dallebaby_cli.files import lock
from dallebaby_cli.prep import merge, pieces, readers
from dallebaby_cli.progress import ignore
from dallebaby_cli.stages.prep import Prepared, prep
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Shards

Cli = Callable[..., Ran]
ROOT = Path(__file__).parents[2]


def noise(seed: int, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def fill(folder: Path, count: int, captions: bool = True) -> Path:
    for i in range(count):
        put(folder / f"{i:04}.png", noise(i))
        if captions:
            put(folder / f"{i:04}.txt", f"noise number {i}\n")
    return folder


def prepare(home: Path, source: Path, **config: object) -> Prepared:
    settings = PrepConfig(**{"image_px": 16, "workers": 1, **config})  # type: ignore[arg-type]
    return prep(home, str(source), settings, report=ignore)


def digests(folder: Path) -> dict[str, str]:
    """What must not differ between two runs: everything but the manifest's time."""
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    content = json.loads((folder / "manifest.json").read_text())
    del content["when"]
    return found | {"manifest.json": json.dumps(content, sort_keys=True)}


def rejects(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    assert all(set(row) == {"file", "reason", "detail"} and row["detail"] for row in rows)
    return {row["file"]: row["reason"] for row in rows}


def test_folder_to_shards(tmp_path: Path, cli: Cli) -> None:
    source = fill(tmp_path / "my pictures!", 60)
    put(source / "copy.png", noise(5))
    put(source / "copy.txt", "the same again\nnoise number 5")
    put(source / "bad.jpg", b"not a picture")
    (source / "gone.webp").symlink_to("nowhere")
    home = tmp_path / "home"
    ran = cli("prep", source, "--home", home, "--px", 16, "--json")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert facts["accepted"] == 60 and facts["duplicates"] == 1
    assert facts["rejected"] == {"not an image": 1, "unreadable": 1}
    assert facts["train"] + facts["holdout"] == 60 and facts["holdout"] > 0
    assert facts["captions"] == 61
    folder = home / "images" / "my-pictures"
    assert rejects(folder) == {"bad.jpg": "not an image", "gone.webp": "unreadable"}
    assert not list(folder.glob(".work*"))
    with Image.open(folder / "contact-sheet.png") as sheet:
        assert sheet.width > 500

    shards = Shards(folder)
    assert len(shards) == 60 and shards.image_px == 16
    by_caption = {shards.captions(row)[-1]: row for row in range(60)}
    row = by_caption["noise number 7"]
    assert shards.key(row) == hashlib.sha256(noise(7)).hexdigest()[:16]
    assert shards.image(row).shape == (16, 16, 3)
    united = [c for row in range(60) if len(c := shards.captions(row)) > 1]
    assert united == [["noise number 5", "the same again"]]
    with tarfile.open(folder / "my-pictures-00000.tar") as tar:
        names = tar.getnames()
        about = json.load(tar.extractfile(names[1]))  # type: ignore[arg-type]
    assert len(names) == 120 and [Path(n).suffix for n in names[:2]] == [".png", ".json"]
    assert about["captions"] == ["noise number 0"] and about["caption_sources"] == ["human"]
    assert about["source"] == "0000.png"
    assert about["label"] is None and about["split"] in ("train", "holdout")

    again = json.loads(cli("prep", source, "--home", home, "--px", 16, "--json").out)
    assert not again["fresh"] and again["id"] == facts["id"]


def test_workers_do_not_change_a_byte(tmp_path: Path) -> None:
    source = fill(tmp_path / "pictures", pieces.RECORDS + 50)
    put(source / "0010.png", noise(300))  # a copy across two pieces
    one = prepare(tmp_path / "one", source, shard_mb=0.1)
    run(tmp_path / "two", "prep", source, "--px", 16, "--workers", 2, "--set", "shard_mb=0.1")
    two = tmp_path / "two" / "images" / "pictures"
    assert digests(one.folder) == digests(two)
    assert len(list(two.glob("*.tar"))) > 3
    assert one.manifest.counts["duplicates"] == 1


KILLS, PIECES = (10, 12) if os.environ.get("SOAK") else (3, 5)  # SOAK is set by make soak


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures for PIECES pieces, and what `prep` makes of them when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("whole")
    source = fill(folder / "pictures", pieces.RECORDS * (PIECES - 1) + 10)
    run(folder / "home", "prep", source, "--px", 64, "--workers", 2)
    return source, folder / "home" / "images" / "pictures"


SEEDED = {f"seed {seed}": random.Random(seed).randint(1, PIECES - 1) for seed in range(1, KILLS)}


@pytest.mark.parametrize("moment", [*SEEDED, "while shards are written"])
def test_killed_and_run_again(
    tmp_path: Path, uninterrupted: tuple[Path, Path], moment: str
) -> None:
    source, whole = uninterrupted
    arguments = ("prep", source, "--px", 64, "--workers", 2)
    folder = tmp_path / "images" / "pictures"
    glob, wanted = (".work-*/*.arrow", SEEDED.get(moment, 0))
    if not wanted:
        glob, wanted = ".work-*/out/*.tar", 1
    process = start(tmp_path, *arguments)
    while len(set(folder.glob(glob))) < wanted:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    made = set(folder.glob(".work-*/*.arrow"))
    times = {path: path.stat().st_mtime_ns for path in made}
    before = manifest.read(folder)
    assert before is not None and not before.complete and made, "killed in the middle"
    assert len(made) < PIECES or moment not in SEEDED
    again = start(tmp_path, *arguments)
    while again.poll() is None:
        for path, written in times.items():
            with suppress(FileNotFoundError):  # the work folder goes at the end
                assert path.stat().st_mtime_ns == written, "a finished piece was made again"
        time.sleep(0.01)
    assert again.communicate() and again.returncode == 0
    assert digests(folder) == digests(whole)


def test_scenes_of_any_number_and_size(tmp_path: Path, cli: Cli) -> None:
    def drawn(*arguments: object) -> dict[str, object]:
        facts = json.loads(cli("prep", "scenes", "--home", tmp_path, "--json", *arguments).out)
        assert facts["accepted"] == 40 and facts["captions"] >= 40 and facts["holdout"] > 0
        return facts

    first = drawn("--limit", 40, "--px", 32)
    shards = Shards(tmp_path / "images" / "scenes")
    assert shards.image(39).shape == (32, 32, 3) and shards.captions(0)
    assert drawn("--limit", 40, "--px", 32, "--workers", 1)["fresh"] is False
    assert drawn("--limit", 40, "--px", 32, "--set", "seed=1")["id"] != first["id"]
    assert drawn("--limit", 40, "--px", 48, "--name", "large")["id"] != first["id"]


def test_limit_takes_the_first_good_ones(tmp_path: Path) -> None:
    source = fill(tmp_path / "pictures", 30)
    put(source / "0001.png", noise(0))
    put(source / "0003.png", b"")
    put(source / "0029.png", b"")
    limited = prepare(tmp_path / "home", source, limit=10)
    counts = limited.manifest.counts
    assert counts["accepted"] == 10 and counts["duplicates"] == 1
    assert rejects(limited.folder) == {"0003.png": "empty"}
    captions = [c for row in range(10) for c in Shards(limited.folder).captions(row)]
    assert captions == [f"noise number {i}" for i in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11)]
    more = prepare(tmp_path / "home", source, limit=1000)
    assert more.manifest.counts["accepted"] == 27


def test_changes_in_the_source_or_the_config_are_noticed(tmp_path: Path) -> None:
    source, home = fill(tmp_path / "pictures", 10), tmp_path / "home"
    first = prepare(home, source)
    assert not prepare(home, source, workers=2).fresh
    assert prepare(home, source, encoding="jpeg").fresh
    assert prepare(home, source).manifest.id == first.manifest.id
    put(source / "more.png", noise(99))
    larger = prepare(home, source)
    assert larger.fresh and larger.manifest.counts["accepted"] == 11
    (larger.folder / "pictures-00000.tar").unlink()
    assert prepare(home, source).fresh
    assert digests(larger.folder)["pictures-00000.tar"]


def test_split_stays_when_pictures_are_added(tmp_path: Path) -> None:
    def sides(count: int) -> dict[str, str]:
        made = Shards(prepare(tmp_path / "home", fill(tmp_path / "p", count)).folder)
        splits = made.splits(np.arange(len(made)))
        return {made.key(row): split for row, split in enumerate(splits)}

    few, many = sides(100), sides(150)
    assert "holdout" in few.values()
    assert all(many[key] == split for key, split in few.items())


def test_official_split(tmp_path: Path) -> None:
    coco(tmp_path / "raw")
    made = prepare(tmp_path / "home", tmp_path / "raw")
    assert (made.manifest.counts["train"], made.manifest.counts["holdout"]) == (2, 1)
    hashes = np.frombuffer(os.urandom(32 * 100), "S32")
    official = np.array(["train"] * 100, "U7")
    assert 1 <= merge.split(hashes, official, 5).sum() < 50, "no official hold-out: by content"
    official[3] = "holdout"
    assert merge.split(hashes, official, 5).nonzero()[0].tolist() == [3]
    assert merge.split(hashes[:1], official[:1], 50).sum() <= 1
    assert merge.split(hashes[:2], official[:2], 1e-9).sum() == 1
    assert merge.split(hashes[:2], official[:2], 100).sum() == 1


def test_a_copy_on_both_sides_is_held_out(tmp_path: Path) -> None:
    coco(tmp_path / "raw")
    zipped(tmp_path / "raw/val2017.zip", {"val2017/000000000008.jpg": picture(9)})
    shards = Shards(prepare(tmp_path / "home", tmp_path / "raw").folder)
    (row,) = shards.rows("holdout")
    assert len(shards) == 2 and shards.captions(row) == ["A small dog on a sofa.", "A dog.", "Val."]


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    for seed in range(60):
        put(source / f"{seed:02}.png", saved(photo(seed)))
    for seed in (7, 30):
        put(source / f"{seed:02}-again.jpg", saved(photo(seed).resize((200, 200)), "JPEG"))
        put(source / f"{seed:02}-third.jpg", saved(photo(seed), "JPEG", quality=50))
    for percent in (5, 30, 50):
        made = prepare(tmp_path / "home", source, image_px=32, holdout_percent=percent)
        counts = made.manifest.counts
        assert counts["accepted"] == 64 and counts["near_duplicates"] == 4
        groups = members(made.folder)
        assert sorted(map(len, groups.values()))[-3:] == [1, 3, 3]
        assert all(len({about["split"] for about in group}) == 1 for group in groups.values())
    assert (made.folder / "near-duplicates.png").exists()
    alone = prepare(tmp_path / "home", source, image_px=32, near_duplicates=False)
    assert alone.manifest.counts["near_duplicates"] == 0
    assert not (alone.folder / "near-duplicates.png").exists()


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def members(folder: Path) -> dict[str, list[dict[str, object]]]:
    """Group → what the shards' JSON says of its pictures."""
    found: dict[str, list[dict[str, object]]] = {}
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    about = json.load(tar.extractfile(member))  # type: ignore[arg-type]
                    found.setdefault(about["group"], []).append(about)
    return found


def test_fetched_dataset_by_name(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    coco(home / "raw" / "coco" / "fast-ai-coco")
    manifest.write(home / "raw/coco", Manifest(kind="raw", name="coco", id="r1", complete=True))
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "coco", 3)
    ran = cli("prep", "coco", "--home", home, "--px", 16)
    assert ran.code == 0 and "3 pictures with 4 captions" in ran.out
    made = manifest.read(home / "images" / "coco")
    assert made is not None and made.parents == {"raw/coco": "r1"}
    assert not prep(home, None, PrepConfig(image_px=16), report=ignore).fresh
    ran = cli("prep", "./coco", "--home", home, "--px", 16, "--name", "other")
    assert "3 pictures with 3 captions" in ran.out


def test_any_torrent_of_pictures(tmp_path: Path) -> None:
    home = tmp_path / "home"
    put(home / "raw/stuff/my torrent/dog/1.jpg", picture(1))
    put(home / "raw/stuff/my torrent/cat/1.jpg", picture(2))
    manifest.write(home / "raw/stuff", Manifest(kind="raw", name="stuff", id="r", complete=True))
    shards = Shards(prep(home, "stuff", PrepConfig(image_px=16), report=ignore).folder)
    first = sorted(shards.captions(row)[0] for row in range(2))
    assert first == ["a photo of a cat", "a photo of a dog"]


def test_what_cannot_be_prepared(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"

    def fails(code: int, *arguments: object) -> str:
        ran = cli("prep", *arguments, "--home", home)
        last = ran.err.splitlines()[-1]
        assert ran.code == code and last.startswith("error: ")
        return last

    assert "did you mean 'coco'" in fails(2, "cocoa")
    assert "is not there" in fails(2, "./cocoa")
    put(tmp_path / "file.zip", b"")
    assert "is a file, not a folder" in fails(2, "file.zip")
    (tmp_path / "empty").mkdir()
    assert "empty holds no pictures" in fails(1, "empty")
    put(tmp_path / "bad/x.png", b"")
    put(tmp_path / "bad/y.png", b"html")
    message = fails(1, "bad")
    assert "none of the 2 pictures" in message and "empty, not an image" in message
    assert "image_px=3" in fails(2, "bad", "--px", 3)
    assert "dallebaby fetch coco" in fails(1, "coco")
    assert "dallebaby fetch NAME" in fails(1)
    assert not list(home.glob("images/*")), "nothing half-written"


def test_folder_without_captions(tmp_path: Path, cli: Cli) -> None:
    source = fill(tmp_path / "pictures", 5, captions=False)
    ran = cli("prep", source, "--home", tmp_path / "home", "--px", 16)
    assert ran.code == 0 and "no captions" in ran.err
    assert Shards(tmp_path / "home/images/pictures").captions(0) == []


def test_pictures_that_are_enlarged_are_told_of(tmp_path: Path, cli: Cli) -> None:
    """With the size to ask for; not where most are large enough, whatever their kind."""
    for number in range(9):
        kind = ("PNG", "JPEG", "GIF")[number % 3]
        put(tmp_path / "small" / f"{number}.{kind.lower()}", noise(number, (40, 35), kind))
    for number in range(4):
        put(tmp_path / "mixed" / f"{number}.png", noise(number, (40 + 20 * (number % 2), 70)))
    asked = ("--home", tmp_path / "home", "prep")
    for source, options, enlarged, told in (
        ("small", (), 9, "9 of 9 pictures are smaller than 64 px and were enlarged; with --px 32"),
        ("small", ("--px", 40, "--set", "fit=pad"), 0, ""),
        ("small", ("--px", 32), 0, ""),
        ("small", ("--px", 39), 9, "with --px 32 "),
        ("mixed", (), 4, "with --px 48 "),
        ("mixed", ("--px", 48), 2, ""),
    ):
        ran = cli(*asked, tmp_path / source, *options, "--json")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["enlarged"] == enlarged
        assert told in ran.err and ("enlarged" in ran.err) == bool(told)


def test_two_at_once(tmp_path: Path) -> None:
    source = fill(tmp_path / "pictures", 3)
    folder = tmp_path / "home" / "images" / "pictures"
    with lock(folder, "images/pictures"), pytest.raises(Busy):
        prepare(tmp_path / "home", source)


def test_a_write_that_fails_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    source, home = fill(tmp_path / "pictures", 200), tmp_path / "home"
    command = [sys.executable, "-m", "dallebaby_cli", "--home", str(home), "prep", str(source)]

    def small_files() -> None:  # as on a full disk, the write itself fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    failed = subprocess.run(command, preexec_fn=small_files, capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.splitlines()[-1].startswith("error: File too")
    folder = home / "images" / "pictures"
    found = manifest.read(folder)
    assert found is not None and not found.complete
    assert not list(folder.rglob("*.tmp")) and not list(folder.glob("*.tar"))
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert len(Shards(folder)) == 200


def test_names_of_any_bytes(tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    for name, content in (
        (b"caf\xe9.png", noise(1)),
        (b"new\nline.png", noise(2)),
        (b"\xff.png", b""),
    ):
        Path(os.fsdecode(bytes(source) + b"/" + name)).write_bytes(content)
    made = prepare(tmp_path / "home", source)
    assert made.manifest.counts["accepted"] == 2
    assert rejects(made.folder) == {"\ufffd.png": "empty"}


def test_an_older_result_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    source, home = fill(tmp_path / "pictures", 20), tmp_path / "home"
    made = prepare(home, source)
    before = digests(made.folder)
    shutil.rmtree(source)
    put(source / "bad.png", b"")
    with pytest.raises(Exception, match="none of the 1 pictures"):
        prepare(home, source)
    assert digests(made.folder) == before


# ---------------------------------------------------------------- names


def test_names_keep_letters_of_all_scripts(tmp_path: Path, cli: Cli) -> None:
    for number, name in enumerate(("\u732b", "\u72ac", "Gr\u00f6\u00dfe & Co", "\u65e5" * 60)):
        put(tmp_path / name / "x.png", noise(number))
        assert cli("prep", tmp_path / name, "--home", tmp_path / "home", "--px", 16).code == 0
    made = sorted(path.name for path in (tmp_path / "home/images").iterdir())
    assert made == ["Gr\u00f6\u00dfe-Co", "\u65e5" * 33, "\u72ac", "\u732b"]
    assert len(Shards(tmp_path / "home/images/\u732b")) == 1


def test_another_source_of_the_same_name_is_refused(tmp_path: Path, cli: Cli) -> None:
    home = tmp_path / "home"
    mine, hers = fill(tmp_path / "mine/images", 3), fill(tmp_path / "hers/images", 4)
    first = prepare(home, mine)
    before = digests(first.folder)
    ran = cli("prep", hers, "--home", home, "--px", 16)
    assert ran.code == 1 and ran.err.splitlines()[-1] == (
        f"error: {home}/images/images holds something else of that name, made from {mine}; give "
        "this one another with --name, or remove the folder"
    )
    assert digests(first.folder) == before
    assert cli("prep", hers, "--home", home, "--px", 16, "--name", "hers").code == 0
    assert len(Shards(home / "images/hers")) == 4
    scenes = cli("prep", "scenes", "--home", home, "--limit", 9, "--px", 16, "--name", "hers")
    assert scenes.code == 1 and f"made from {hers}" in scenes.err
    raw = Manifest(kind="raw", name="images", id="r", complete=True)
    fill(home / "raw/images/x", 2)
    manifest.write(home / "raw/images", raw)
    assert "holds something else" in cli("prep", "images", "--home", home, "--px", 16).err


# ---------------------------------------------------------------- pieces


def damaged(content: bytes) -> dict[str, bytes]:
    """What a power cut leaves of a file."""
    half = len(content) // 2
    return {
        "empty": b"",
        "halved": content[:half],
        "of NULs": bytes(len(content)),
        "with a block of NULs": content[: half - 256] + bytes(512) + content[half + 256 :],
        "with a changed bit": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
        "without its line": content[pieces.LINE_BYTES : half],
    }


def test_damaged_pieces_are_made_again(tmp_path: Path) -> None:
    source, work = fill(tmp_path / "pictures", 5), tmp_path / "work"
    config = PrepConfig(image_px=16, workers=1)

    def make() -> bytes:
        rows = readers.read("folder", source)
        (path,) = pieces.make_all(rows, source, work, config, ignore)
        return path.read_bytes()

    whole = make()
    written = (work / "000000.arrow").stat().st_mtime_ns
    assert make() == whole and (work / "000000.arrow").stat().st_mtime_ns == written
    for name, content in damaged(whole).items():
        (work / "000000.arrow").write_bytes(content)
        assert make() == whole, name
    put(source / "0005.png", noise(5))
    assert make() != whole, "a piece with fewer rows"


STUCK = """
import multiprocessing, os, re, signal, sys, time
from dallebaby_cli.prep.pieces import end_with_parent

def work():
    end_with_parent()
    print(os.getpid(), flush=True)
    re.match("(a+)+$", "a" * 60 + "b")  # for years, and no other thread runs meanwhile

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread sees to it, if it may run")
def test_a_worker_in_the_midst_of_decoding_ends_with_its_parent(tmp_path: Path) -> None:
    script = put(tmp_path / "stuck.py", STUCK)
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=here
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.5)
        parent.kill()
    try:
        worker.wait(10)
    finally:
        if worker.is_running():
            worker.kill()
            pytest.fail("the worker goes on without its parent")


def test_what_cannot_be_prepared_again_keeps_what_it_has(cli: Cli, tmp_path: Path) -> None:
    source, home = draw_folder(tmp_path / "shapes", 40), tmp_path / "home"
    command = ("--home", home, "prep", source, "--px", "32", "--workers", "1")
    assert cli(*command, "--set", "shard_mb=0.01").code == 0
    folder = home / "images" / "shapes"
    first, *good = sorted(folder.glob("*.tar"))
    assert good
    content = {path: path.read_bytes() for path in good}
    (folder / "captions.jsonl").write_text("hours of work\n", encoding="utf-8")
    first.write_bytes(b"")
    for path in source.iterdir():
        path.unlink()
    ran = cli(*command, "--set", "shard_mb=0.01")
    assert ran.code == 1 and ran.err.count("error: ") == 1
    assert {path: path.read_bytes() for path in good} == content
    assert (folder / "captions.jsonl").read_text(encoding="utf-8") == "hours of work\n"
