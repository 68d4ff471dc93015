"""The loop resumes exactly, survives bad numbers, and stops when asked."""

import dataclasses
import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from conftest import same
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dallebaby_cli import progress
from dallebaby_cli.config import DVAEConfig, OptimConfig, RunConfig, TransformerConfig
from dallebaby_cli.errors import BadInput, Diverged, Interrupted, Mismatch
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.training import checkpoint, loop, muon, optim, plan, run
from dallebaby_cli.training.batches import Order, prefetch
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

T = TypeVar("T")
CPU = torch.device("cpu")
CONFIG = RunConfig(batch_size=8, eval_every=10, save_every_s=0)


class Line(nn.Module):
    """A model small enough to think about, with dropout so that random numbers matter."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dropout = dropout
        self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(nn.functional.dropout(x, self.dropout, self.training))


@dataclass
class LineTask:
    """Fit a line; at the steps in `poison` the loss is not a number."""

    poison: frozenset[int] = frozenset()
    at_step: dict[int, object] = field(default_factory=dict)
    model: Line = field(default_factory=Line)
    seen: list[int] = field(default_factory=list)
    name: str = "line"
    unit: str = "images"
    units_per_step: int = 8
    compile: bool = False
    frames: int = 3
    early_stop: bool = False
    floor: float = math.inf
    train: range = range(30)
    holdout: range = range(70)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        scale = float("nan") if step in self.poison else 1.0
        return (torch.cat((x * scale, torch.full((8, 1), float(step))), dim=1),)

    def parts(self) -> dict[str, Objective]:
        return {"model": Objective(self.model, self.loss)}

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        return state.backward("model", batch, progress)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        x, step = batch[0][:, :4], int(batch[0][0, 4])
        self.seen.append(step)
        if step in self.at_step:
            self.at_step[step]()
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    def evaluate(self, model: nn.Module, pictures: range, count: int) -> dict[str, float]:
        torch.randn(3)  # must not disturb training
        return {"error": float((model.layer.weight - 1).abs().sum()), "seen": count}

    def over(self, figures: dict[str, float]) -> str | None:
        return None

    def holdout_loss(self, figures: dict[str, float]) -> float | None:
        return figures["error"]

    def learned(self, figures: dict[str, float]) -> bool:
        return figures["error"] < self.floor

    def warning(self, figures: dict[str, float]) -> str | None:
        return "far off" if figures["error"] > self.floor else None

    def pictures(self, model: nn.Module, last: bool) -> dict[str, np.ndarray]:
        return {"line": np.full((2, 2, 3), 255 * last, np.uint8)}


def fit(task: LineTask, folder: Path, steps: int = 40, config: RunConfig = CONFIG) -> State:
    return loop.fit(task, config, steps, folder, CPU, progress.ignore)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.precisions
def test_a_run_broken_off_anywhere_ends_as_one_that_was_not(tmp_path: Path) -> None:
    fit(LineTask(), tmp_path / "whole")
    for stop in (1, 17, 20):
        folder = tmp_path / f"broken-{stop}"
        terminate = {stop: lambda: os.kill(os.getpid(), signal.SIGTERM)}
        with pytest.raises(Interrupted) as caught:
            fit(LineTask(at_step=terminate), folder)
        assert caught.value.exit_code == 128 + signal.SIGTERM
        task = LineTask()
        fit(task, folder)
        assert task.seen == list(range(stop + 1, 40))  # SIGTERM lost no step
        whole = checkpoint.load_state(tmp_path / "whole" / "state.pt")
        assert same(checkpoint.load_state(folder / "state.pt"), whole)
        assert {"event": "resume", "step": stop + 1} in [
            {k: row[k] for k in ("event", "step")} for row in log(folder) if "step" in row
        ]


def test_scores_at_both_ends_and_learns(tmp_path: Path) -> None:
    fit(LineTask(), tmp_path, steps=200, config=RunConfig(
        batch_size=8, eval_every=150, optim=OptimConfig(lr=3e-2), ema_decay=0.9
    ))  # fmt: skip
    scores = {row["step"]: row["error"] for row in log(tmp_path) if row["event"] == "evaluation"}
    assert list(scores) == [0, 150, 200]
    assert scores[200] < 0.3 * scores[0]
    assert (tmp_path / "line.png").exists() and list(tmp_path.glob("tensorboard/events*"))


def test_steps_are_told_however_often_it_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(loop.time, clock, lambda: now[0])

    class Slow(LineTask):
        def loss(self, *arguments: object) -> Tensor:
            now[0] += 0.4
            return super().loss(*arguments)

        def evaluate(self, *arguments: object) -> dict[str, float]:
            now[0] += 10
            return super().evaluate(*arguments)

    fit(Slow(), tmp_path, 10, RunConfig(batch_size=8, eval_every=1))
    told = {row["step"]: row["images_per_s"] for row in log(tmp_path) if row["event"] == "step"}
    assert told == dict.fromkeys((2, 5, 8, 9), 8 / 0.4), "and only training's time counts"


@pytest.mark.parametrize(
    ("save_every_s", "save_s", "expected"),
    [
        (15, 1, [*range(0, 41, 5)]),  # every 50 s, which is five steps
        (15, 0.1, [*range(0, 40, 2), 40]),
        (95, 1, [0, 10, 20, 30, 40]),
        (0, 9, [*range(41)]),
    ],
)
def test_checkpoints_take_a_fiftieth_of_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save_every_s: float,
    save_s: float,
    expected: list[int],
) -> None:
    now, saves = [0.0], []
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(LineTask, "loss", pass_time(LineTask.loss, now, 10))
    monkeypatch.setattr(State, "save", lambda state, path: saves.append(state.step))
    monkeypatch.setattr(State, "save", pass_time(State.save, now, save_s))
    config = RunConfig(batch_size=8, eval_every=100, save_every_s=save_every_s)
    fit(LineTask(), tmp_path, 40, config)
    assert saves == expected
    planned = plan.duration(plan.Costs(10, 0, save_s=save_s), 40, config, 0)
    assert planned == pytest.approx(400 + len(expected) * save_s, abs=2 * save_s)


def pass_time(work: Callable[..., T], now: list[float], seconds: float) -> Callable[..., T]:
    """The work, which takes so long by the clock `now`."""

    def slow(*arguments: object) -> T:
        now[0] += seconds
        return work(*arguments)

    return slow


def test_the_last_evaluation_reads_every_picture(tmp_path: Path) -> None:
    state = fit(LineTask(), tmp_path, 20, RunConfig(batch_size=8, eval_every=10, eval_images=50))
    seen = {row["step"]: row["seen"] for row in log(tmp_path) if row["event"] == "evaluation"}
    assert seen == {0: 50, 10: 50, 20: 70} and state.metrics["seen"] == 70


def test_every_bad_evaluation_warns_but_the_first(tmp_path: Path) -> None:
    notes: list[progress.Event] = []
    loop.fit(LineTask(floor=0), CONFIG, 30, tmp_path, CPU, notes.append)
    warnings = [e.text for e in notes if isinstance(e, progress.Note) and e.level == "warning"]
    assert warnings == ["step 10: far off", "step 20: far off", "step 30: far off"]
    assert [row["step"] for row in log(tmp_path) if row["event"] == "warning"] == [10, 20, 30]


@pytest.mark.precisions
def test_accumulating_changes_nothing_but_rounding(tmp_path: Path, precision: str) -> None:
    states = []
    for parts in (1, 4):
        config = RunConfig(batch_size=8, accumulate=parts, optim=OptimConfig(lr=1e-2))
        task = LineTask(model=Line(dropout=0))
        states.append(fit(task, tmp_path / str(parts), 20, config).model.state_dict())
    tolerance = {"fp32": None, "bf16": 1e-3}[precision]
    torch.testing.assert_close(states[0], states[1], rtol=tolerance, atol=tolerance)


def test_a_bad_step_is_skipped_and_counted(tmp_path: Path) -> None:
    state = fit(LineTask(poison=frozenset({7, 20})), tmp_path)
    assert state.skipped == 2 and state.rollbacks == 0
    assert all(p.isfinite().all() for p in state.model.parameters())


def test_many_bad_steps_roll_back_with_half_the_rate(tmp_path: Path) -> None:
    notes: list[progress.Event] = []
    task = LineTask(poison=frozenset(range(20, 26)))
    real_batch, healed = task.batch, []

    def batch(step: int) -> tuple[Tensor, ...]:
        if len([s for s in task.seen if s in task.poison]) >= loop.MAX_BAD_STEPS:
            healed.append(step)
            task.poison = frozenset()
        return real_batch(step)

    task.batch = batch  # type: ignore[method-assign]
    state = loop.fit(task, CONFIG, 40, tmp_path, CPU, notes.append)
    assert healed and state.rollbacks == 1 and state.lr_scale == 0.5 and state.step == 40
    warnings = [e.text for e in notes if isinstance(e, progress.Note) and e.level == "warning"]
    assert len(warnings) == 1 and "back to step" in warnings[0]


def test_a_longer_run_that_rolls_back_knows_where_it_began(tmp_path: Path) -> None:
    assert fit(LineTask(), tmp_path, steps=10).ends == 10
    task = LineTask(poison=frozenset(range(10, 16)))
    real_batch = task.batch

    def batch(step: int) -> tuple[Tensor, ...]:
        if len(task.seen) >= loop.MAX_BAD_STEPS:
            task.poison = frozenset()
        return real_batch(step)

    task.batch = batch  # type: ignore[method-assign]
    state = fit(task, tmp_path, 20, dataclasses.replace(CONFIG, save_every_s=60))
    assert (state.rollbacks, state.began, state.ends) == (1, 10, 20)


def test_a_run_that_cannot_be_saved_says_so(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"train with a lower rate, such as --set optim\.lr"):
        fit(LineTask(poison=frozenset(range(12, 1000))), tmp_path)


def test_a_finished_run_that_is_made_longer_knows_where_it_began_anew(tmp_path: Path) -> None:
    assert fit(LineTask(), tmp_path, steps=10).began == 0
    assert fit(LineTask(), tmp_path, steps=10).began == 0, "nothing was left to do"
    with pytest.raises(Interrupted):
        fit(LineTask(at_step={15: lambda: signal.raise_signal(signal.SIGTERM)}), tmp_path, steps=20)
    assert fit(LineTask(), tmp_path, steps=20).began == 10


def test_a_damaged_or_executable_state_is_refused(tmp_path: Path) -> None:
    fit(LineTask(), tmp_path, steps=3)
    path = tmp_path / "state.pt"
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"\x80\x04cos\nsystem\n(S'true'\ntR."):
        path.write_bytes(broken)
        with pytest.raises(BadInput, match=r"state\.pt is damaged"):
            fit(LineTask(), tmp_path, steps=5)


def test_weights_that_are_pickles_or_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save(Line().state_dict(), path)
    with pytest.raises(BadInput, match="a pickle, which could run code"):
        weights.load_weights(path, Line())
    weights.save_weights(path, nn.Linear(3, 3).state_dict())
    with pytest.raises(Mismatch, match=r"does not fit the config\.json beside it"):
        weights.load_weights(path, Line())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadInput, match="is damaged"):
        weights.load_weights(path, Line())


def test_weights_and_their_description_belong_together(tmp_path: Path) -> None:
    weights.save_weights(tmp_path / "model.safetensors", Line().state_dict())
    identity = weights.write_model(tmp_path, "vae", {"model": {}})
    assert weights.read_model(tmp_path, "vae")["model"] == {}
    assert identity == weights.model_id(tmp_path)
    other = Line()
    nn.init.zeros_(other.layer.weight)
    weights.save_weights(tmp_path / "model.safetensors", other.state_dict())
    with pytest.raises(Mismatch, match="is not the file that"):
        weights.read_model(tmp_path, "vae")
    with pytest.raises(BadInput, match="does not describe a dalle model"):
        weights.read_model(tmp_path, "dalle")
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(BadInput, match="has format 99 and this version reads 1"):
        weights.read_model(tmp_path, "vae")


@dataclass
class Ending(LineTask):
    """A task that ends with given errors on pictures of training and on others."""

    ends: tuple[float, float] = (0, 0)
    floor: float = 1

    def evaluate(self, model: nn.Module, pictures: range, count: int) -> dict[str, float]:
        return {"error": self.ends[pictures is self.holdout]}


def finish(folder: Path, task: Ending, steps: int) -> tuple[run.Finished, list[str]]:
    """The end of a run and the warnings on the way there."""
    notes: list[progress.Event] = []
    config = RunConfig(batch_size=8, steps=steps)
    described = {"model": {}}
    done = run.finish(folder, "vae", task, config, {}, lambda: described, CPU, notes.append)
    return done, [n.text for n in notes if isinstance(n, progress.Note) and n.level == "warning"]


def test_a_model_of_no_use_is_left_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "TRIAL_STEPS", 5)
    for _ in range(2):
        with pytest.raises(Diverged, match="a has come to nothing and stays unfinished: far off"):
            finish(tmp_path / "a", Ending(ends=(9, 9)), 5)
        assert not manifest.read(tmp_path / "a").complete
        assert not (tmp_path / "a" / "model.safetensors").exists()
    done, warnings = finish(tmp_path / "a", Ending(ends=(0, 0)), 8)  # longer helped
    assert done.manifest.complete and not warnings and done.warning is None
    done, warnings = finish(tmp_path / "trial", Ending(ends=(9, 9)), 4)
    assert done.manifest.complete and warnings == ["step 4: far off"]
    assert done.warning == finish(tmp_path / "trial", Ending(), 4)[0].warning == "far off"
    done, warnings = finish(tmp_path / "heart", Ending(ends=(0, 9)), 5)
    assert done.manifest.complete and "memorised" in warnings[-1]


@pytest.mark.precisions
def test_planning_leaves_no_trace(tmp_path: Path) -> None:
    task = LineTask()
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    costs = plan.measure(task, RunConfig(batch_size=8), CPU, tmp_path)
    assert same(before, task.model.state_dict()) and torch.equal(torch.get_rng_state(), expected)
    assert not list(tmp_path.iterdir())
    assert min(dataclasses.astuple(dataclasses.replace(costs, compiled=True))) > 0


costs = st.floats(1e-4, 100)


@given(
    st.builds(plan.Costs, **dict.fromkeys([f.name for f in dataclasses.fields(plan.Costs)], costs)),
    st.builds(
        RunConfig,
        minutes=st.floats(0.1, 100),
        eval_every=st.integers(1, 500),
        save_every_s=st.floats(0, 60),
    ),
    st.integers(0, 40),
)
def test_a_run_is_as_long_as_fits_its_minutes(
    costs: plan.Costs, config: RunConfig, frames: int
) -> None:
    steps = plan.length(costs, config, frames)
    planned, limit = plan.duration(costs, steps, config, frames), config.minutes * 60
    assert planned > costs.start_s + steps * costs.step_s
    assert plan.duration(costs, steps + 1, config, frames) > max(planned, limit)
    half = steps <= max(1, limit / 2 / costs.step_s)  # training has that much in any case
    assert planned <= limit or half
    assert plan.length(costs, dataclasses.replace(config, steps=7), frames) == 7


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 3), st.integers(0, 20))
def test_every_epoch_shows_every_picture_once(
    count: int, batch_size: int, seed: int, start: int
) -> None:
    order = Order(count, batch_size, seed)
    batches = -(-3 * count // batch_size)
    stream = np.concatenate([order.batch(i) for i in range(batches)])
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    again = Order(count, batch_size, seed).batch(start)  # no history needed
    assert np.array_equal(again, order.batch(start)) and len(again) == batch_size


def test_prefetch_keeps_order_and_passes_errors_on() -> None:
    assert list(prefetch(lambda i: i * i, 3, 40)) == [i * i for i in range(3, 40)]

    def fail(i: int) -> int:
        if i == 5:
            raise BadInput("shard 5 is damaged")
        return i

    with pytest.raises(BadInput, match="shard 5"):
        list(prefetch(fail, 0, 10))


@given(st.integers(1, 10_000), st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_rate_warms_up_then_falls_to_its_end(steps: int, warmup: float, final: float) -> None:
    config = OptimConfig(lr=1e-3, warmup_fraction=warmup, final_lr_fraction=final)
    rates = [optim.learning_rate(s, steps, config) for s in range(0, steps + 1, 1 + steps // 50)]
    peak = rates.index(max(rates))
    assert min(rates) >= 0
    assert max(rates) <= config.lr * (1 + 1e-9)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert optim.learning_rate(steps, steps, config) == pytest.approx(final * config.lr, rel=1e-6)


def test_averaging_remembers_no_history(tmp_path: Path) -> None:
    state = fit(LineTask(), tmp_path, steps=5)
    assert all(p.grad_fn is None and not p.requires_grad for p in state.ema.parameters())


def test_averaging_copies_what_is_no_weight(tmp_path: Path) -> None:
    model = Line()
    model.register_buffer("count", torch.tensor(0))
    state = State.fresh({"model": Objective(model, LineTask().loss)}, CONFIG, CPU)
    state.model.count.fill_(7)
    with torch.no_grad():
        state.model.layer.weight += 1
    before = state.ema.layer.weight.clone()
    state.average(0.999)
    assert state.ema.count == 7
    expected = before + 0.9 * (state.model.layer.weight - before)  # young: 1 - 1/10
    torch.testing.assert_close(state.ema.layer.weight, expected.detach())


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv2d(1, 1, 3))
    [adamw] = optim.build(model, OptimConfig(muon=False)).parts
    decayed, others = adamw.param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 4), (1, 1, 3, 3)]
    assert decayed["weight_decay"] > 0 and others["weight_decay"] == 0
    assert len(others["params"]) == 5


def test_muon_takes_every_kernel_of_a_dvae_and_leaves_its_codebook() -> None:
    model = DVAE(DVAEConfig(image_px=16, grid=4, width=8, depth=1, quantizer="vq", codebook=8))
    adamw, hidden = optim.build(model, OptimConfig()).parts
    taken = {id(p) for group in hidden.param_groups for p in group["params"]}
    assert taken == {id(p) for p in model.parameters() if p.ndim == 4}
    assert id(model.quantizer.codebook) in {
        id(p) for group in adamw.param_groups for p in group["params"]
    }


def test_muon_treats_a_kernel_as_the_matrix_of_its_outputs() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(8, 4, 3, 3, generator=generator))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    for weight in (kernel, matrix):
        weight.grad = torch.randn(288, generator=torch.Generator().manual_seed(1)).view_as(weight)
        muon.Muon([weight], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_muon_takes_the_matrices_inside_the_blocks_and_nothing_else() -> None:
    model = Transformer(TransformerConfig(dim=32, depth=2, heads=2, vocabulary=300, grid=2))
    adamw, hidden = optim.build(model, OptimConfig(muon=True)).parts
    taken = {id(p) for group in hidden.param_groups for p in group["params"]}
    assert taken == {id(p) for p in model.blocks.parameters() if p.ndim == 2}
    rest = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert taken | rest == {id(p) for p in model.parameters()} and not taken & rest


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (24, 24)])
def test_muon_makes_singular_values_about_one_and_keeps_directions(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    made = muon.orthogonal(matrices)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.3 and values.max() < 1.3  # the polynomial aims at [0.7, 1.2]
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ made @ right.mT
    assert (inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


def test_muon_steps_like_the_one_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(s, generator=generator) for s in ((32, 16), (32, 16), (16, 64))]
    ours = [torch.nn.Parameter(w.clone()) for w in start]
    theirs = [torch.nn.Parameter(w.clone()) for w in start]
    settings = {"lr": 0.02, "weight_decay": 0.1}
    both = (
        muon.Muon(ours, **settings),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings),
    )
    for _ in range(5):
        for matrices, optimizer in zip((ours, theirs), both, strict=True):
            again = torch.Generator().manual_seed(7)
            for weight in matrices:
                weight.grad = torch.randn(weight.shape, generator=again)
            optimizer.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        assert (a - b).norm() < 0.05 * (b - before).norm()  # theirs computes in bf16


def test_fewer_steps_than_were_taken_take_none_back(tmp_path: Path) -> None:
    fit(LineTask(), tmp_path, steps=20)
    task = LineTask()
    assert fit(task, tmp_path, steps=10).step == 20 and not task.seen


def test_moments_lie_in_memory_as_their_weights_do() -> None:
    """The fused kernel on CPUs takes it for granted, and split models save another layout."""
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer = optim.build(model, OptimConfig(muon=False))
    optimizer.step(1e-3)
    saved = optimizer.state_dict()
    for kept in saved["0"]["state"].values():
        kept |= {
            name: value.clone(memory_format=torch.contiguous_format) for name, value in kept.items()
        }
    again = optim.build(model, OptimConfig(muon=False))
    again.load_state_dict(saved)
    for weight, kept in again.parts[0].state.items():
        assert kept["exp_avg"].stride() == kept["exp_avg_sq"].stride() == weight.stride()
