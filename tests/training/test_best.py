"""A run that memorises its few pictures ends, keeps what did best, and says what happened."""

import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from conftest import same
from test_loop import CPU, LineTask, log
from torch import Tensor, nn

from dallebaby_cli import progress
from dallebaby_cli.config import OptimConfig, RunConfig
from dallebaby_cli.errors import BadInput, Interrupted
from dallebaby_cli.progress import Note
from dallebaby_cli.training import best, checkpoint, loop, run
from dallebaby_cli.training.best import Best
from dallebaby_cli.training.state import State

OPTIM = OptimConfig(lr=0.05, warmup_fraction=0, final_lr_fraction=1, weight_decay=0)
CONFIG = RunConfig(batch_size=8, eval_every=4, ema_decay=0.5, optim=OPTIM)
STEPS = 60  # each of 30 pictures 16 times


@dataclass
class Memorising(LineTask):
    """Weights grow by 0.05 a step; the hold-out figure falls, and rises from `turning` on."""

    turning: float = 1.0
    early_stop: bool = True
    judged: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        nn.init.zeros_(self.model.layer.weight)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        return 0 * super().loss(model, batch, progress) - model.layer.weight.sum()

    def evaluate(self, model: nn.Module, pictures: range, count: int) -> dict[str, float]:
        grown = float(model.layer.weight.mean())
        self.judged.append((grown, count))
        return {"bits_per_code": 5 + abs(grown - self.turning), "error": 0.0}

    def holdout_loss(self, figures: dict[str, float]) -> float | None:
        return figures["bits_per_code"]


def fit(task: LineTask, folder: Path, config: RunConfig = CONFIG) -> tuple[State, list[str]]:
    notes: list[progress.Event] = []
    state = loop.fit(task, config, STEPS, folder, CPU, notes.append)
    return state, [event.text for event in notes if isinstance(event, Note)]


def finish(folder: Path, task: LineTask, config: RunConfig) -> tuple[run.Finished, list[str]]:
    notes: list[progress.Event] = []
    described = {"model": {}}
    done = run.finish(folder, "vae", task, config, {}, lambda: described, CPU, notes.append)
    return done, [event.text for event in notes if isinstance(event, Note)]


def test_it_ends_and_keeps_what_did_best(tmp_path: Path) -> None:
    task = Memorising()
    state, told = fit(task, tmp_path)
    assert state.planned == STEPS and 16 <= state.kept < state.step < STEPS - 10
    by_step = {row["step"]: row for row in log(tmp_path) if row["event"] == "evaluation"}
    lowest = min(by_step.values(), key=lambda row: row["bits_per_code"])
    assert (
        lowest["step"] == state.kept and state.metrics["bits_per_code"] == lowest["bits_per_code"]
    )
    assert state.ema.layer.weight.mean() == pytest.approx(task.judged[-1][0]), "what is judged"
    assert abs(task.judged[-1][0] - 1) < 0.2, "and kept is what did best"
    assert f"ends at step {state.step} of 60: it memorises its training pictures" in told[-1]
    assert f"(hold-out loss {lowest['bits_per_code']:.3g} at step " in told[-1]
    (event,) = (row for row in log(tmp_path) if row["event"] == "turned")
    assert event["step"] <= state.step and event["text"] not in "".join(told), "once is enough"


def test_a_run_that_goes_on_learning_is_left_alone(tmp_path: Path) -> None:
    state, told = fit(Memorising(turning=9), tmp_path)
    assert (state.step, state.planned, state.kept) == (STEPS, 0, STEPS) and not told
    assert state.best is not None and state.best.step == STEPS


def test_what_did_best_is_kept_at_the_end_too(tmp_path: Path) -> None:
    """Where it turned so late that nothing ended the run."""
    state, told = fit(Memorising(turning=2.6), tmp_path)
    assert state.step == STEPS and 48 <= state.kept < STEPS and not told
    assert float(state.ema.layer.weight.mean()) == pytest.approx(2.6, abs=0.2)


def test_people_are_warned_no_more_often_than_else_and_of_what_is_kept(tmp_path: Path) -> None:
    """Though it looks at two hold-out pictures every three steps."""
    config = replace(CONFIG, eval_every=20, eval_images=2)
    state, _ = fit(Memorising(turning=2.6, floor=-1), tmp_path, config)
    steps = {
        kind: [row["step"] for row in log(tmp_path) if row["event"] == kind]
        for kind in ("evaluation", "warning")
    }
    assert steps["evaluation"][:4] == [0, 3, 6, 9] and 40 < state.kept < STEPS
    assert steps["warning"] == [20, 40, state.kept]


