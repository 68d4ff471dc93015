"""The number of threads: what is tried, when it is tried again, and that a run keeps to it."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training.test_loop import CPU, LineTask

from dallebaby_cli import progress
from dallebaby_cli.config import RunConfig
from dallebaby_cli.training import checkpoint, loop, pace, plan
from dallebaby_cli.training.pace import Pace


@given(st.integers(1, 300))
def test_all_but_one_and_half_and_one_are_tried(most: int) -> None:
    tried = pace.counts(most)
    assert {most, 1} <= set(tried) <= set(range(1, most + 1))
    assert tried == sorted(set(tried), reverse=True) and len(tried) <= 4


def train(watch: Pace, steps: int, seconds: Callable[[int, int], float]) -> list[int]:
    """The number of threads of each step that takes `seconds(step, threads)`."""
    used = []
    for step in range(steps):
        used.append(watch.chosen)
        watch.step(seconds(step, watch.chosen))
    return used


def test_a_run_as_fast_as_planned_is_left_alone() -> None:
    watch = Pace(planned_s=0.1, threads=4, most=4)
    assert set(train(watch, 2000, lambda step, threads: 0.19)) == {4} and not watch.news


def test_where_a_core_is_taken_fewer_threads_are_found_and_told_of() -> None:
    """As measured: two threads on two cores, one of them busy, are many times slower than one."""
    watch = Pace(planned_s=0.1, threads=2, most=2)

    def busy_from_step_100(step: int, threads: int) -> float:
        return {1: 0.15, 2: 0.1 if step < 100 else 1.4}[threads]

    used = train(watch, 400, busy_from_step_100)
    assert set(used[:100]) == {2} and used[-1] == 1 and used.count(2) < 130
    assert (
        "14.0 times as long as planned" in watch.news
        and "tried 2, 1 threads: 1 is fastest now" in watch.news
    )


def test_all_threads_are_taken_again_when_the_core_is_free() -> None:
    watch = Pace(planned_s=0.1, threads=2, most=2)

    def busy_at_first(step: int, threads: int) -> float:
        return {1: 0.15, 2: 0.1 if step > 1000 else 1.4}[threads]

    used = train(watch, 4000, busy_at_first)
    assert used[900] == 1 and used[-1] == 2


def test_one_core_has_no_choice() -> None:
    watch = Pace(planned_s=0.1, threads=1, most=1)
    assert set(train(watch, 500, lambda step, threads: 5.0)) == {1}


@pytest.fixture
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_planner_takes_the_fastest_and_puts_the_number_back(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_s(*_: object) -> float:
        return {1: 0.3, 2: 0.9}[torch.get_num_threads()]

    monkeypatch.setattr(plan, "_step_s", step_s)
    costs = plan.measure(LineTask(), RunConfig(batch_size=8), CPU)
    assert (costs.threads, costs.step_s) == (1, 0.3) and torch.get_num_threads() == 2
    kept = plan.measure(LineTask(), RunConfig(batch_size=8), CPU, threads=2)
    assert (kept.threads, kept.step_s) == (2, 0.9), "a run that exists keeps its own"


def test_a_run_goes_on_with_the_threads_that_it_stopped_with(
    two_threads: None, tmp_path: object
) -> None:
    config = RunConfig(batch_size=8, eval_every=10)
    loop.fit(
        *(LineTask(), config, 20, tmp_path, CPU, progress.ignore),
        watch=Pace(planned_s=60, threads=1, most=2),
    )
    assert torch.get_num_threads() == 1
    saved = checkpoint.load_state(tmp_path / "state.pt")
    assert saved and saved["threads"] == 1
    torch.set_num_threads(2)
    loop.fit(
        *(LineTask(), config, 30, tmp_path, CPU, progress.ignore),
        watch=Pace(planned_s=60, threads=2, most=2),
    )
    assert torch.get_num_threads() == 1
