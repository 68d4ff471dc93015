"""report.html: a whole page of a real run, and of whatever is left of one."""

import base64
import io
import json
import math
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import Ran, draw_folder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dallebaby_cli.progress import Event, Note
from dallebaby_cli.quality import figures, page, report
from dallebaby_cli.quality.curves import chart
from dallebaby_cli.quality.memorisation import Near
from dallebaby_cli.quality.page import tag
from dallebaby_cli.quality.pretrained import Compared
from dallebaby_cli.store import manifest
from dallebaby_cli.training import log_reader

Cli = Callable[..., Ran]
OPEN = {"meta", "img"}  # elements that have no end
ELEMENTS = OPEN | {"html", "head", "title", "style", "body", "h1", "h2", "p", "section", "figure"}
ELEMENTS |= {"figcaption", "ol", "ul", "li", "div", "table", "tr", "th", "td", "details", "summary"}
ELEMENTS |= {"svg", "line", "polyline", "circle", "text"}


class Page(HTMLParser):
    """What a browser finds; an element that is not closed in its place is an error."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.texts: list[str] = []
        self.pictures: list[bytes] = []
        self.seen: list[str] = []
        self.feed(content)
        self.close()
        assert not self.stack

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        assert name in ELEMENTS, name
        self.seen.append(name)
        for key, value in attributes:
            assert not key.startswith("on") and key not in ("href", "srcset", "style"), key
            if key == "src":
                assert value and value.startswith("data:image/png;base64,")
                self.pictures.append(base64.b64decode(value.partition(",")[2], validate=True))
        if name not in OPEN:
            self.stack.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        assert name in ELEMENTS

    def handle_endtag(self, name: str) -> None:
        assert self.stack.pop() == name

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack and data.strip():
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The folder of a finished transformer, to change."""
    return shutil.copytree(trained / "dalle" / "d", tmp_path / "dalle" / "d")


def test_training_ends_with_a_page_of_all_that_is_known(trained: Path) -> None:
    folder = trained / "dalle" / "d"
    content = (folder / "report.html").read_text(encoding="utf-8")
    found = Page(content)
    assert "://" not in content and "<script" not in content and "prefers-color-scheme" in content
    assert found.pictures[0] == (folder / "samples.png").read_bytes()
    assert set(found.pictures[1:]) == {p.read_bytes() for p in (folder / "frames").iterdir()}
    for png in found.pictures:
        Image.open(io.BytesIO(png)).load()
    prompts = json.loads((folder / "prompts.json").read_text())["prompts"]
    assert len(prompts) == 8 and all(prompt in found.texts for prompt in prompts)
    _, about = manifest.find(trained, "dalle", "d")
    assert f"{about.counts['bits_per_code']:,.4g}" in found.texts
    assert all(f"{name}" in found.text for name in ("tokens/shapes@v", about.version, "batch_size"))
    cells, seen = found.texts, 4 * about.config["batch_size"]
    assert cells[cells.index("pictures seen") + 1] == str(seen)
    story = log_reader.read(folder / "log.jsonl")
    (start,) = story.starts
    assert about.counts["epochs"] == pytest.approx(seen / start["train"], abs=1e-4)
    assert "cpu, 1 threads" in found.text and "not measured yet" in found.text
    for curve in ("loss: ", "bits per code: ", "lr: ", "epochs: "):
        assert curve in found.text
    assert found.seen.count("svg") == len(story.curves) > 4


def test_a_dvae_has_its_page_too(trained: Path) -> None:
    folder = trained / "vae" / "v"
    found = Page((folder / "report.html").read_text(encoding="utf-8"))
    shown = [(folder / name).read_bytes() for name in ("reconstructions.png", "codebook.png")]
    assert found.pictures[:2] == shown and "psnr: " in found.text
    assert "evaluate --only-vae" in found.text


def test_status_names_the_pages(cli: Cli, trained: Path) -> None:
    ran = cli("--home", trained, "status", "--json")
    pages = {row["kind"]: row["report"] for row in json.loads(ran.out)["artefacts"]}
    assert pages["dalle"] == str(trained / "dalle" / "d" / "report.html")
    assert pages["vae"] == str(trained / "vae" / "v" / "report.html") and not pages["images"]
    told = cli("--home", trained, "status").out.replace("\n", "")
    assert all(f"report: {pages[kind]}" in told for kind in ("dalle", "vae"))


def test_the_same_run_has_the_same_page(run: Path) -> None:
    assert report.of_run(run) == report.of_run(run) == (run / "report.html").read_text("utf-8")


