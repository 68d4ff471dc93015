"""The scripts that publish figures can be run: each says what it does, and what can be done in a
moment is done in miniature, so that no script breaks unnoticed. Those that train for minutes, or
want other programs' environments, are only asked for help."""

import json
import runpy
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import draw_folder
from PIL import Image
from swarm import needs_aria2

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("*.py"))
ASKED = [path for path in SCRIPTS if "argparse" in path.read_text(encoding="utf-8")]
OURS = BENCHMARKS / "baselines" / "ours.py"  # the baselines have their own libraries
SECTIONS = {"machine", "tests", "draw", "train", "dvae", "loader", "compiled", "chain"}


def ran(
    script: Path,
    arguments: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """What a script prints, run in this process to its good end, or to one that it chooses."""
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    monkeypatch.syspath_prepend(str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("script", [*ASKED, OURS], ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_does(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        ran(script, ("--help",), monkeypatch, capsys)
    assert end.value.code == 0 and "usage:" in capsys.readouterr().out


# ---------------------------------------------------------------- in miniature


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures as `pngs`, and the same as `jpegs`."""
    made = tmp_path_factory.mktemp("benchmarks")
    (made / "jpegs").mkdir()
    for path in draw_folder(made / "pngs", 12, px=200).glob("*.png"):
        with Image.open(path) as picture:
            picture.save(made / "jpegs" / f"{path.stem}.jpg")
    return made


MINIATURES: dict[str, tuple[tuple[object, ...], str]] = {
    "damage": (("FOLDER/jpegs", "--most", 4), "12 whole JPEGs taken"),
    "dvae_step": (("--preset", "tiny", "--px", 32, "--rounds", 1), "its convolutions"),
    "near_duplicates": (("FOLDER/pngs", "--pictures", 12), "12 pictures, "),
    "prep": (("FOLDER/jpegs", "--compete", "Pillow", "--px", 32), ""),
    "scenes": (("--count", 5), "pictures a second on one core"),
}
"""By script: what it is asked for, and what it then says."""


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIATURES)
def test_a_benchmark_works_in_miniature(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = MINIATURES[name]
    asked = tuple(str(word).replace("FOLDER", str(folder)) for word in arguments)
    assert words in ran(BENCHMARKS / f"{name}.py", asked, monkeypatch, capsys)


@pytest.mark.slow
def test_the_loader_is_timed(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (prepared / "images/shapes", "--compete", "**dallebaby**", "--count", 128)
    assert float(ran(BENCHMARKS / "loader.py", asked, monkeypatch, capsys)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("work", ["train", "sample"])
def test_ours_is_timed(
    work: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(OURS.parent))
    timing = __import__("work")
    monkeypatch.setattr(timing, "LEAST", 1)
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    answer = json.loads(ran(OURS, (work, "--grid", 2, "--batch", 1), monkeypatch, capsys))
    assert answer["rate"] > 0 and answer["peak_mb"] > 0


@pytest.mark.slow
def test_the_memory_of_prep_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):  # so few pictures tell nothing of its growth
        ran(BENCHMARKS / "prep_memory.py", ("--few", 4, "--many", 8), monkeypatch, capsys)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 5 and all(float(row.split(" | ")[2]) > 10 for row in rows[1:]), "in MB"


@pytest.mark.slow
@needs_aria2
def test_a_download_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--only-ours", "--gb", 0.001, "--small", 3, "--rounds", 1)
    out = ran(BENCHMARKS / "fetch.py", asked, monkeypatch, capsys)
    assert out.count("| dallebaby | ") == 2


# ---------------------------------------------------------------- what a GPU is asked for


def gpu(*arguments: object, here: Path) -> tuple[int, list[dict], str]:
    """`gpu.py --cpu` in a process of its own: exit code, lines, and errors."""
    command = [sys.executable, BENCHMARKS / "gpu.py", "--cpu", *arguments]
    asked = [str(word) for word in command]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=here)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.slow
def test_all_that_is_asked_of_a_gpu_works_on_a_cpu(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "pngs", tmp_path / "photos")
    code, lines, err = gpu("--photos", "photos", "--pictures", ".", here=tmp_path)
    found: dict[str, list[dict]] = {}
    for line in lines:
        found.setdefault(line["section"], []).append(line)
    assert code == 0 and not [line for line in lines if "error" in line], err
    assert found.keys() == SECTIONS
    assert found["machine"][0]["matmul_bf16_tflops"] > 0 and found["machine"][0]["read_gb_s"] > 0
    assert found["tests"][0]["passed"] and " passed, " in found["tests"][0]["summary"]
    batches = [(row["pictures"], row["guidance"]) for row in found["draw"]]
    assert batches == [(1, 3), (1, 1), (3, 3), (3, 1)]
    rates = ("pictures_per_s", "ms_a_code", "mbu", "unrecorded_pictures_per_s")
    assert all(row[rate] > 0 for row in found["draw"] + found["compiled"] for rate in rates)
    assert all(row["mfu"] > 0 for row in (found["train"][0], found["dvae"][0]))
    assert found["dvae"][1]["encode_images_s"] > 0 and found["loader"][0]["images_s"] > 0
    commands = ["prep", "train-vae", "encode", "train", "generate"]
    assert [row["command"] for row in found["chain"]] == commands
    assert (tmp_path / "chain.png").exists()


@pytest.mark.slow
def test_what_fails_on_a_gpu_says_why_and_the_rest_runs(tmp_path: Path) -> None:
    asked = ("--photos", "nowhere", "--only", "chain", "machine")
    code, (chain, machine), _ = gpu(*asked, here=tmp_path)
    assert code == 1 and chain["command"] == "prep" and chain["exit"] != 0
    assert "error: " in chain["error"] and "nowhere" in chain["error"]
    assert machine["section"] == "machine" and "error" not in machine


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[], ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("gpu_bench")


def test_a_section_ends_when_its_time_is_over(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dallebaby_cli.drawing import speed
    from dallebaby_cli.training import peak

    monkeypatch.setattr(speed, "LONG_S", speed.LONG_S)  # put back what it sets
    monkeypatch.setattr(peak, "PATIENCE_S", peak.PATIENCE_S)
    tried = bench.Bench(Namespace(cpu=True, presets=[]))
    began = time.monotonic()
    with pytest.raises(bench.OutOfTimeError, match="it has had its 1 s"), tried.bounded(1):
        time.sleep(30)
    talking = "import sys, time; print('last words', file=sys.stderr, flush=True); time.sleep(60)"
    with tried.bounded(8):
        code, _, err = tried.run("-c", talking)
    assert code is None and "last words\nkilled after" in err
    assert "last words" in bench.failure(code, err)["error"]
    assert bench.failure(0, err) == {}
    tried.end = time.monotonic()
    with pytest.raises(bench.OutOfTimeError, match="no time is left"), tried.bounded(60):
        pass
    assert time.monotonic() - began < 25
