"""Tensors split among the ranks (FSDP2's DTensors), and whole ones, as checkpoints hold."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(state: Any) -> Any:
    """A nested state with its split tensors gathered, on the CPU. All ranks call it."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, list) else state


def load_whole(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Load whole weights into a module, split or not."""
    ours = module.state_dict()
    module.load_state_dict({name: like(value, ours.get(name)) for name, value in saved.items()})


def like(value: Tensor, model: object) -> Tensor:
    """A copy of a whole tensor, split among the ranks as `model` is, or laid out in memory as it
    is, which fused kernels rely on; every rank has it whole already."""
    if not isinstance(model, DTensor):
        if not isinstance(model, Tensor) or value.shape != model.shape:
            return value
        return torch.empty_like(model, dtype=value.dtype, requires_grad=False).copy_(value)
    on_device = value.to(model.device, copy=True)
    return distribute_tensor(on_device, model.device_mesh, model.placements, src_data_rank=None)


def local(tensor: Tensor, full: bool = False) -> Tensor:
    """The part of a tensor that this rank has, sharing memory; or all of it (`full`)."""
    if not isinstance(tensor, DTensor):
        return tensor
    return tensor.full_tensor() if full else tensor.to_local()
