"""The ladder and the sweep of drawings in miniature: which rows are run, what is kept, and what
their figures mean."""

import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import lively_sampler, make
from test_benchmarks import BENCHMARKS, ran

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.config.settings import load
from dallebaby_cli.models.pictures import to_tensor
from dallebaby_cli.quality.figures import Evaluated, Row
from dallebaby_cli.quality.pretrained import Compared
from dallebaby_cli.store import manifest

TOKENS = "shapes@v"
SMALL = ("--preset", "tiny", "--minutes", 1, "--steps", 2, "--threads", 1, "--seeds", 0, 1)


class Tool:
    """`dallebaby ARGUMENTS...` in this process, which has loaded torch already; what it was asked
    for, and canned figures for `evaluate`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, home: Path, *arguments: object) -> str:
        self.asked.append(tuple(map(str, arguments)))
        if arguments[0] != "evaluate":
            try:
                make(home, *arguments)
            except AssertionError as error:
                raise SystemExit(1) from error
            return ""
        cold = any(word == "sampling.temperature=0.5" for word in self.asked[-1])
        done = Evaluated(
            home,
            compared=[
                Compared("KID", "here", 4, 1.0, 2.5 + cold, 0.0),
                Compared("FID", "x", 4, 1, None, 0),
            ],
            agreement=[
                Row("seen pairs", "drawn", 4, {"thing": 0.5, "all": 0.25}),
                Row("seen pairs", "real", 4, {"thing": 1.0, "all": 1.0}),
            ],
        )
        return json.dumps(asdict(done), default=str) + "\n"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    replacement = Tool()
    monkeypatch.setattr(__import__("baby"), "dallebaby", replacement)
    return replacement


@pytest.fixture
def ladder(tool: Tool) -> ModuleType:
    return __import__("ladder")


@pytest.mark.slow
def test_rows_are_run_once_and_stand_beside_the_base_of_their_seed(
    trained: Path,
    tmp_path: Path,
    tool: Tool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind in ("images", "vae", "tokens"):
        (tmp_path / kind).symlink_to(trained / kind)
    asked = (tmp_path, TOKENS, *SMALL, "--only", "text-0", "--row", "lost: model.depth=100000000")

    def script(*more: object) -> str:
        return ran(BENCHMARKS / "ladder.py", (*asked, *more), monkeypatch, capsys)

    out = script()
    table = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    names = ["base: today's recipe", "text-0: no weight on the caption"]
    assert [row[0] for row in table[2:]] == [f"| {name}" for name in names]
    assert [row[3] for row in table[2:]] == ["2", "2"]
    assert out.splitlines()[-1] == "lost: 2 of 2 seeds came to nothing"
    assert len(tool.asked) == 6 and {words[0] for words in tool.asked} == {"train"}
    first = [(words[words.index("--seed") + 1], "--set" in words) for words in tool.asked]
    assert first != sorted(first), "in no order that a busy hour could favour"

    shown = script("--kept").splitlines()
    assert len(tool.asked) == 6 and shown[-1] == "lost: 2 of 2 seeds are not there yet"
    assert [line for line in shown if line.startswith("| ")] == [" | ".join(row) for row in table]
    lines = {line["row"]: line for line in json.loads(script("--json"))[TOKENS]}
    assert len(tool.asked) == 8, "what was run is kept, and what came to nothing is tried again"
    runs = {path.name: manifest.read(path) for path in (tmp_path / "dalle").iterdir()}
    assert len(runs) == 4 and not [*tmp_path.rglob("state.pt")]
    for name, line in lines.items():
        for seed, bits, against in zip((0, 1), line["bits"], line["difference"], strict=True):
            (about,) = (
                m for n, m in runs.items() if m and n.startswith(f"ladder-{name}-2steps-{seed}")
            )
            assert about.counts["bits_per_code"] == bits and about.config["seed"] == seed
            assert against == pytest.approx(bits - lines["base"]["bits"][seed])
            assert about.config["text_weight"] == (0 if name == "text-0" else 0.125)

    tool.asked.clear()
    judged = script("--pictures", 4)
    assert [words[0] for words in tool.asked].count("evaluate") == 4
    assert judged.count("| 2.5 (2.5 to 2.5) | 0.25 (0.25 to 0.25) |") == 2
    head = next(line for line in judged.splitlines() if line.startswith("| "))
    assert head.endswith("| KID, here | right, seen pairs |")
    tool.asked.clear()
    script("--set", "text_weight=0.5", "--only", "text-0", "--seeds", 0)
    (again, _) = sorted(tool.asked, key=lambda words: "model.depth=100000000" in words)
    assert "text_weight=0.5" in again and "text_weight=0" not in again, "the base alone is another"


@pytest.mark.slow
def test_views_are_made_once_and_leave_the_tokens_alone(
    trained: Path,
    tmp_path: Path,
    tool: Tool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind in ("images", "vae", "tokens"):
        (tmp_path / kind).symlink_to(trained / kind)
    plain = manifest.read(trained / "tokens" / TOKENS)
    asked = (tmp_path, TOKENS, *SMALL[:-1], "--only", "flips")
    out = ran(BENCHMARKS / "ladder.py", asked, monkeypatch, capsys)
    assert "| flips: each picture and its mirror | " in out
    (views,) = (tmp_path / "ladder" / "views").iterdir()
    about = manifest.read(views / "tokens" / TOKENS)
    assert about is not None and about.counts["views"] == 2 and about.config["flip"] is True
    assert plain is not None and manifest.read(trained / "tokens" / TOKENS) == plain
    assert (views / "dalle").exists() and len([*(tmp_path / "dalle").iterdir()]) == 1


def test_differences_are_clear_where_all_seeds_agree(ladder: ModuleType) -> None:
    assert ladder.clear([-0.05, -0.04, -0.06]) and ladder.clear([0.02, 0.025, 0.02])
    assert not ladder.clear([-0.05, 0.01, -0.05])  # one seed says otherwise
    assert not ladder.clear([-0.01, -0.05, -0.02])  # they agree on too little
    assert not ladder.clear([-0.05, -0.05]) and not ladder.clear([0.0, 0.0, 0.0])  # or are too few


def test_rows_are_compared_with_the_base_of_the_same_seed(ladder: ModuleType) -> None:
    def facts(bits: float, **judged: float) -> dict:
        both = {"judged": judged} if judged else {}
        alike = {"steps": 10, "images_per_s": 5.0, "seconds": 120.0, "threads": 1}
        return {"bits": bits, "compiled": False, **alike, **both}

    rows = {name: ladder.ROWS[name] for name in ("base", "batch-16", "wide")}
    found = {
        "base": {0: facts(5.0, KID=3.0), 1: facts(6.0), 2: facts(5.5)},
        "batch-16": {0: facts(4.8), 1: facts(5.7), 2: facts(5.25)},
        "wide": {},
    }
    lines = ladder.summed(found, rows)
    assert [line["row"] for line in lines] == ["base", "batch-16"]
    assert lines[1]["difference"] == pytest.approx([-0.2, -0.3, -0.25]) and lines[1]["clear"]
    text = ladder.shown(lines).splitlines()
    assert text[2].endswith("| 5.500 (5.000 to 6.000) |  | 10 | 5 | 2.0 | 3 |")
    assert "| **-0.250 (-0.300 to -0.200)** | 10 | 5 | 2.0 |  |" in text[3]
    assert ladder.uneven(lines) == ""
    lines[1]["compiled"] = [True, False, True]
    assert "--set compile=false" in ladder.uneven(lines)


def test_every_row_is_of_settings_that_there_are(ladder: ModuleType) -> None:
    for name, row in ladder.ROWS.items():
        if name != "base":
            assert ladder.load("train", preset="scenes", settings=row.settings) and row.title
            assert ladder.load("encode", settings=row.views)
            assert bool(row.settings) != bool(row.views)


# ---------------------------------------------------------------- other orders


@pytest.mark.slow
def test_orders_are_compared_drawn_from_and_filled_once(
    trained: Path,
    tmp_path: Path,
    tool: Tool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind in ("images", "vae", "tokens"):
        (tmp_path / kind).symlink_to(trained / kind)
    rates = [{"pictures": n, "guidance": 3.0, "pictures_per_s": 0.5 * n} for n in (1, 8, 32)]

    def timed(home: Path, *arguments: object) -> str:
        asked_for = tool(home, *arguments)
        return json.dumps({"rows": rates}) if "--speed" in arguments else asked_for

    monkeypatch.setattr(__import__("baby"), "dallebaby", timed)
    monkeypatch.setattr(__import__("ladder"), "dallebaby", timed)
    filled: list[tuple[Any, ...]] = []

    def fill(*asked: Any) -> dict[str, float]:
        filled.append(asked)
        return {"KID, here": 1.0, "right, filled": 0.5}

    monkeypatch.setattr(__import__("filling"), "filled", fill)
    asked = (tmp_path, TOKENS, *SMALL[:-1], "--only", "quarter", "--passes", 4, "--pictures", 4)
    out = ran(BENCHMARKS / "orders.py", asked, monkeypatch, capsys)
    assert "| quarter: a quarter at first, a tenth at last | " in out
    assert f"{TOKENS}: each picture was seen 0.1 times in raster order alone" in out
    for name in ("raster order", "4 passes, diagonal", "4 passes, halton", "4 passes, confidence"):
        assert f"| {name} | 0.50 | 4.00 | 2.50 | 25.0% |" in out
    found = [(way, config.steps) for *_, way, config in filled]
    assert found == [("top", None), ("centre", None), ("centre", 4)]
    assert out.count(" | 1.00 | 50.0% |") == 3
    (run,) = (path for path in (tmp_path / "dalle").iterdir() if "-quarter-" in path.name)
    about = manifest.read(run)
    assert about is not None and about.config["random_order"] == 0.25
    tool.asked.clear()
    ran(BENCHMARKS / "orders.py", asked, monkeypatch, capsys)
    assert not tool.asked and len(filled) == 3, "nothing is run twice"


def test_a_quarter_in_the_middle_is_masked(tool: Tool) -> None:
    filling = __import__("filling")
    codes = torch.arange(64).view(1, 8, 8) + 1
    centre, top = (filling.known(codes, way) for way in filling.WAYS)
    assert (centre < 0).sum() == 16 and (centre[:, 2:6, 2:6] < 0).all()
    assert (top[:, :2] == codes[:, :2]).all() and (top[:, 2:] < 0).all()


def test_filled_pictures_are_compared_with_real_ones(tool: Tool) -> None:
    filling = __import__("filling")
    sampler = lively_sampler(any_order=True)
    side = sampler.image_tokenizer.image_px
    real = to_tensor(np.random.default_rng(0).integers(0, 256, (6, side, side, 3), np.uint8))
    drawn = filling._fill(sampler, ["a red car"] * 6, real, "centre", SampleConfig(steps=2))
    assert drawn.shape == real.shape
    assert any(name.startswith("KID") for name in filling._far(sampler, real, drawn, None))


def test_rows_of_orders_are_of_settings_that_there_are(ladder: ModuleType) -> None:
    for name, row in __import__("orders").ROWS.items():
        config = ladder.load("train", preset="scenes", settings=row.settings)
        assert config.random_order is not None and (config.random_order > 0) == (name != "base")


# ---------------------------------------------------------------- ways of drawing


def test_ways_of_drawing_are_judged_once(
    trained: Path,
    tmp_path: Path,
    tool: Tool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "dalle").symlink_to(trained / "dalle")
    asked = (tmp_path, "d", "--pictures", 4, "--temperatures", 0.5, 1, "--guidances", 1, 3)
    shapes = ("--shapes", "constant", "middle", "--threads", 1)
    out = ran(BENCHMARKS / "drawing_sweep.py", (*asked, *shapes), monkeypatch, capsys)
    table = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    assert table[0][3:] == ["KID, here", "right, seen pairs", "unbeaten |"]
    drawn = [(row[0][2:], *row[1:]) for row in table[2:]]
    assert drawn == [
        ("constant", "0.5", "1", "3.5", "**25.0%**", " |"),
        ("constant", "1", "1", "**2.5**", "**25.0%**", "★ |"),
        ("constant", "0.5", "3", "3.5", "**25.0%**", " |"),
        ("constant", "1", "3", "**2.5**", "**25.0%**", "★ |"),
        ("middle", "0.5", "3", "3.5", "**25.0%**", " |"),
        ("middle", "1", "3", "**2.5**", "**25.0%**", "★ |"),
    ], "without guidance one shape is as any other"
    asked_for = [" ".join(words) for words in tool.asked]
    assert len(asked_for) == 6
    assert "sampling.guidance_interval=[0.1,0.8]" in asked_for[-1]
    again = ran(BENCHMARKS / "drawing_sweep.py", (*asked, "--json"), monkeypatch, capsys)
    assert len(tool.asked) == 6
    assert [row["unbeaten"] for row in json.loads(again)] == [False, True, False, True]


def test_settings_of_shapes_are_settings_that_there_are(tool: Tool) -> None:
    shapes = __import__("drawing_sweep").SHAPES
    for settings in shapes.values():
        assert load("evaluate", settings=[f"sampling.{setting}" for setting in settings])


def test_what_evaluate_cannot_measure_is_left_out(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = __import__("judged").judged
    answers = ["{}", json.dumps({"agreement": [{"pictures": "drawn", "right": {"class": 0.5}}]})]
    monkeypatch.setattr(__import__("baby"), "dallebaby", lambda *_: answers.pop(0))
    assert judged(Path(), Path(), 4) == {}
    assert judged(Path(), Path(), 4) == {"right, asked": 0.5}
