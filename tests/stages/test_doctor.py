"""doctor: what it finds in good and bad workspaces, and that it leaves no trace but a picture."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Ran, make
from PIL import Image

from dallebaby_cli import files
from dallebaby_cli.models import device
from dallebaby_cli.store import extra_captions, manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training import loop, peak, plan

Cli = Callable[..., Ran]
PARTS = ("learning", "loader", "memory", "time")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits are measured once and not several times."""
    monkeypatch.setattr(peak, "PATIENCE_S", 0.0)


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "home")


@pytest.fixture
def examine(cli: Cli) -> Callable[..., tuple[int, dict[str, Any], dict[str, dict[str, str]]]]:
    """Run `doctor --json` with the tiny preset: exit code, all facts, the checks by name."""

    def ask(home: Path, *arguments: object) -> tuple[int, dict[str, Any], dict[str, Any]]:
        ran = cli("--home", home, "doctor", "--preset", "tiny", "--json", *arguments)
        facts = json.loads(ran.out) if ran.out else {}
        return ran.code, facts, {check["name"]: check for check in facts.get("checks", [])}

    return ask


Examine = Callable[..., tuple[int, dict[str, Any], dict[str, dict[str, str]]]]


def picture_folder(folder: Path, colours: list[tuple[int, int, int]]) -> Path:
    folder.mkdir()
    for number, colour in enumerate(colours):
        Image.new("RGB", (32 + number, 32 + number), colour).save(folder / f"{number:03}.png")
    return folder


def test_a_good_workspace_gets_a_table_and_a_picture(cli: Cli, home: Path) -> None:
    before = {path.relative_to(home) for path in home.rglob("*")}
    ran = cli("--home", home, "doctor", "--preset", "tiny")
    assert ran.code == 0, ran.err
    fine = {"versions", "device", "precision", "libtorrent", "limits", "pixels", "disk"}
    fine |= {f"{stage}: {part}" for stage in ("train-vae", "train") for part in PARTS}
    lines = ran.out.splitlines()  # a check each
    for name in fine:
        assert any(line.startswith(f"ok    {name}: ") for line in lines), (name, ran.out)
    assert any(line.startswith("warn  images/shapes: ") for line in lines)  # of 400 pictures
    assert "next: dallebaby train-vae shapes --preset tiny" in ran.err
    with Image.open(home / "doctor.png") as picture:
        assert picture.size == (4 * 34 - 2, 4 * 34 - 2)  # a batch of 16
    after = {path.relative_to(home) for path in home.rglob("*")}
    assert after - before == {Path("doctor.png")}


def test_runs_are_estimated_as_planned(examine: Examine, home: Path) -> None:
    code, facts, checks = examine(home, "shapes", "--set", "steps=300", "--set", "eval_every=100")
    vae, dalle = facts["runs"]
    assert code == 0 and facts["ok"] and facts["picture"] == str(home / "doctor.png")
    assert (vae["stage"], dalle["stage"]) == ("train-vae", "train")
    for run_ in (vae, dalle):
        assert run_["steps"] == 300 and run_["seconds"] > 300 * run_["step_s"] > 0
        assert run_["last_loss"] < run_["first_loss"]
        time = checks[f"{run_['stage']}: time"]["found"]
        assert "300 steps of" in time and 0 < run_["mfu"] <= 1
        assert f"/s, {run_['mfu']:.0%} of peak)" in time
    assert vae["epochs"] == dalle["epochs"] == pytest.approx(300 * 16 / 400, rel=0.2)
    often = f"each is seen {dalle['epochs']:.1f} times, so the run may memorise them"
    assert dalle["memorises"] and checks["train: pictures"]["found"] == often
    assert not vae["memorises"] and "train-vae: pictures" not in checks
    assert dalle["unit"] == "tokens" and dalle["units_per_s"] == pytest.approx(
        16 * (16 + 8 * 8) / dalle["step_s"]
    )


