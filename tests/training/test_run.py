"""A run's folder: extended, stopped, spoilt by power cuts, and told apart from others."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_loop import LineTask

from dallebaby_cli import progress
from dallebaby_cli.config import OptimConfig, RunConfig
from dallebaby_cli.errors import BadInput, Interrupted, Mismatch, MissingInput
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.training import identity, log_reader, run
from dallebaby_cli.training.board import Board

CPU = torch.device("cpu")
CONFIG = RunConfig(batch_size=8, eval_every=10)


def finish(
    folder: Path, steps: int, task: LineTask | None = None, config: RunConfig = CONFIG
) -> tuple[run.Finished, list[str]]:
    """The end of a run and the warnings on the way there."""
    notes: list[progress.Event] = []
    asked = dataclasses.replace(config, steps=steps)
    described = {"model": {}}
    done = run.finish(
        *(folder, "vae", task or LineTask(), asked, {}, lambda: described, CPU, notes.append)
    )
    return done, [n.text for n in notes if isinstance(n, progress.Note) and n.level == "warning"]


def stop(folder: Path, at: int, steps: int) -> None:
    """Start or extend a run and end it by a signal."""

    def signalled() -> None:
        if (folder / "log.jsonl").exists():  # not yet while it is planned
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"stopped at step {at + 1}"):
        finish(folder, steps, LineTask(at_step={at: signalled}))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("dataset", ["日" * 33, "Фотографии-собак-и-кошек", "x" * 100])
def test_every_dataset_gives_names_that_a_run_and_its_tokens_can_have(
    tmp_path: Path, dataset: str
) -> None:
    assert manifest.artefact(tmp_path, "images", dataset).name == dataset
    name = identity.name([dataset, "other"], "baby-128", CONFIG, {})
    assert manifest.artefact(tmp_path, "vae", name).name == name
    assert manifest.artefact(tmp_path, "tokens", f"{dataset}@{name}").name.endswith(name)
    assert len(identity.name(["x" * 99], "", CONFIG, {})) == len(f"{'x' * 60}--012345")  # as ever


def test_a_run_stopped_beyond_what_is_asked_ends_at_once(tmp_path: Path) -> None:
    stop(tmp_path, at=30, steps=40)
    task = LineTask()
    done, _ = finish(tmp_path, 20, task)
    assert done.fresh and done.manifest.complete and done.manifest.counts["steps"] == 31
    assert task.seen == [0] * 4, "of copies: what a step keeps, twice; its work; memory of it all"
    sealed = files(tmp_path)
    assert not finish(tmp_path, 25)[0].fresh and files(tmp_path) == sealed
    stop(tmp_path, at=50, steps=60)  # it is extended, and what is sealed stays as it was
    assert files(tmp_path)["config.json"] == sealed["config.json"]
    assert manifest.read(tmp_path).counts["steps"] == 31
    assert finish(tmp_path, 40)[0].manifest.counts["steps"] == 51
    weights.read_model(tmp_path, "vae")


@pytest.mark.parametrize("lost", ["state.pt", "model.safetensors"])
def test_a_finished_run_without_its_state_is_not_begun_anew_in_silence(
    tmp_path: Path, lost: str
) -> None:
    folder = tmp_path / "r"
    finish(folder, 20)
    (folder / "state.pt").unlink()
    before = files(folder)
    if lost == "state.pt":
        with pytest.raises(MissingInput, match=r"state\.pt is gone, .* --from r and a new name"):
            finish(folder, 30)
        assert files(folder) == before
        assert not finish(folder, 20)[0].fresh
        return
    (folder / "model.safetensors").unlink()  # then there is nothing left to lose
    done, warnings = finish(folder, 20)
    assert done.fresh and weights.read_model(folder, "vae")
    assert f"there is no {folder / 'state.pt'}, so it begins at step 0" in warnings[1]


def test_a_state_of_nobody_knows_what_is_not_continued(tmp_path: Path) -> None:
    stop(tmp_path, at=5, steps=20)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(BadInput, match=r"has a state\.pt and no manifest\.json, .* remove"):
        finish(tmp_path, 20)


def test_other_settings_are_named_with_their_values(tmp_path: Path) -> None:
    finish(tmp_path, 5)
    other = RunConfig(batch_size=8, eval_every=7, optim=OptimConfig(lr=0.5))
    with pytest.raises(Mismatch) as caught:
        finish(tmp_path, 5, config=other)
    was = CONFIG.optim.lr
    assert f"optim.lr: {was} then, 0.5 now" in str(caught.value)
    assert "eval_every: 10 then, 7 now" in str(caught.value)


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {"steps": "20", "minutes": 1},
        {"steps": 20, "minutes": 0},
        {"steps": 20, "minutes": 1, "threads": -1},
        {"steps": 20, "minutes": 1, "step_s": None},
        {"steps": 20, "minutes": 1},  # no figures
    ],
)
def test_a_manifest_without_its_figures_is_named(tmp_path: Path, counts: dict) -> None:
    finish(tmp_path, 5)
    about = manifest.read(tmp_path)
    manifest.write(tmp_path, dataclasses.replace(about, counts=counts))
    with pytest.raises(BadInput, match=r"manifest\.json is damaged \(.*restore it, or remove"):
        finish(tmp_path, 5)


# ---------------------------------------------------------------- what is only to look at


def test_pictures_that_cannot_be_made_prevent_nothing(tmp_path: Path) -> None:
    (tmp_path / "training.gif" / "in the way").mkdir(parents=True)
    done, (warning,) = finish(tmp_path, 20)
    assert done.manifest.complete and weights.read_model(tmp_path, "vae")
    assert warning.startswith(f"{tmp_path / 'training.gif'} cannot be made (")


def test_pictures_of_a_step_that_cannot_be_kept_prevent_nothing(tmp_path: Path) -> None:
    (tmp_path / "line.png" / "in the way").mkdir(parents=True)
    done, warnings = finish(tmp_path, 20)
    assert done.manifest.complete
    assert warnings[-1].startswith("the pictures of step 20 cannot be kept (")


def test_what_a_power_cut_spoilt_does_not_count(tmp_path: Path) -> None:
    stop(tmp_path, at=15, steps=40)
    log = tmp_path / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    ends = bytes(4096), b"\n", b"[" * 10_000 + b"\n", b"[1]\n", b'{"event": "step"}\n', b"\xff\n"
    log.write_bytes(b"".join([*lines[:-1], *ends, lines[-1], b'{"event": "st', bytes(512)]))
    frames = sorted((tmp_path / "frames").glob("*.png"))
    frames[0].write_bytes(bytes(frames[0].stat().st_size))
    done, warnings = finish(tmp_path, 20)
    assert done.manifest.complete and warnings == []
    whole = []
    for line in log.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            whole.append(json.loads(line))
    assert whole[-1]["event"] == "evaluation", "what came after it is whole"
    errors = {e["step"]: e["error"] for e in whole if "error" in e}
    assert {0, 10, 20} <= errors.keys() and errors in log_reader.read(log).curves.values()
    with Image.open(tmp_path / "training.gif") as animation:
        assert animation.n_frames == 2, "black as at first, white at last"


def test_tensorboard_reads_what_a_run_wrote(tmp_path: Path) -> None:
    done, _ = finish(tmp_path, 20)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (last,) = (e for e in found.Scalars("holdout/error") if e.step == 20)
    assert last.value == pytest.approx(done.manifest.counts["error"], abs=1e-4)
    assert {"train/loss", "train/lr", "holdout/seen"} <= {*found.Tags()["scalars"]}
    shown = Image.open(io.BytesIO(found.Images("line")[-1].encoded_image_string))
    assert np.array_equal(np.asarray(shown), np.full((2, 2, 3), 255, np.uint8))


class Full(io.BytesIO):
    """A file on a full disk."""

    def write(self, content: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_tensorboard_on_a_full_disk_is_told_of_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    notes: list[progress.Note] = []
    threads = threading.active_count()
    board = Board(tmp_path, notes.append)
    assert threading.active_count() == threads
    assert board.file
    board.file.close()
    board.file = Full()
    for step in range(3):
        board.scalar("loss", 1.0, step)
    board.picture("line", np.zeros((2, 2, 3), np.uint8), 3)
    board.close()
    (note,) = notes
    assert "No space left" in note.text and "TensorBoard does not show the rest" in note.text
    assert capfd.readouterr().err == ""
