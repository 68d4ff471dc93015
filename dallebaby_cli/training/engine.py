"""One run on several processes, as torchrun starts them; alone, everything here does nothing.

Every process holds the whole model and takes its share of each batch; their gradients are averaged
in one message between the backward pass and the optimizer, so all take the same step and stay
equal. That is what torch's DistributedDataParallel does, but for overlapping the message with the
backward pass. In return the model, its averaged weights and its checkpoints are those of a run on
one process, losses may call the model as they like, and a run can go on with another number of
processes.

The first process alone writes, reports and measures time; `once` tells the others what it found.
Decisions that must be the same everywhere come from there, or from averaged numbers.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from dallebaby_cli.errors import Mismatch, ProcessLost, UsageError
from dallebaby_cli.models import device as devices
from dallebaby_cli.models import ranks

T = TypeVar("T")

JOIN = timedelta(minutes=5)
WORK = timedelta(hours=12)  # longest that the others wait for the first one to evaluate and save


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first() -> bool:
    """Whether this is the process that writes and reports."""
    return rank() == 0


def share() -> slice:
    """This process's part of a batch: every `world`-th, so that the parts of an accumulated batch
    are the same pictures for any number of processes."""
    return slice(rank(), None, world())


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Work with the other processes that torchrun started while the block runs.

    Only the first process's words are seen. When processes fail, the error of the one that failed
    first is raised there; the others, which fail because of it, leave silently.
    """
    store = _join()
    try:
        with contextlib.ExitStack() as stack:
            if not first():
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            yield
    except SystemExit as end:
        if not end.code:
            dist.destroy_process_group()
        raise
    except Exception as error:
        if store.add("failed", 1) == 1:
            raise
        raise SystemExit(getattr(error, "exit_code", 1)) from error
    else:
        dist.destroy_process_group()


def _join() -> Store:
    """Meet the other processes. Raises UsageError or ProcessLost."""
    try:
        store, number, count = next(rendezvous("env://", timeout=JOIN))
    except ValueError as error:
        raise UsageError(f"{error}; start several processes with torchrun") from error
    except RuntimeError as error:
        raise ProcessLost(f"the other processes cannot be reached ({error})") from error
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=WORK)
    return store


def device(name: str) -> torch.device:
    """The device called `name` that is this process's own. Raises UsageError."""
    found = devices.resolve(name)
    if world() == 1 or found.type == "cpu":
        return found
    local = int(os.environ.get("LOCAL_RANK", "0"))
    places = torch.cuda.device_count() if found.type == "cuda" else 1
    if local >= places or found.index is not None:
        raise UsageError(
            f"--device {name}: each process of a machine needs a GPU of its own and there are "
            f"{places}; start as many (--nproc-per-node) and name none, or use --device cpu"
        )
    if found.type == "cuda":
        torch.cuda.set_device(local)
    return torch.device(found.type, local)


def sum(tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes, in place."""
    return ranks.reduce(tensor)


def average(tensors: Sequence[Tensor]) -> None:
    """Average tensors of one device and type over all processes, in place and in one message."""
    if world() == 1:
        return
    flat = sum(torch.cat([tensor.reshape(-1) for tensor in tensors])) / world()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


def highest(number: int) -> int:
    """The highest of all processes' numbers."""
    return int(ranks.reduce(torch.tensor(number), ranks.Op.MAX))


def wait() -> None:
    """Go on when every process has come here."""
    highest(0)


def broadcast(content: bytes) -> bytes:
    """The first process's bytes."""
    if world() == 1:
        return content
    size = highest(len(content) if first() else 0)
    buffer = torch.empty(size, dtype=torch.uint8)
    if first():
        buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    with ranks.told_plainly():
        dist.broadcast(buffer, src=0)
    return buffer.numpy().tobytes()


def once(make: Callable[[], T]) -> T:
    """What `make` returns (anything that JSON can hold) in the first process, which alone calls
    it; the others wait."""
    if world() == 1:
        return make()
    return json.loads(broadcast(json.dumps(make()).encode() if first() else b""))


def require_same(what: str, ours: str) -> None:
    """Raise Mismatch in a process whose `ours` is not that of the first one."""
    if once(lambda: ours) != ours:
        raise Mismatch(
            f"process {rank()} has other {what} than process 0; start all with one command line, "
            "one version of dallebaby and the same --home, on a disk that they share"
        )