def test_the_machine_s_limits_are_told(
    examine: Examine, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, facts, checks = examine(tmp_path)
    flops = facts["limits"]["matmul_flops"]
    assert code == 0 and list(flops) == ["fp32", "bf16"] and min(flops.values()) > 1e8
    assert facts["limits"]["read_bytes_per_s"] > 1e8 and checks["limits"]["state"] == "ok"
    monkeypatch.setattr(
        peak, "matmul_peak", lambda _, precision: {"fp32": 2e12, "bf16": 3e12}[precision]
    )
    monkeypatch.setattr(peak, "bandwidth", lambda device: 45.6e9)
    words = "matrix products, TFLOP/s: 2 in fp32, 3 in bf16 (emulated); memory 45.6 GB/s read"
    assert f"limits: {words}\n" in cli("--home", tmp_path, "doctor").out


def test_a_setting_goes_to_the_models_that_have_it(examine: Examine, cli: Cli, home: Path) -> None:
    small = ("--set", "model.dim=32", "--set", "model.width=8", "--set", "model.text_tokens=2")
    _, facts, checks = examine(home, *small)
    _, larger, whole = examine(home)
    for mine, theirs in zip(facts["runs"], larger["runs"], strict=True):
        assert mine["parameters"] < theirs["parameters"]
    assert checks["train: captions"]["state"] == "warn"
    assert "captions have over text_tokens=2 tokens" in checks["train: captions"]["found"]
    assert whole["train: captions"]["state"] == "ok"
    ran = cli("--home", home, "doctor", "--set", "model.widht=8")
    assert ran.code == 2 and "unknown setting model.widht; did you mean 'width'" in ran.err


def test_an_hours_long_plan_is_warned_of(examine: Examine, home: Path) -> None:
    code, _, checks = examine(home, "--set", "steps=1000000000")
    assert code == 0 and checks["train: time"]["state"] == "warn"
    assert "hours" in checks["train: time"]["found"] and checks["train: time"]["advice"]


@pytest.mark.slow
def test_codes_that_are_there_are_used(examine: Examine, home: Path) -> None:
    short = ("--preset", "tiny", "--steps", 2, "--set", "model.grid=4")
    make(home, "train-vae", *short)
    make(home, "encode")
    _, facts, _ = examine(home)
    dalle = facts["runs"][1]
    assert dalle["units_per_s"] * dalle["step_s"] == pytest.approx(16 * (16 + 4 * 4))

    make(home, "train-vae", *short, "--steps", 3, "--run", manifest.newest(home, "vae")[1].name)
    code, _, checks = examine(home)
    assert code == 1 and checks["train"]["state"] == "fail"
    assert "has been trained further" in checks["train"]["advice"]


# ---------------------------------------------------------------- before there are pictures


def test_an_empty_workspace_is_told_how_to_begin(cli: Cli, tmp_path: Path) -> None:
    ran = cli("--home", tmp_path / "home", "doctor")
    assert ran.code == 0 and "none prepared yet" in ran.out and "prep scenes" in ran.err
    assert not (tmp_path / "home").exists()


def test_a_dataset_is_measured_against_the_disk(
    examine: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, expected in ((10**14, "ok"), (60 * 10**9, "warn"), (10**10, "fail")):
        monkeypatch.setattr(files, "free_bytes", lambda _, free=free: free)
        code, facts, checks = examine(tmp_path, "openimages")
        assert checks["disk"]["state"] == expected and code == (expected == "fail")
        assert facts["next"] == "dallebaby fetch openimages"
    assert "10.0 GB free" in checks["disk"]["found"] and "--home" in checks["disk"]["advice"]


def test_what_needs_no_download_goes_to_prep(examine: Examine, tmp_path: Path) -> None:
    code, facts, checks = examine(tmp_path, "scenes")
    assert code == 0 and facts["next"] == "dallebaby prep scenes"
    assert "about 20,000 pictures" in checks["pictures"]["found"]


def test_a_name_that_nobody_knows(cli: Cli, tmp_path: Path) -> None:
    ran = cli("--home", tmp_path, "doctor", "ccoo")
    assert ran.code == 2 and "did you mean 'coco'" in ran.err


def test_more_scenes_need_more_room(examine: Examine, tmp_path: Path) -> None:
    _, _, checks = examine(tmp_path, "scenes", "--set", "limit=500000")
    assert checks["pictures"]["found"] == "not prepared yet; about 500,000 pictures"
    assert " GB" in checks["disk"]["found"].partition("at most")[2]


def test_captions_that_a_model_wrote_count(examine: Examine, cli: Cli, tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "plain", [(n, 90, 200 - n) for n in range(0, 200, 4)])
    assert cli("--home", tmp_path, "prep", folder, "--px", 32, "--workers", 1).code == 0
    images = tmp_path / "images" / "plain"
    shards = Shards(images)
    written = tmp_path / "written"
    rows = [(shards.key(row), ["a plain colour"], Counter[str]()) for row in range(50)]
    written.write_bytes(extra_captions.part(rows))
    config = {"models": {"model:somebody": {}}}
    of = {"images/plain": shards.id}
    draft = Manifest(kind="captions", name="plain", config=config, parents=of)
    extra_captions.put(images, draft, "model:somebody", [written])
    _, facts, _ = examine(tmp_path)
    assert [run["stage"] for run in facts["runs"]] == ["train-vae", "train"]


def test_what_a_killed_one_left_is_removed(examine: Examine, home: Path) -> None:
    left = home / ".doctor" / "scratch" / "plan.pt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a checkpoint")
    code, _, _ = examine(home)
    assert code == 0 and not (home / ".doctor").exists()


# ---------------------------------------------------------------- what is wrong


def test_black_pictures_without_captions(examine: Examine, cli: Cli, tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "black", [(0, 0, 0)] * 30)
    assert cli("--home", tmp_path, "prep", folder, "--px", 32, "--workers", 1).code == 0
    code, _, checks = examine(tmp_path)
    assert checks["pixels"]["state"] == "warn" and "flat" in checks["pixels"]["advice"]
    assert (
        checks["images/black"]["state"] == "warn" and "memorise" in checks["images/black"]["advice"]
    )
    assert checks["train"]["state"] == "warn" and "no captions" in checks["train"]["advice"]
    assert code == 0 and "train: learning" not in checks


def test_a_damaged_shard_fails(examine: Examine, home: Path) -> None:
    shard = next((home / "images" / "shapes").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1])
    code, facts, checks = examine(home)
    assert code == 1 and not facts["ok"] and not facts["runs"]
    assert shard.name in checks["images/shapes"]["advice"]


