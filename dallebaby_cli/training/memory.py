"""What does not fit into memory is refused before it is allocated, with the figure and with what
does fit: a system that runs out of memory ends programs without a sentence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dallebaby_cli import files
from dallebaby_cli.config import RunConfig
from dallebaby_cli.errors import OutOfMemory, out_of_memory
from dallebaby_cli.models import device as devices
from dallebaby_cli.training import engine
from dallebaby_cli.training.state import State

T = TypeVar("T")
Tensors = tuple[Tensor, ...]

COPIES = 5  # of a model's numbers while it trains: weights, gradients, averages, two moments
WHOLE = 2  # of them that are not split among ranks at first: weights, averages
BATCHES = 6  # that are held at a time: prepared in advance, and at work


def parameters(build: Callable[[Any], nn.Module], config: Any) -> int:
    """How many numbers a model of a config with a `depth` learns; it need not fit into memory."""

    def of_depth(depth: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build(replace(config, depth=depth)).parameters())

    one, two = of_depth(1), of_depth(2)
    return one + (config.depth - 1) * (two - one)


def require_model(
    build: Callable[[Any], nn.Module],
    config: Any,
    sizes: tuple[str, ...],
    device: torch.device,
    shard: bool = False,
) -> None:
    """Raise OutOfMemory if a model of that config is too large to be trained on the device, or if
    ranks `shard` it, on one for each of them; `sizes` are the settings that make it so."""
    count = parameters(build, config)
    copies = max(COPIES / engine.world(), WHOLE) if shard else COPIES
    needed, there = int(4 * count * copies), devices.memory_bytes(device)
    if needed > there:
        given = ", ".join(f"{name}={getattr(config, name)}" for name in sizes)
        raise OutOfMemory(
            f"a model with {given} has {count:,} parameters, which take "
            f"{files.human_bytes(needed)} of memory in training, and there are "
            f"{files.human_bytes(there)}; take less of these, such as --set "
            f"{config.section}{sizes[0]}=N, or a smaller --preset"
        )


def require_batch(config: RunConfig, picture_bytes: int) -> None:
    """Raise OutOfMemory if batches of pictures, each of which takes so much, cannot be held while
    they are prepared."""
    each, there = BATCHES * picture_bytes, devices.memory_bytes(torch.device("cpu"))
    if config.batch_size * each > there:
        fits = 1 << ((there // each).bit_length() - 1)
        raise OutOfMemory(
            f"batch_size={config.batch_size} takes "
            f"{files.human_bytes(config.batch_size * each)} of memory to prepare and there are "
            f"{files.human_bytes(there)}; take --set batch_size={fits} or less"
        )


def require_step(state: State, step: Callable[[Tensors], object], batch: Tensors) -> None:
    """Raise OutOfMemory if what a step over the batch keeps for its backward pass does not fit the
    device, judged by what it keeps of one picture and of two. Only a process alone can tell."""
    config = state.config
    part = config.batch_size // config.accumulate
    if engine.world() > 1 or part < 2:
        return
    first, second = (_needed_bytes(state, step, tuple(t[:n] for t in batch)) for n in (1, 2))
    each = max(second - first, 1)
    fixed = COPIES * sum(4 * p.numel() for p in state.model.parameters()) + max(first - each, 0)
    needed, there = fixed + part * each, devices.memory_bytes(state.device)
    if needed > there:
        fit = (there - fixed) // each
        parts = next((a for a in _more_parts(config) if config.batch_size // a <= fit), None)
        raise _too_large(config, f"takes {files.human_bytes(needed)} of memory", there, parts)


def explained(state: State, step: Callable[[], T]) -> T:
    """Take a step; where memory does not hold it, raise OutOfMemory that says in how many parts a
    batch fits, which is tried."""
    try:
        return step()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    config, parts = state.config, None
    for number in _more_parts(config) if engine.world() == 1 else ():
        state.config = replace(config, accumulate=number)
        if _fits(state, step):
            parts = number
            break
    there = devices.memory_bytes(state.device)
    raise _too_large(config, "does not fit into memory", there, parts)


def _fits(state: State, step: Callable[[], object]) -> bool:
    _forget_gradients(state)
    devices.free_cached()
    try:
        step()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return False
    return True


def _needed_bytes(state: State, step: Callable[[Tensors], object], batch: Tensors) -> int:
    """What a step over a batch holds at a time, weights left out: all that it keeps for its
    backward pass; where blocks are computed again, what lies between them, and all of one."""
    kept = _kept_bytes(state, step, batch)
    with keeping_all(state.model) as blocks:
        return kept + (_kept_bytes(state, step, batch) - kept) // blocks if blocks else kept


@contextmanager
def keeping_all(model: nn.Module) -> Iterator[int]:
    """Let a model that computes blocks again keep all of them while this runs; how many there are,
    0 if it does no such thing."""
    if not getattr(model, "recompute", False):
        yield 0
        return
    model.recompute = False  # type: ignore[assignment]
    try:
        yield len(model.blocks)  # type: ignore[arg-type]
    finally:
        model.recompute = True  # type: ignore[assignment]


def _kept_bytes(state: State, step: Callable[[Tensors], object], batch: Tensors) -> int:
    """What a step over a batch keeps for its backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in state.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(batch)
    _forget_gradients(state)
    return sum(kept.values())


def _forget_gradients(state: State) -> None:
    for part in state.parts.values():
        part.module.zero_grad(set_to_none=True)


def _more_parts(config: RunConfig) -> Iterator[int]:
    """The numbers of parts, more than now, that a batch can be split into."""
    numbers = range(config.accumulate + 1, config.batch_size + 1)
    return (number for number in numbers if config.batch_size % number == 0)


def _too_large(config: RunConfig, what: str, there: int, parts: int | None) -> OutOfMemory:
    """What to say of a batch that fits in so many parts, if in any."""
    split = f" with accumulate={config.accumulate}" if config.accumulate > 1 else ""
    if parts is None:
        advice = "take a smaller --preset, or another --device"
    else:
        fits = config.batch_size // parts
        advice = (
            f"{fits} at a time fit: --set accumulate={parts}, which learns the same, or "
            f"--set batch_size={fits}"
        )
    return OutOfMemory(
        f"batch_size={config.batch_size}{split} {what}, of which there are "
        f"{files.human_bytes(there)}; {advice}"
    )
