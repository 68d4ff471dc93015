"""A run's folder, from its first start to its finished weights.

state.pt             to resume from            model.safetensors   the averaged weights
log.jsonl            one line an event         config.json         rebuilds the model
tensorboard/, *.png  to look at                manifest.json       config, parents, figures
frames/              become training.gif
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dallebaby_cli import files
from dallebaby_cli.config import RunConfig
from dallebaby_cli.config.settings import as_dict
from dallebaby_cli.errors import Diverged, Mismatch, UsageError
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.training import engine, loop, pace, pictures_of_run, plan
from dallebaby_cli.training.pace import Pace
from dallebaby_cli.training.state import State

TRIAL_STEPS = 200  # a shorter run may end without having learned anything
MAY_CHANGE = ("steps", "minutes", "save_every_s", "shard")  # between starts of one run


@dataclass(frozen=True)
class Finished:
    """A complete run."""

    folder: Path
    manifest: Manifest
    fresh: bool
    """False if there was nothing left to do"""
    warning: str | None
    """what is wrong with its figures, if anything, and what to do"""


def name(inputs: list[str], preset: str, config: RunConfig, parents: Mapping[str, str]) -> str:
    """A run's own name: the same inputs and settings give the same one, whatever its length."""
    identity = json.dumps([_identity(as_dict(config)), dict(parents)], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:6]
    return f"{'+'.join(inputs)[:60]}-{preset}-{digest}"


def finish(
    folder: Path,
    kind: str,
    task: loop.Task,
    config: RunConfig,
    parents: Mapping[str, str],
    describe: Callable[[], dict[str, Any]],
    device: torch.device,
    report: Report,
    begin: Callable[[], None] = lambda: None,
) -> Finished:
    """Start, continue or extend the run in `folder` until it is as long as `config` asks.

    `begin` writes, before the first step, what the model needs beside its weights, `describe` says
    what its config.json holds. Raises Mismatch if the folder has a run with other settings or
    inputs, Diverged if the model came to nothing.
    """
    resolved = as_dict(config)
    _check_share(config)
    identity = json.dumps([folder.name, resolved, parents], sort_keys=True)
    engine.require_same("settings or inputs", identity)
    mine = engine.first()
    with files.lock(folder, f"the run {folder.name}") if mine else nullcontext():
        found = _read(folder)
        if found is not None:
            _check_same(folder, found, resolved, parents)
            if found.complete and _length(found, config) <= found.counts["steps"]:
                return Finished(folder, found, False, task.warning(found.counts))
        most = engine.lowest(torch.get_num_threads())
        plan_ = _plan(folder, found, task, config, device, report)
        draft = Manifest(
            kind=kind,
            name=folder.name,
            config=resolved,
            parents=dict(parents),
            counts=plan_.counts,
        )
        if mine and (found is None or not found.complete):
            manifest.write(folder, draft)
            begin()
        report(Note(f"{task.name}: {plan_.steps} steps{plan_.about}, in {folder}"))
        state = _fit(plan_, most, task, config, folder, device, report)
        _require_use(task, state, config, folder, report)
        averaged = state.averaged()

        def seal() -> str:
            weights.save_weights(folder / "model.safetensors", averaged)
            pictures_of_run.bind(folder)
            return weights.write_model(folder, kind, describe())

        figures = {**state.metrics, "skipped": state.skipped, "rollbacks": state.rollbacks}
        counts = {**draft.counts, "steps": state.step}
        counts |= {name: round(value, 4) for name, value in figures.items()}
        model_id = engine.once(seal)
        done = dataclasses.replace(draft, id=model_id, complete=True, counts=counts)
        if mine:
            manifest.write(folder, done)
        return Finished(folder, done, True, task.warning(done.counts))


def _fit(
    plan_: "_Planned",
    most: int,
    task: loop.Task,
    config: RunConfig,
    folder: Path,
    device: torch.device,
    report: Report,
) -> State:
    """Train as planned, and give the threads back, of which there are `most`."""
    watch = Pace(plan_.step_s, plan_.threads, most) if plan_.threads else None
    try:
        return loop.fit(
            *(task, config, plan_.steps, folder, device, report),
            *(plan_.flops, plan_.compiled, watch),
        )
    finally:
        pace.use(most)


