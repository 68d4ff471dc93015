"""When a hold-out loss has turned, on curves of real runs and on what may be drawn of any; and what
a run says of it."""

import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_loop import CPU, LineTask, log
from torch import nn

from dallebaby_cli import progress
from dallebaby_cli.config import RunConfig
from dallebaby_cli.errors import Interrupted
from dallebaby_cli.training import loop
from dallebaby_cli.training.turn import BEHIND, CLEARLY, turned

# bits per code of 64 drawn shapes (tiny preset, eval_every=35), which the run memorises
MEMORISED = [9.9658, 5.3899, 3.3584, 2.7273, 2.8901, 3.1924, 3.5645, 3.8755, 4.1353, 4.3422]
MEMORISED += [4.4933, 4.6696, 4.8207, 4.9185, 5.0009, 5.0394, 5.1143, 5.1537, 5.1801, 5.1989]
# of the demo: all of it falls; the last evaluation alone reads all hold-out pictures
DEMO = {0: 9.9658, 400: 4.4453, 800: 3.9885, 1200: 3.7411, 1600: 3.6774, 1608: 3.7092}

LOSSES = st.floats(0.1, 20)
CURVES = st.dictionaries(st.integers(0, 10**9), LOSSES, max_size=30)
SCALES = st.integers(-20, 20).map(lambda power: 2.0**power)  # which round nothing


def curve(values: object) -> dict[int, float]:
    return dict(enumerate(np.asarray(values, float).tolist()))


def test_a_run_that_memorises_turns_at_its_lowest_soon_and_for_good() -> None:
    told = [turned(curve(MEMORISED[:count])) for count in range(len(MEMORISED) + 1)]
    first = next(count for count, step in enumerate(told) if step is not None)
    assert first == 3 + 1 + BEHIND + 1 and {*told[first:]} == {3}


def test_a_last_evaluation_of_other_pictures_is_no_turn() -> None:
    assert turned(DEMO) is None


@given(st.lists(LOSSES, max_size=30))
def test_a_loss_that_falls_has_not_turned(values: list[float]) -> None:
    assert turned(curve(sorted(values, reverse=True))) is None


@given(LOSSES, st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_a_loss_that_hardly_moves_has_not_turned(level: float, moves: list[float]) -> None:
    assert turned(curve(level * (1 + CLEARLY / 2.1 * np.array(moves)))) is None


@given(
    st.integers(2, 12), st.integers(BEHIND + 1, 20), st.floats(0.02, 1), st.floats(1.0, 9), SCALES
)
def test_what_falls_and_rises_steadily_turned_where_it_was_lowest(
    falling: int, rising: int, slope: float, low: float, scale: float
) -> None:
    fall = low * (1 + 2 * np.arange(falling, 0, -1))
    rise = low * (1 + slope * np.arange(rising))
    assert turned(curve(scale * np.concatenate((fall, rise)))) == (falling if rising > 4 else None)


@pytest.mark.parametrize("seed", range(20))
def test_chance_is_no_turn(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.1, 15)
    falls = 3.7 + 6 / (1 + np.arange(15))
    assert turned(curve(falls + noise)) is None


@pytest.mark.parametrize("seed", range(5))
def test_a_turn_is_seen_through_noise(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.02, len(MEMORISED))
    step = turned(curve(np.array(MEMORISED) + noise))
    assert step is not None and abs(step - 3) <= 1


@given(CURVES, SCALES)
def test_order_and_unit_do_not_matter_and_gaps_count_as_nothing(
    losses: dict[int, float], scale: float
) -> None:
    step = turned(losses)
    assert step is None or step in losses
    backwards = {at: scale * losses[at] for at in sorted(losses, reverse=True)}
    gaps = {at + 10**10: value for at, value in zip(losses, (math.nan, math.inf), strict=False)}
    assert turned({**backwards, **gaps}) == step


# ---------------------------------------------------------------- in a run

WORDS = (
    "step 14: the hold-out loss was lowest at step 6 (2.73) and is 3.88 now: after 4 epochs the "
    "model memorises its training pictures and gets worse at all others; prepare more pictures, or "
    "train for as long as that (--steps 6)"
)


@dataclass
class Memorising(LineTask):
    """A task whose hold-out error is that of a real run, evaluation by evaluation of 2 steps."""

    evaluated: int = 0

    def evaluate(self, model: nn.Module, pictures: range, count: int) -> dict[str, float]:
        self.evaluated += 1
        return {"error": MEMORISED[self.evaluated - 1]}


def fit(task: LineTask, folder: Path, steps: int = 18) -> list[progress.Event]:
    """What a run told, which takes 8 of 30 pictures a step; stopped or not."""
    told: list[progress.Event] = []
    config = RunConfig(batch_size=8, eval_every=2, save_every_s=0, eval_images=64)
    try:
        loop.fit(task, config, steps, folder, CPU, told.append)
    except Interrupted:
        told.append(progress.Note("stopped"))
    return told


def warnings(told: list[progress.Event]) -> list[str]:
    return [e.text for e in told if isinstance(e, progress.Note) and e.level == "warning"]


def test_a_run_says_once_where_it_turned_and_counts_its_epochs(tmp_path: Path) -> None:
    told = fit(Memorising(), tmp_path)
    assert warnings(told) == [WORDS]
    (event,) = (row for row in log(tmp_path) if row["event"] == "turned")
    assert (event["step"], event["best"], f"step 14: {event['text']}") == (14, 6, WORDS)
    last = [row for row in log(tmp_path) if row["event"] == "step"][-1]
    assert last["epochs"] == 18 * 8 / 30
    (shown,) = (e for e in told if isinstance(e, progress.Progress) and e.done == 18)
    assert ", 4.8 epochs, " in shown.detail


@pytest.mark.parametrize("stop", [5, 12, 15])
def test_a_run_that_was_stopped_says_the_same_once(tmp_path: Path, stop: int) -> None:
    task = Memorising(at_step={stop: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    told = fit(task, tmp_path)
    assert isinstance(told[-1], progress.Note) and told[-1].text == "stopped"
    again = Memorising(evaluated=(stop + 2) // 2)  # evaluations at even steps, those before it gone
    assert warnings([*told, *fit(again, tmp_path)]) == [WORDS]


def test_a_run_without_hold_out_pictures_has_nothing_that_turns(tmp_path: Path) -> None:
    pictures = range(30)
    assert not warnings(fit(Memorising(train=pictures, holdout=pictures), tmp_path))


def test_a_last_evaluation_of_more_pictures_is_left_out(tmp_path: Path) -> None:
    """The one at step 14 is the last here, and reads all 70 where others read 64."""
    assert not warnings(fit(Memorising(), tmp_path, 14))
    assert warnings(fit(Memorising(holdout=range(64)), tmp_path / "all", 14)) == [WORDS]