def test_too_little_memory_fails_with_advice(
    examine: Examine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_step(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(loop, "take_step", take_step)
    code, _, checks = examine(home)
    assert code == 1 and checks["train-vae: memory"]["found"] == "too little"
    assert "accumulate" in checks["train: memory"]["advice"]


def test_a_batch_that_does_not_fit_says_which_does(
    examine: Examine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = plan.take_step

    def with_little_memory(task: Any, state: Any, *more: Any) -> Any:
        if state.config.batch_size // state.config.accumulate > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return take_step(task, state, *more)

    monkeypatch.setattr(plan, "take_step", with_little_memory)
    code, _, checks = examine(home)
    for stage in ("train-vae", "train"):
        assert checks[f"{stage}: memory"]["advice"].endswith(
            "4 at a time fit: --set accumulate=4, which learns the same, or --set batch_size=4"
        )
    assert code == 1


def test_a_loss_that_does_not_fall_fails(examine: Examine, home: Path) -> None:
    code, _, checks = examine(home, "--set", "optim.lr=1e9")
    assert code == 1 and checks["train-vae: learning"]["state"] == "fail"


def test_emulated_bf16_is_warned_of(
    examine: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, checks = examine(tmp_path, "--set", "precision=bf16")
    assert checks["precision"]["state"] == "warn"
    _, _, checks = examine(tmp_path)
    assert checks["precision"]["found"] == "fp32"


def test_parts_that_are_missing_are_warned_of(
    examine: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dallebaby_cli.fetch.torrent", None)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(device, "resolve", lambda _: torch.device("cpu"))
    code, _, checks = examine(tmp_path)
    assert code == 0
    assert checks["libtorrent"]["state"] == checks["device"]["state"] == "warn"
    assert "HTTP only" in checks["libtorrent"]["advice"]