@dataclass(frozen=True)
class _Planned:
    """What is known of a run before it starts or goes on."""

    steps: int
    flops: float
    """floating-point operations of a step"""
    compiled: bool
    threads: int
    step_s: float
    """seconds of a step when the run was new"""
    counts: dict[str, Any]
    """that its manifest keeps"""
    about: str = ""
    """how long it will take, in words"""


def _plan(
    folder: Path,
    found: Manifest | None,
    task: loop.Task,
    config: RunConfig,
    device: torch.device,
    report: Report,
) -> _Planned:
    """Measure what a new run needs; one that exists goes on as it was planned, if it can."""
    timed = folder if found is None and config.steps is None else None
    threads = int(found.counts.get("threads", 0)) if found else None
    new = found is None
    costs = plan.measure(task, config, device, timed, may_compile=new, threads=threads)
    compiled, step_s, about = costs.compiled, costs.step_s, ""
    if found:
        steps = _length(found, config)
        step_s = float(found.counts.get("step_s", step_s))
        compiled = bool(found.counts.get("compiled"))
        compiled = compiled and _still_compiles(task, config, device, report)
    else:
        steps = plan.length(costs, config, task.frames)
    if timed:
        seconds = plan.duration(costs, steps, config, task.frames)
        about = f", about {seconds / 60:.1f} minutes"
    counts = {
        "steps": steps,
        "minutes": config.minutes,
        "compiled": compiled,
        "threads": costs.threads,
        "step_s": round(step_s, 6),
    }
    flops = costs.flops_per_step
    return _Planned(steps, flops, compiled, costs.threads, step_s, counts, about)


def _still_compiles(
    task: loop.Task, config: RunConfig, device: torch.device, report: Report
) -> bool:
    """Whether a run that began compiled can go on so; a note if not."""
    if plan.can_compile(task, config, device):
        return True
    text = "torch.compile does not work here (any more), so the run goes on without; it is slower"
    report(Note(f"{task.name}: {text}", "warning"))
    return False


def _require_use(
    task: loop.Task, state: State, config: RunConfig, folder: Path, report: Report
) -> None:
    """Raise Diverged if a run that was no trial has learned nothing, not even its own pictures."""
    if task.learned(state.metrics) or state.step < TRIAL_STEPS:
        return

    def memorised() -> bool:
        count = loop.glance(task.train, config)
        figures = loop.judged(state, lambda model: task.evaluate(model, task.train, count))
        return figures is not None and task.learned(figures)

    if not engine.once(memorised, together=state.sharded):
        why = task.warning(state.metrics)
        raise Diverged(f"{folder} has come to nothing and stays unfinished: {why}")
    report(
        Note(
            "it has memorised its training pictures and learned nothing that holds for others; "
            "prepare more pictures, or train for less time",
            "warning",
        )
    )


def _read(folder: Path) -> Manifest | None:
    """The run's manifest as the first process finds it."""

    def read() -> dict[str, Any] | None:
        found = manifest.read(folder)
        return dataclasses.asdict(found) if found else None

    content = engine.once(read)
    return Manifest(**content) if content else None


def _check_share(config: RunConfig) -> None:
    """Raise UsageError if a batch cannot be shared evenly by the processes."""
    world, part = engine.world(), config.batch_size // config.accumulate
    if part % world:
        divided = f" / accumulate={config.accumulate}" if config.accumulate > 1 else ""
        raise UsageError(
            f"batch_size={config.batch_size}{divided} cannot be shared evenly by {world} "
            f"processes; take --set batch_size={-(-part // world) * world * config.accumulate}, "
            "or another number of processes"
        )


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in MAY_CHANGE}


def _length(found: Manifest, config: RunConfig) -> int:
    """Steps of a run that exists: as asked, or as planned when it began, in proportion to the
    minutes if those have changed since."""
    if config.steps is not None:
        return config.steps
    planned = int(found.counts["steps"]) * config.minutes / float(found.counts["minutes"])
    return max(round(planned), 1)


def _check_same(
    folder: Path, found: Manifest, resolved: Mapping[str, Any], parents: Mapping[str, str]
) -> None:
    if found.parents != parents:
        raise Mismatch(
            f"{folder} was trained from {', '.join(found.parents)} as they were then, and now the "
            f"inputs are {', '.join(parents)}; choose another name with --run"
        )
    before, now = _identity(found.config), _identity(resolved)
    if before != now:
        changed = [key for key in now if before.get(key) != now[key]]
        raise Mismatch(
            f"{folder} was trained with other settings ({', '.join(changed)}); choose another "
            "name with --run, or leave --run out"
        )