def test_what_was_found_is_told_in_shares_and_long_tables_are_folded(run: Path) -> None:
    near = Near(np.array([0, 0.5]), np.array([0.5, 0.25, 0]), np.zeros(5), np.zeros(5), 1234)
    done = figures.Evaluated(
        run,
        distance=near.figures(),
        nearest=[figures.Pair("a red car", "the car", 0.125, None)],
        agreement=[figures.Row("classes", "drawn", 8, {"class": 0.375})],
        judge=figures.Judged(run, 2, 80, 2, 0.5),
        classes=[figures.OfClass("<cat>", 4, 3, 0.25, 2 / 3, 1.0, None)] * 20,
        retrieval=[figures.Retrieved("drawn", 3, 8, 1 / 3, 2.5, 1 / 8, 4.5)],
        compared=[Compared("KID x 1000", "inception", 8, 3.25, None, 0.0625)],
        samples=[run / "gone.png"],
    )
    short = Page(report.of_run(run, done))
    cells = short.texts
    place = cells.index("<cat>")
    assert cells[place : place + 6] == ["<cat>", "4", "3", "25.0%", "66.7%", "100.0%"]
    assert {"12.5%", "37.5%", "33.3%", "2.5", "3.25", "0.0625"} <= {*cells}
    assert f"{run / 'gone.png'} is too large for this page." in cells
    assert any("1 of 2 are the same as one, and of hold-out pictures 1 of 3." in t for t in cells)
    titles = ("Pictures", "Does it draw what is asked?", "Is it copied?", "Curves", "What it cost")
    assert [text for text in cells if text in titles] == [*titles]
    assert short.seen.count("details") == 1
    folded = Page(report.of_run(run, replace(done, classes=[*done.classes, done.classes[0]])))
    assert "class by class: 21 rows" in folded.texts and folded.seen.count("details") == 2


HOSTILE = "</li><script>alert('1')</script><img src=http://x onerror=\"x\"> & \ud800 \u202e ></p>"


def test_text_from_outside_stays_text(run: Path) -> None:
    (run / "prompts.json").write_text(json.dumps({"prompts": [HOSTILE, 7, "a red car"]}))
    about = manifest.read(run)
    assert about
    config = {**about.config, HOSTILE: HOSTILE}
    manifest.write(run, replace(about, config=config, counts={**about.counts, HOSTILE: HOSTILE}))
    events = [{"event": "start", "device": HOSTILE, "train": HOSTILE, "holdout": HOSTILE}]
    events += [{"event": "evaluation", "step": 4, "psnr": 20, HOSTILE: 3}]
    events += [{"event": e, "step": 4, "text": HOSTILE} for e in ("warning", "turned")]
    (run / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    found = Page(report.of_run(run))
    kept = HOSTILE.replace("\ud800", "\ufffd").replace("\u202e", "")
    assert found.texts.count(kept) >= 6 and "script" not in found.seen


@given(st.text(st.characters(codec="utf-8")), st.text())
def test_any_text_stays_text(words: str, more: str) -> None:
    made = tag("p", words, tag("td", more, alt=more, class_=words), "<b>")
    found = Page(re.sub(r"^<p", "<div", made).removesuffix("</p>") + "</div>")
    assert found.seen == ["div", "td"]
    assert "".join(found.texts).replace("<b>", "").split() == page.clean(words + more).split()


FLOATS = st.floats(-(10.0**15), 10.0**15) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.dictionaries(st.integers(0, 10**15), FLOATS, max_size=30))
def test_any_curve_is_drawn(points: dict[int, float]) -> None:
    drawn = chart("<loss>", points)
    Page(drawn)
    for pair in re.findall(r'points="([^"]*)"', drawn):
        for x, y in (map(float, point.split(",")) for point in pair.split()):
            assert 0 <= x <= 320 and 0 <= y <= 160


