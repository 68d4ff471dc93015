"""A run's folder, from its first start to its finished weights.

state.pt             to resume from            model.safetensors   the averaged weights
log.jsonl            one line an event         config.json         rebuilds the model
tensorboard/, *.png  to look at                manifest.json       config, parents, figures
frames/              become training.gif       report.html         all of it on a page
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dallebaby_cli import files
from dallebaby_cli.config import RunConfig
from dallebaby_cli.config.settings import as_dict
from dallebaby_cli.errors import BadInput, Diverged, Mismatch, MissingInput, UsageError
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.training import best, engine, identity, loop, pace, pictures_of_run, plan
from dallebaby_cli.training.pace import Pace
from dallebaby_cli.training.state import State

TRIAL_STEPS = 200  # a shorter run may end without having learned anything
COUNTS = {"steps": 1, "minutes": 1e-9, "threads": 0, "step_s": 0, "planned": 0}
"""Figures that a run goes on with, and the least that each can be."""


@dataclass(frozen=True)
class Finished:
    """A complete run."""

    folder: Path
    manifest: Manifest
    fresh: bool
    """False if there was nothing left to do"""
    warning: str | None
    """what is wrong with its figures, if anything, and what to do"""


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
    told = json.dumps([folder.name, resolved, parents], sort_keys=True)
    engine.require_same("settings or inputs", told)
    mine = engine.first()
    with files.lock(folder, f"the run {folder.name}") if mine else nullcontext():
        found = _read(folder)
        if found is not None:
            identity.require_same(folder, found, resolved, parents)
        whole = found is not None and found.complete and _is_whole(folder, kind, task, report)
        if found is not None and whole and _length(found, config) <= _taken(found, task):
            return Finished(folder, found, False, _warning(folder, found, task))
        _check_state(folder, found, whole, task, report)
        most = engine.lowest(torch.get_num_threads())
        plan_ = _plan(folder, found, task, config, device, report)
        draft = Manifest(
            kind=kind,
            name=folder.name,
            config=resolved,
            parents=dict(parents),
            counts=plan_.counts,
        )
        if mine and not whole:
            manifest.write(folder, draft)
            begin()
        report(Note(f"{task.name}: {plan_.steps} steps{plan_.about}, in {folder}"))
        if task.early_stop:
            report(Note(f"{task.name}: {best.outlook(task, config, plan_.steps)}"))
        state = _fit(plan_, most, task, config, folder, device, report)
        _require_use(task, state, config, folder, report)
        averaged = state.averaged()
        figures = {**state.metrics, "skipped": state.skipped, "rollbacks": state.rollbacks}
        figures |= {} if state.mfu is None else {"mfu": state.mfu}
        figures |= {"planned": state.planned} if state.planned else {}
        figures |= best.figures(task, config, state.step, state.kept, state.planned)
        counts = {**draft.counts, "steps": state.step}
        counts |= {name: round(value, 4) for name, value in figures.items()}
        if "kept" in counts:
            report(Note(f"{task.name}: {best.conclusion(task, config, counts)}"))
        draft = dataclasses.replace(draft, counts=counts)
        if mine:  # what is only to look at comes first
            pictures_of_run.bind(folder, report)
        return Finished(folder, seal(folder, draft, averaged, describe), True, task.warning(counts))


def copied(
    folder: Path,
    source: Manifest,
    tensors: Mapping[str, Tensor],
    describe: Callable[[], dict[str, Any]],
    config: RunConfig,
    parents: Mapping[str, str],
) -> Finished:
    """A complete run with the weights and figures of a finished one; what is there already, if it
    is of the same settings and inputs. Raises Mismatch if it is not."""
    resolved = as_dict(config)
    engine.require_same(
        "settings or inputs", json.dumps([folder.name, resolved, parents], sort_keys=True)
    )
    with files.lock(folder, f"the run {folder.name}") if engine.first() else nullcontext():
        found = _read(folder)
        if found is not None:
            identity.require_same(folder, found, resolved, parents)
            if found.complete:
                return Finished(folder, found, False, None)
        draft = Manifest(
            kind=source.kind,
            name=folder.name,
            config=resolved,
            parents=dict(parents),
            counts=source.counts,
        )
        return Finished(folder, seal(folder, draft, tensors, describe), True, None)


def seal(
    folder: Path,
    draft: Manifest,
    averaged: Mapping[str, Tensor],
    describe: Callable[[], dict[str, Any]],
) -> Manifest:
    """Write what a run has come to, and return its manifest. The run is unfinished until all that
    belongs together is there, whatever kills this. All ranks call it."""

    def write() -> dict[str, Any]:
        manifest.write(folder, dataclasses.replace(draft, complete=False))
        weights.save_weights(folder / "model.safetensors", averaged)
        model_id = weights.write_model(folder, draft.kind, describe())
        done = dataclasses.replace(draft, id=model_id, complete=True)
        manifest.write(folder, done)
        return dataclasses.asdict(done)

    return Manifest(**engine.once(write))


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
    before = found.counts.get("step_s") if found else None
    costs = plan.measure(task, config, device, timed, new, threads, before)
    compiled, step_s, about = costs.compiled, costs.step_s, ""
    if found:
        steps = _length(found, config)
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
        if found is None:
            return None
        figures = {"threads": 0, "step_s": 0, "planned": 0, **found.counts}
        for name, least in COUNTS.items():
            value = figures.get(name)
            if not isinstance(value, int | float) or not least <= value < 10**12:
                raise _damaged(folder, f"{name} is {value!r}")
        return dataclasses.asdict(found)

    content = engine.once(read)
    return Manifest(**content) if content else None


def _warning(folder: Path, found: Manifest, task: loop.Task) -> str | None:
    """What is wrong with a complete run's figures."""
    try:
        return task.warning(found.counts)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, f"its figures: {error}") from error