@pytest.mark.parametrize("why", ["asked", "none held out", "few held out", "seen seldom"])
def test_nothing_stops_where_nothing_can_tell(tmp_path: Path, why: str) -> None:
    task = Memorising()
    if why == "asked":
        task.early_stop = False
    elif why == "none held out":
        task.holdout = task.train
    elif why == "few held out":
        task.holdout = range(best.FEWEST - 1)
    else:
        task.train = range(STEPS * 8)
    state, told = fit(task, tmp_path)
    assert state.step == STEPS and state.best is None
    assert all("lowest at step 20" in text for text in told), "which is all that it does"
    assert "best" not in checkpoint.load_state(tmp_path / "state.pt")


def test_a_run_broken_off_anywhere_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, _ = fit(Memorising(), tmp_path / "whole")
    expected = checkpoint.load_state(tmp_path / "whole" / "state.pt")
    for stop in (3, whole.kept + 1, whole.step - 2):
        folder = tmp_path / f"broken-{stop}"
        terminate = {stop: lambda: os.kill(os.getpid(), signal.SIGTERM)}
        with pytest.raises(Interrupted):
            fit(Memorising(at_step=terminate), folder)
        state, _ = fit(Memorising(), folder)
        assert (state.step, state.kept, state.planned) == (whole.step, whole.kept, STEPS)
        assert same(checkpoint.load_state(folder / "state.pt"), expected)
        assert same(state.averaged(), whole.averaged())
        again, _ = fit(Memorising(), folder)  # killed between its last step and its manifest
        assert again.step == whole.step and same(again.averaged(), whole.averaged())


def test_the_manifest_and_sentences_say_what_was_kept(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=STEPS)
    done, told = finish(tmp_path / "a", Memorising(), config)
    counts = done.manifest.counts
    kept, steps = counts["kept"], counts["steps"]
    assert kept < steps < counts["planned"] == STEPS
    assert counts["epochs"] == pytest.approx(steps * 8 / 30, abs=1e-3)
    wanted = 30 * STEPS / kept
    assert wanted <= counts["pictures_wanted"] < wanted + 10, "two digits of it"
    assert told[1] == (
        "line: it sees each of 30 pictures 16.0 times, so often that it may memorise them; it "
        "keeps what does best on the hold-out ones, and ends when it does worse"
    )
    assert told[-1] == (
        f"line: the weights of step {kept} of {steps} are kept, which did best on hold-out "
        f"pictures: it had seen each of 30 pictures {kept * 8 / 30:.1f} times; about "
        f"{counts['pictures_wanted']} would be worth so long a run"
    )
    again, told = finish(tmp_path / "a", Memorising(), config)
    assert not again.fresh and not told
    other, told = finish(tmp_path / "a", Memorising(early_stop=False), config)
    assert other.manifest.counts["steps"] == STEPS, "it goes on, if that is asked for"
    assert not {"kept", "pictures_wanted"} & {*other.manifest.counts}
    assert not any("it sees each" in text for text in told)


@pytest.mark.parametrize("length", [{"steps": STEPS}, {"minutes": 0.01}])
def test_a_damaged_one_is_made_again_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: dict[str, float]
) -> None:
    monkeypatch.setattr(run.plan, "length", lambda costs, config, frames: config.steps or STEPS)
    config = replace(CONFIG, **length)
    done, _ = finish(tmp_path / "a", Memorising(), config)
    path = tmp_path / "a" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again, _ = finish(tmp_path / "a", Memorising(), config)
    assert again.fresh and path.read_bytes() == whole
    for name in ("steps", "kept", "planned", "epochs", "pictures_wanted"):
        assert again.manifest.counts[name] == done.manifest.counts[name], name


def test_a_run_that_sees_its_pictures_seldom_says_so(tmp_path: Path) -> None:
    task = Memorising(train=range(200), turning=9)
    done, told = finish(tmp_path, task, replace(CONFIG, steps=STEPS))
    seldom = "line: it sees each of 200 pictures 2.4 times, too seldom to memorise them"
    assert told[1:] == [seldom]
    assert done.manifest.counts["epochs"] == 2.4
    assert not {"kept", "pictures_wanted", "planned"} & {*done.manifest.counts}


