"""One run on several processes ("ranks"), on torch's own engines; alone, all here does nothing.

Each rank takes its share of every batch. Either every rank holds the whole model, and
DistributedDataParallel averages the gradients while the backward pass still runs; or, with
`shard=true`, FSDP2 (`fully_shard`) splits weights, gradients and optimizer states among the ranks,
for models that do not fit one device. All ranks take the same step and stay equal, and a checkpoint
is that of a run on one process, so a run can go on with another number of ranks.

The first rank alone writes, reports and measures time; `once` tells the others what it found.
Decisions that must be the same everywhere come from there, or from reduced numbers.
"""

import contextlib
import inspect
import json
import logging
import os
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from dallebaby_cli.errors import Interrupted, Mismatch, ProcessLost, UsageError
from dallebaby_cli.models import collectives
from dallebaby_cli.models import device as devices

T = TypeVar("T")

JOIN = timedelta(minutes=5)
WORK = timedelta(hours=12)  # longest that the others wait for the first one to evaluate and save
METHODS = (
    "losses",
    "encode",
    "decode",
    "ask",
    "decode_one",
)  # use weights, as forward does


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if collectives.together() else 0


def world() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if collectives.together() else 1


def first() -> bool:
    """Whether this is the process that writes and reports."""
    return rank() == 0


# ---------------------------------------------------------------- starting and meeting


def started() -> bool:
    """Whether this process is one of several that were started together."""
    return "RANK" in os.environ


def processes(wanted: str) -> int:
    """How many `--processes` asks for; auto is one a GPU. Raises UsageError."""
    if wanted == "auto":
        return 1 if sys.platform == "win32" else max(torch.cuda.device_count(), 1)
    if not wanted.isascii() or not wanted.isdigit() or int(wanted) < 1:
        raise UsageError(f"--processes {wanted}: must be auto or a number from 1")
    if int(wanted) > 1 and sys.platform == "win32":  # torch's launcher needs libuv
        raise UsageError(
            f"--processes {wanted}: on Windows torch starts only one; take --processes 1, or work "
            "in WSL"
        )
    return int(wanted)


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Start `dallebaby ARGUMENTS...` in so many processes on this machine, through torch's own
    launcher, and wait for them. Returns the exit code of the one that failed first, or 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # the ranks say themselves what is wrong
    cores = max((os.cpu_count() or 1) // processes, 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # to finish a step and save
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",  # many a machine cannot find itself by its name
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "dallebaby_cli", *arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code >= 0 else 128 - code  # a signal counts below 0
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Work with the other processes that were started while the block runs.

    Only the first rank's words are seen. At its good end the process ends. When ranks fail, the
    error of the one that failed first is raised there; the others, which fail because of it, leave
    silently.
    """
    store = _join()
    try:
        with contextlib.ExitStack() as stack:
            if not first():
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            yield
    except SystemExit as end:
        if end.code:
            raise
    except (Exception, Interrupted) as error:
        if store.add("failed", 1) == 1:
            raise
        raise SystemExit(getattr(error, "exit_code", 1)) from error
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # at once: where one of gloo's threads lets go of its last tensor while Python ends, which has
    # been seen on a busy machine, that aborts the process and a finished run looks failed
    os._exit(0)


def _join() -> Store:
    """Meet the other processes. Raises UsageError or ProcessLost."""
    try:
        store, number, count = next(rendezvous("env://", timeout=JOIN))
    except ValueError as error:
        raise UsageError(f"{error}; start several processes with torchrun") from error
    except RuntimeError as error:
        raise ProcessLost(f"the other processes cannot be reached ({error})") from error
    with_gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if with_gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=WORK)
    return store


def device(name: str) -> torch.device:
    """The device called `name` that is this rank's own. Raises UsageError."""
    found = devices.resolve(name)
    if world() == 1 or found.type == "cpu":
        return found
    local = int(os.environ.get("LOCAL_RANK", "0"))
    places = torch.cuda.device_count() if found.type == "cuda" else 1
    if local >= places or found.index is not None:
        raise UsageError(
            f"--device {name}: each process of a machine needs a GPU of its own and there are "
            f"{places}; start as many (--processes) and name none, or use --device cpu"
        )
    if found.type == "cuda":
        torch.cuda.set_device(local)
    return torch.device(found.type, local)


# ---------------------------------------------------------------- models


def synchronise(module: nn.Module) -> None:
    """Give every rank the first one's weights and buffers."""
    if world() > 1:
        with collectives.sentence_if_lost(), torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)


def data_parallel(module: nn.Module) -> nn.Module:
    """Average the module's gradients over the ranks, in buckets, while the backward pass runs."""
    wrapper = nn.parallel.DistributedDataParallel
    known = inspect.signature(wrapper).parameters
    newer = "forward_sync_buffers" in known  # the name since torch 2.15
    # what a quantizer counts is the same everywhere already
    buffers: dict[str, Any] = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
    return wrapper(module, init_sync=False, gradient_as_bucket_view=True, **buffers)


def shard(module: nn.Module) -> None:
    """Split a module's weights among the ranks, layer by layer: each is whole only while it is
    computed. Weights that move in the forward pass stay whole (`whole_weights` of their module)."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # what a model returns may be a view here: nothing changes it in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    kind = next(module.parameters()).device.type
    mesh = init_device_mesh(kind, (world(),))
    whole = {w for part in module.modules() for w in getattr(part, "whole_weights", ())}
    lists = (nn.ModuleList, nn.Sequential)
    for layers in [part for part in module.modules() if isinstance(part, lists)]:
        for layer in layers.children():
            calls = type(layer).forward is not nn.Module.forward and not isinstance(layer, lists)
            if calls and [*layer.children()]:  # or it would never be made whole
                fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    # the averaged weights, which have no backward pass, must not stay whole either
    fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    for name in METHODS:
        if hasattr(module, name):
            register_fsdp_forward_method(module, name)


# ---------------------------------------------------------------- what ranks tell each other


def highest(number: int) -> int:
    """The highest of all ranks' numbers."""
    return int(collectives.reduce(torch.tensor(number), collectives.Op.MAX))


def lowest(number: int) -> int:
    """The lowest of all ranks' numbers."""
    return -highest(-number)


def wait() -> None:
    """Go on when every rank has come here."""
    highest(0)


def broadcast(content: bytes) -> bytes:
    """The first rank's bytes."""
    if world() == 1:
        return content
    size = highest(len(content) if first() else 0)
    buffer = torch.empty(size, dtype=torch.uint8)
    if first() and content:
        buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    with collectives.sentence_if_lost():
        dist.broadcast(buffer, src=0)
    return buffer.numpy().tobytes()


def once(make: Callable[[], T], together: bool = False) -> T:
    """What `make` returns (anything that JSON can hold) in the first rank, which alone calls it
    while the others wait, or which they all call `together` with it."""
    if world() == 1:
        return make()
    made = make() if first() or together else None
    return json.loads(broadcast(json.dumps(made).encode() if first() else b""))


def require_same(what: str, ours: str) -> None:
    """Raise Mismatch in a rank whose `ours` is not that of the first one."""
    if once(lambda: ours) != ours:
        raise Mismatch(
            f"process {rank()} has other {what} than process 0; start all with one command line, "
            "one version of dallebaby and the same --home, on a disk that they share"
        )