def _damaged(folder: Path, what: str) -> BadInput:
    return BadInput(
        f"{folder / 'manifest.json'} is damaged ({what}); restore it, or remove {folder} to train "
        "anew"
    )


def _is_whole(folder: Path, kind: str, task: loop.Task, report: Report) -> bool:
    """Whether the files of a complete run are those that were sealed; a note if not."""

    def wrong() -> str:
        try:
            weights.read_model(folder, kind)
        except (MissingInput, BadInput, Mismatch) as error:
            return str(error)
        return ""

    if text := engine.once(wrong):
        report(Note(f"{task.name}: {text}; it is made again now", "warning"))
    return not text


def _check_state(
    folder: Path, found: Manifest | None, whole: bool, task: loop.Task, report: Report
) -> None:
    """Raise MissingInput where a finished run is to become longer and its state is gone, BadInput
    where a state is there and nothing says of what; a note where a run begins anew."""
    path = folder / "state.pt"
    there = engine.once(path.exists)
    if found is None and there:
        raise BadInput(
            f"{folder} has a state.pt and no manifest.json, which would say of which settings and "
            "inputs; restore it, or remove the folder to train anew"
        )
    if found is not None and not there:
        if whole:
            raise MissingInput(
                f"{path} is gone, so the finished run cannot be made longer; restore it, or begin "
                f"another one from its weights, with --from {folder.name} and a new name (--run)"
            )
        report(Note(f"{task.name}: there is no {path}, so it begins at step 0", "warning"))


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


def _length(found: Manifest, config: RunConfig) -> int:
    """Steps of a run that exists: as asked, or as planned when it began, in proportion to the
    minutes if those have changed since."""
    if config.steps is not None:
        return config.steps
    planned = max(found.counts["steps"], found.counts.get("planned", 0))
    return max(round(planned * config.minutes / found.counts["minutes"]), 1)


def _taken(found: Manifest, task: loop.Task) -> int:
    """Steps that a complete run took, or was to take, if what ended it still counts."""
    goes_on = "kept" in found.counts and not task.early_stop
    return max(found.counts["steps"], 0 if goes_on else found.counts.get("planned", 0))