def test_a_run_without_enough_hold_out_pictures_says_so(tmp_path: Path) -> None:
    task = Memorising(holdout=range(best.FEWEST - 1))
    done, told = finish(tmp_path, task, replace(CONFIG, steps=STEPS))
    assert told[1].endswith("memorise them; nothing will tell when, which takes 8 hold-out ones")
    assert done.manifest.counts["steps"] == STEPS and "kept" not in done.manifest.counts


def test_a_first_figure_that_stays_best_is_no_division_by_zero(tmp_path: Path) -> None:
    done, told = finish(tmp_path, Memorising(turning=-1), replace(CONFIG, steps=STEPS))
    assert done.manifest.counts["kept"] == 0 and "pictures_wanted" not in done.manifest.counts
    assert "nothing that was learned did better on hold-out pictures" in "".join(told)


@pytest.mark.parametrize(
    "harm",
    [
        {"step": -1},
        {"step": 1},
        {"step": 0.0},
        {"step": None},
        {"weights": None},
        {"weights": {"layer.weight": torch.zeros(1, 4)}},
        {"weights": {"layer.weight": torch.zeros(2, 4), "layer.bias": torch.zeros(1)}},
        {"weights": {"layer.weight": torch.full((1, 4), torch.nan), "layer.bias": torch.zeros(1)}},
        7,
    ],
)
def test_what_a_state_says_of_it_is_checked(tmp_path: Path, harm: object) -> None:
    def state() -> State:
        task = Memorising()
        made = State.fresh(task.parts(), CONFIG, CPU)
        made.best = Best()
        return made

    good = state()
    good.best.add({0: 5.0}, 0, good.averaged)
    path = tmp_path / "state.pt"
    good.save(path)
    assert state().resume(path)
    saved = dict(checkpoint.load_state(path))
    saved["best"] = {**saved["best"], **harm} if isinstance(harm, dict) else harm
    path = tmp_path / "harmed" / "state.pt"  # the other one is mapped into memory
    path.parent.mkdir()
    torch.save(saved, path)
    with pytest.raises(BadInput, match=r"state\.pt is damaged or of another version"):
        state().resume(path)


def test_looks_are_many_and_take_little() -> None:
    for steps, looked_at in ((400, 35), (2000, 250), (2000, 500), (50, 3)):
        every = best.every(replace(CONFIG, batch_size=32, eval_every=500), steps, looked_at)
        assert steps / every <= best.LOOKS + 1 or every == 1
        cost = looked_at * best.FORWARD / (32 * every)
        assert cost <= best.LOOKING or every == 500


def test_the_first_of_the_lowest_is_kept_and_what_is_no_number_is_passed_over() -> None:
    found, losses = Best(), {}
    for step, loss in enumerate((float("nan"), 3.0, 2.0, float("inf"), 2.0, 2.5)):
        losses[step] = loss
        found.add(losses, step, lambda step=step: {"w": torch.tensor(float(step))})
    assert found.step == 2 and float(found.weights["w"]) == 2
    late = Best()  # of a run that began without: nobody has the weights of a lower one
    for step, loss in ((5, 2.0), (6, 3.0)):
        late.add({0: 1.0, 5: 2.0, step: loss}, step, lambda step=step: {"w": torch.tensor(step)})
    assert late.step == 5 and int(late.weights["w"]) == 5


def test_what_a_run_starts_from_is_no_measure_of_whether_it_memorises() -> None:
    """The weights of a finished run have a lower loss than those of a rate that has just risen."""
    falling = {step: 2 - step / 100 for step in range(10, 41, 5)}
    assert best.over({0: 1.0, **falling}, 0, 40, 60) is None
    assert best.memorises_from({0: 1.0, **falling}, 0, 60) is None
    rising = {step: 1 + step / 100 for step in range(10, 41, 5)}
    assert best.memorises_from({0: 1.0, **rising}, 0, 60) == 10
    assert "it memorises" in str(best.over(rising, 0, 40, 60))
    for later, told in ((falling, "None"), (rising, "it memorises")):  # a run made longer
        losses = dict.fromkeys(range(5, 101, 5), 1.0) | {100 + at: later[at] for at in later}
        assert told in str(best.over(losses, 100, 140, 160))
