"""What the ranks (processes) of one run tell each other; alone, a rank hears itself.

A rank that has ended shows as an error of the network in the others: here it becomes the one
sentence that says so.
"""

import contextlib
import re
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dallebaby_cli.errors import ProcessLost

Op = dist.ReduceOp
OF_THE_NETWORK = re.compile(r"\bgloo\b|\bnccl\b|connection|socket|\bpeer\b|broken pipe", re.I)


_silent = False  # while one rank works by itself


def together() -> bool:
    """Whether ranks hear each other now."""
    return dist.is_initialized() and not _silent


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Work as a process by itself while the block runs: nothing is told to other ranks."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


def is_split(model: nn.Module) -> bool:
    """Whether ranks have a part of its weights each (FSDP2)."""
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) for weight in model.parameters())


def share() -> slice:
    """This rank's part of a list: every W-th, as `gather` puts them together again, so that the
    parts of an accumulated batch are the same pictures for any number of ranks."""
    return slice(dist.get_rank(), None, dist.get_world_size()) if together() else slice(None)


def gather_shares(tensor: Tensor, whole: int) -> Tensor:
    """The `whole` rows (whole, ...) of which each rank has its `share`, on the CPU; ranks
    may have one row less than others, or none. Raises ProcessLost."""
    if not together():
        return tensor
    rows = -(-whole // dist.get_world_size())
    padded = torch.zeros((rows, *tensor.shape[1:]), dtype=tensor.dtype)
    padded[: len(tensor)] = tensor.cpu()
    return gather(padded)[:whole]


def reduce(tensor: Tensor, op: Op.RedOpType = Op.SUM) -> Tensor:
    """Reduce a tensor over all ranks, in place. Raises ProcessLost."""
    if together():
        with sentence_if_lost():
            dist.all_reduce(tensor, op)
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """The tensors (B, ...) of all W ranks, which are every W-th of a batch, in the order of the
    whole batch (B * W, ...). Raises ProcessLost."""
    if not together():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    with sentence_if_lost():
        dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


@contextlib.contextmanager
def sentence_if_lost() -> Iterator[None]:
    """Raise ProcessLost instead of the network's errors; others pass."""
    try:
        yield
    except RuntimeError as error:
        if not OF_THE_NETWORK.search(str(error)):
            raise
        raise ProcessLost(
            "another process of this run has ended or cannot be reached; "
            "run the same command again to continue"
        ) from error