def vast_png() -> bytes:
    """A small file that says it is a picture of 3.6 thousand million pixels."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)}
    chunks |= {b"IDAT": zlib.compress(bytes(180_001)), b"IEND": b""}
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks.items():
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        parts += [struct.pack(">I", len(content)), kind, content, checksum]
    return b"".join(parts)


def test_what_is_damaged_is_left_out(run: Path) -> None:
    whole = Page(report.of_run(run))
    (run / "samples.png").write_bytes((run / "samples.png").read_bytes()[:-50])
    for frame in (run / "frames").iterdir():
        frame.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(90))
    (run / "frames" / "x.png").write_bytes(b"")
    (run / "frames" / "00000009.png").write_bytes(vast_png())
    (run / "prompts.json").write_bytes(b"[" * 999)
    (run / "log.jsonl").write_bytes(bytes(5000) + b'{"event": "step", "step": 3, "loss": 1e999}\n')
    left = Page(report.of_run(run))
    assert whole.pictures and not left.pictures and "svg" not in left.seen
    assert "What it cost" in left.text and "Settings" in left.text
    for name in ("samples.png", "frames", "prompts.json", "log.jsonl"):
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).unlink(missing_ok=True)
    assert Page(report.of_run(run)).texts == left.texts
    if hasattr(os, "mkfifo"):
        os.mkfifo(run / "samples.png")
        os.mkfifo(run / "log.jsonl")
        assert Page(report.of_run(run)).texts == left.texts


def test_a_run_whose_best_weights_are_kept_says_which_and_what_would_help(run: Path) -> None:
    about = manifest.read(run)
    assert about is not None
    counts = {**about.counts, "kept": 2, "pictures_wanted": 4800}
    manifest.write(run, replace(about, counts=counts))
    with (run / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"event": "turned", "step": 4, "text": "train for less"}) + "\n")
    found = Page(report.of_run(run))
    assert "The weights of step 2 are kept" in found.text and "About 4800 pictures" in found.text
    assert "run memorised its training pictures" in found.text
    assert "train for less" not in found.text, "the best weights are the model"


def test_a_run_whose_end_was_no_better_than_a_step_before_has_not_memorised(run: Path) -> None:
    about = manifest.read(run)
    assert about is not None
    manifest.write(run, replace(about, counts={**about.counts, "kept": 3}))
    found = Page(report.of_run(run))
    assert "The weights of step 3 are kept" in found.text and "memorised" not in found.text


def test_a_page_that_cannot_be_written_is_told_of(run: Path) -> None:
    told: list[Event] = []
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    assert report.write(run, run / "report.html", told.append) is None
    (run / "manifest.json").write_text("{}")
    assert report.write(run, run / "other.html", told.append) is None
    texts = [note.text for note in told if isinstance(note, Note)]
    assert "report.html cannot be written" in texts[0] and "has format None" in texts[1]
    assert {note.level for note in told if isinstance(note, Note)} == {"warning"}


def test_two_datasets_of_one_picture_nothing_held_out_and_a_run_that_went_on(
    cli: Cli, tmp_path: Path
) -> None:
    home = tmp_path / "home"

    def done(*arguments: object) -> Ran:
        ran = cli("--home", home, "--device", "cpu", *arguments)
        assert ran.code == 0, ran.err
        return ran

    for name in ("one", "other"):
        draw_folder(tmp_path / name, 1)
        (tmp_path / name / "0000.txt").write_text(f"{name} <b>picture</b>\n")
        done("prep", tmp_path / name, "--px", 32, "--workers", 1)
    tiny = ("--preset", "tiny", "--set", "batch_size=2")
    done("train-vae", "one", "other", *tiny, "--steps", 2, "--run", "v")
    done("encode", "one", "other")
    train = ("train", "one@v", "other@v", *tiny, "--run", "d", "--steps")
    done(*train, 2)
    out = home / "dalle" / "d" / "report.html"
    out.unlink()
    (out / "in the way").mkdir(parents=True)
    ran = done(*train, 3)
    assert ": trained" in ran.out and "report.html cannot be written" in ran.err
    assert "memorises" not in ran.err, "nothing is held out that could say so"
    shutil.rmtree(out)
    again = done(*train, 3).out
    assert ": already trained" in again and "minutes" not in again, "which nobody asked for"
    assert "\n minutes " in done(*train[:-1], "--minutes", 0.01, "--set", "steps=null").out
    found = Page(out.read_text(encoding="utf-8"))
    assert "Nothing is held out" in found.text
    assert {"tokens/one@v", "tokens/other@v"} <= {*found.texts}
    assert {"one <b>picture</b>", "other <b>picture</b>"} <= {*found.texts}
    cells = found.texts
    assert cells[cells.index("went on after a stop at step") + 1] == "2"
    assert cells[cells.index("training pictures") + 1] == "2"
    assert cells[cells.index("hold-out pictures") + 1] == "0"
    assert cells[cells.index("epochs: how often each was seen") + 1] == "3"

    facts = json.loads(done("evaluate", "--pictures", 4, "--json").out)
    assert facts["report"] == str(out)
    again = Page(out.read_text(encoding="utf-8"))
    assert "hold nothing out" in again.text and "Nothing is held out" in again.text
    assert facts["missing"] and {*facts["missing"]} <= {*again.texts}
    assert "not measured yet" not in again.text
