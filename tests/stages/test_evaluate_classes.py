"""`evaluate` of pictures with labels, of captions alone, and of what cannot be judged."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import Ran, draw_folder, make, run
from PIL import Image

from dallebaby_cli import files
from dallebaby_cli.config import settings
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.progress import ignore
from dallebaby_cli.quality import labels, pretrained
from dallebaby_cli.stages import judge_captions
from dallebaby_cli.stages.status import status
from dallebaby_cli.store import manifest, tokens
from dallebaby_cli.store.shards import Shards

pytestmark = pytest.mark.slow  # they train real models, though small ones

Cli = Callable[..., Ran]
COLOURS = {"blue": (0, 0, 255), "green": (0, 160, 0), "red": (255, 0, 0)}
JUDGE = ("steps=60", "model.widths=[8,8]", "eval_images=20", "batch_size=32", "softened=0.1")
QUICK = ("--device", "cpu", "--set", "retrieved=3", "--set", "near_pictures=12")
QUICK += tuple(word for setting in JUDGE for word in ("--set", f"judge.{setting}"))


def flat_folder(folder: Path, each: int) -> Path:
    """A folder for each colour, with so many pictures of nearly that colour."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = random.integers(-60, 60, (32, 32, 3))
            pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with dalle/c, of colours as classes and of shapes that have captions only, and
    the judge that it needs."""
    base = tmp_path_factory.mktemp("classes")
    home, short = base / "home", ("--preset", "tiny", "--steps", 2)
    prep = ("--px", 32, "--workers", 1, "--set", "holdout_percent=20")
    make(home, "prep", flat_folder(base / "colours", 40), *prep, "--name", "colours")
    make(home, "prep", draw_folder(base / "shapes", 40), *prep, "--name", "shapes")
    make(home, "train-vae", "colours", *short, "--run", "v")
    make(home, "encode", "colours", "shapes")
    make(home, "train", "colours@v", "shapes@v", *short, "--run", "c")
    config = settings.load("evaluate", settings=[f"judge.{setting}" for setting in JUDGE])
    sources = [Shards(home / "images" / name) for name in ("colours", "shapes")]
    labels.train(home, config.judge, labels.labelled(sources), torch.device("cpu"), ignore)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, on a machine without pretrained networks."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(pretrained, "CLIP", str(tmp_path / "clip"))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    return shutil.copytree(made, tmp_path / "home")


def facts_of(ran: Ran) -> dict:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def paint_what_is_asked(self: Sampler, codes: torch.Tensor) -> np.ndarray:
    """Pictures of the colours in turn, as they are asked for, and red ones in place of blue."""
    colours = [COLOURS["red"], COLOURS["green"], COLOURS["red"]]
    drawn = [np.full((32, 32, 3), colours[n % 3], np.uint8) for n in range(len(codes))]
    return np.stack(drawn)


def test_drawn_classes_are_read_beside_real_and_rebuilt_ones(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sampler, "paint", paint_what_is_asked)
    arguments = ("--home", home, "evaluate", *QUICK, "--pictures", 13, "--json")
    ran = cli(*arguments)
    facts = facts_of(ran)
    assert "judge:" not in ran.err, "trained once"
    rows = {row["pictures"]: row for row in facts["agreement"]}
    assert [*rows] == ["drawn", "real", "rebuilt"]
    assert {row["kind"] for row in rows.values()} == {"classes"}
    assert rows["drawn"]["count"] == 12, "each class as often"
    assert rows["real"]["right"]["class"] > 0.9, "colours are easy"
    assert rows["drawn"]["right"]["class"] == pytest.approx(2 / 3)
    blue, green, red = facts["classes"]
    assert (blue["name"], blue["drawn"], blue["taken_for"]) == ("blue", 0, "red")
    assert (red["drawn"], red["taken_for"], green["drawn"]) == (1, None, 1)
    assert all(row["asked"] == 4 and row["held_out"] == 4 for row in facts["classes"])
    judge = facts["judge"]
    assert (judge["classes"], judge["asked"], judge["chance"]) == (3, 3, pytest.approx(1 / 3))
    ((folder, about),) = manifest.every(home, "judges")
    assert str(folder) == judge["folder"] and about.complete
    assert [*about.parents] == ["images/colours", "images/shapes"]
    colours = Shards(home / "images" / "colours")
    assert judge["trained_on"] == len(colours.rows("train")) < 120
    assert [(row["figure"], row["n"]) for row in facts["compared"]] == [
        ("KID x 1000", 13),
        ("FID", 13),
    ]
    assert {row["network"] for row in facts["compared"]} == {f"judges/{folder.name}"}
    assert any("the dataset's own judge of classes" in text for text in facts["missing"])
    ((network, near),) = facts["distance_seen"].items()
    assert network == facts["compared"][0]["network"] and near["drawn_compared"] == 13
    page = Path(facts["report"]).read_text(encoding="utf-8")
    assert all(f"<td>{name}</td>" in page.replace("\n", "") for name in COLOURS)
    nearest, sheet = facts["samples"]
    assert nearest == str(home / "samples/evaluate-nearest.png")
    with Image.open(sheet) as picture:
        step = 144 + 8
        assert picture.width == (1 + 4) * step + 8
        assert picture.getpixel((step + 80, 80)) == (255, 0, 0), "drawn where blue was asked for"
        blue_pixel = picture.getpixel((80, 80))
        assert isinstance(blue_pixel, tuple) and blue_pixel[2] > 150 > blue_pixel[0], "a real one"


def test_the_tables_for_people(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dallebaby_cli.commands.evaluate.EXTREMES", 1)
    monkeypatch.setattr("dallebaby_cli.commands.evaluate.LONGEST", 2)
    ran = cli("--home", home, "evaluate", *QUICK, "--pictures", 6)
    assert ran.code == 0, ran.err
    for words in ("class by class, learned from", "hold-out pictures: its own"):
        assert words in ran.out
    for words in ("the best and the worst; --json has all", "… 1 more"):
        assert words in ran.out
    for words in ("by chance", "looks for a picture's caption among", "found first"):
        assert words in ran.out
    assert len([line for line in ran.out.splitlines() if line.startswith(" classes ")]) == 3
    cut = [line[1:3] for line in ran.out.splitlines() if line[2:3] == "…"]
    assert len(cut) == 2 and {*cut} <= {"b…", "g…", "r…"}, "what is left tells classes apart"


def test_one_picture_is_judged_without_a_crash(cli: Cli, home: Path) -> None:
    facts = facts_of(cli("--home", home, "evaluate", *QUICK, "--pictures", 1, "--json"))
    assert [row["count"] for row in facts["agreement"]] == [1, 1, 1]
    assert any("1 of 3 classes are asked for; --pictures 3" in text for text in facts["missing"])
    assert facts["judge"]["asked"] == 1 and facts["compared"] == []
    assert [row["count"] for row in facts["retrieval"]] == [1, 1]
    assert any("do not trust" in text for text in facts["missing"]), "one picture proves nothing"


def test_a_dvae_alone_is_read_too(cli: Cli, home: Path) -> None:
    facts = facts_of(
        cli("--home", home, "evaluate", *QUICK, "--pictures", 9, "--only-vae", "v", "--json")
    )
    assert [row["pictures"] for row in facts["agreement"]] == ["real", "rebuilt"]
    assert all(row["drawn"] is None and row["asked"] == 0 for row in facts["classes"])
    assert facts["samples"] == [] and facts["retrieval"] == []
    told = cli("--home", home, "evaluate", *QUICK, "--pictures", 9, "--only-vae", "v")
    (row,) = (line.split() for line in told.out.splitlines() if line.startswith(" red "))
    assert len(row) == 5, "nothing was drawn"


def test_a_judge_without_weights_is_told_to_be_damaged(home: Path) -> None:
    ((folder, _),) = manifest.every(home, "judges")
    (row,) = (row for row in status(home) if row.kind == "judges")
    assert row.state == "complete" and row.parents == ["images/colours", "images/shapes"]
    (folder / "model.safetensors").unlink()
    (row,) = (row for row in status(home) if row.kind == "judges")
    assert (
        row.state
        == "(damaged) model.safetensors gone; run `dallebaby evaluate` again with its settings"
    )


def test_two_processes_draw_and_the_first_judges(home: Path) -> None:
    arguments = ("evaluate", *QUICK, "--pictures", 7, "--json", "--processes", 2)
    facts = json.loads(run(home, *arguments).out)
    assert [(row["pictures"], row["count"]) for row in facts["agreement"]] == [
        ("drawn", 6),
        ("real", 6),
        ("rebuilt", 6),
    ]
    assert [row["count"] for row in facts["retrieval"]] == [3, 3] and len(facts["samples"]) == 2


def seal_tokens(home: Path, name: str, change: Callable[[dict], dict]) -> None:
    """Write all rows of tokens/NAME again, changed, as if they had been made so."""
    folder = home / "tokens" / name
    shards = sorted(folder.glob("*.arrow"))
    for path in shards:
        rows = [change(row) for row in pa.ipc.open_file(path.read_bytes()).read_all().to_pylist()]
        codes = np.array([row["codes"] for row in rows], np.uint16).reshape(len(rows), -1, 8, 8)
        columns = ([row[key] for row in rows] for key in ("key", "split", "captions"))
        tokens.write_shard(path, *columns, codes)
    hashes, about = files.hashes(shards), manifest.read(folder)
    assert about
    sealed = replace(about, id=files.hash_of(hashes.values()), hashes=hashes)
    for other, found in manifest.every(home, "dalle"):
        parents = {**found.parents, f"tokens/{name}": sealed.id}
        manifest.write(other, replace(found, parents=parents))
    manifest.write(folder, sealed)


def test_without_hold_out_pictures_nothing_is_asked(cli: Cli, home: Path) -> None:
    for name in ("colours@v", "shapes@v"):
        seal_tokens(home, name, lambda row: {**row, "split": "train"})
    facts = facts_of(cli("--home", home, "evaluate", *QUICK, "--pictures", 3, "--json"))
    assert facts["agreement"] == facts["retrieval"] == [] and facts["judge"] is None
    assert any("hold nothing out" in text for text in facts["missing"])
    assert any("so what it draws is not read" in text for text in facts["missing"])


def test_captions_alone_are_looked_for(cli: Cli, trained: Path, tmp_path: Path) -> None:
    home = shutil.copytree(trained, tmp_path / "home")
    facts = facts_of(cli("--home", home, "evaluate", *QUICK, "--pictures", 4, "--json"))
    assert facts["agreement"] == facts["classes"] == [] and facts["judge"] is None
    assert any("the pictures have no labels" in text for text in facts["missing"])
    drawn, real = facts["retrieval"]
    assert (drawn["pictures"], real["pictures"]) == ("drawn", "real")
    for row in (drawn, real):
        assert row["count"] == 3 and 2 <= row["captions"] <= 8
        assert row["chance_first"] == pytest.approx(1 / row["captions"])
        assert row["chance_rank"] == (row["captions"] + 1) / 2
        assert 0 <= row["first"] <= 1 <= row["rank"] <= row["captions"]
    without = facts_of(
        cli("--home", home, "evaluate", *QUICK, "--set", "retrieved=0", "--json", "--pictures", 4)
    )
    assert without["retrieval"] == [] and not (home / "judges").exists()


def test_each_picture_is_compared_with_each_caption(
    cli: Cli, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a model that knows the real pictures' captions, and nothing of the drawn ones."""
    home = shutil.copytree(trained, tmp_path / "home")
    ((folder, _),) = manifest.every(home, "tokens")
    source, own = tokens.Tokens(folder), dict[bytes, set[str]]()
    for row in source.rows("holdout").tolist():
        own.setdefault(source.views(row)[0].tobytes(), set()).add(source.captions(row)[0])

    def knows(self: Sampler, prompts: list[str], codes: torch.Tensor) -> torch.Tensor:
        pictures = codes.flatten(1).cpu().numpy().astype(np.uint16)
        pairs = zip(prompts, pictures, strict=True)
        return torch.tensor([float(text in own.get(key.tobytes(), ())) for text, key in pairs])

    monkeypatch.setattr(Sampler, "log_p", knows)
    facts = facts_of(cli("--home", home, "evaluate", *QUICK, "--pictures", 4, "--json"))
    drawn, real = facts["retrieval"]
    assert drawn["rank"] == drawn["chance_rank"], "captions that are as likely share their places"
    assert drawn["first"] == pytest.approx(drawn["chance_first"])
    assert real["first"] > 0.6 and real["rank"] < 1.5


def test_captions_that_are_alike_share_their_places() -> None:
    found = torch.tensor([[0.0, 1, 1], [2, 0, 1], [5, 5, 5]])
    row = judge_captions.retrieved("real", found, torch.tensor([2, 1, 0]))
    assert (row.count, row.captions, row.chance_rank) == (3, 3, 2)
    assert row.first == pytest.approx((1 / 2 + 0 + 1 / 3) / 3)
    assert row.rank == pytest.approx((1.5 + 3 + 2) / 3)


def test_one_caption_for_all_is_not_looked_for(cli: Cli, trained: Path, tmp_path: Path) -> None:
    home = shutil.copytree(trained, tmp_path / "home")
    (about,) = (found for _, found in manifest.every(home, "tokens"))
    seal_tokens(home, about.name, lambda row: {**row, "captions": ["a thing"]})
    facts = facts_of(cli("--home", home, "evaluate", *QUICK, "--pictures", 4, "--json"))
    assert facts["retrieval"] == []
    assert any("all hold-out captions are the same" in text for text in facts["missing"])
