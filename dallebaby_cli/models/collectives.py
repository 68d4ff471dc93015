"""What the ranks (processes) of one run tell each other; alone, a rank hears itself.

A rank that has ended shows as an error of the network in the others: here it becomes the one
sentence that says so.
"""

import contextlib
import re
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from dallebaby_cli.errors import ProcessLost

Op = dist.ReduceOp
OF_THE_NETWORK = re.compile(r"\bgloo\b|\bnccl\b|connection|socket|\bpeer\b|broken pipe", re.I)


def reduce(tensor: Tensor, op: Op.RedOpType = Op.SUM) -> Tensor:
    """Reduce a tensor over all ranks, in place. Raises ProcessLost."""
    if dist.is_initialized():
        with sentence_if_lost():
            dist.all_reduce(tensor, op)
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """The tensors (B, ...) of all W ranks, which are every W-th of a batch, in the order of the
    whole batch (B * W, ...). Raises ProcessLost."""
    if not dist.is_initialized():
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
