"""Whether a saved state is one of the run that is to go on from it: everything in it is looked at
once, before anything is changed."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dallebaby_cli.training import loss_scale
from dallebaby_cli.training.muon import Muon
from dallebaby_cli.training.optim import Optimizers
from dallebaby_cli.training.parts import Part

COUNTS = {
    "step": (int, 10**12),
    "began": (int, 10**12),
    "ends": (int, 10**12),
    "lr_scale": (float, 1),
    "skipped": (int, 10**12),
    "rollbacks": (int, 10**6),
    "threads": (int, 10**4),
}
"""Number that a state holds beside tensors → its type and the most it can be."""
KEPT = {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}, Muon: {"momentum"}}
"""What each optimizer remembers of a weight."""
MAY_DIFFER = ("lr", "fused")  # of a group of weights: each step and this machine set them


class Misfit(ValueError):
    """What in a state is not as it must be, in a few words."""


def check(saved: Mapping[str, Any], parts: Mapping[str, Part], ema: nn.Module) -> None:
    """Raise Misfit unless a saved state holds all of these parts, and finite numbers only."""
    for name, (kind, most) in COUNTS.items():
        value = saved.get(name, 0 if name != "step" else None)  # older versions lack some
        _require(type(value) is kind or (name not in saved and value == 0), f"its {name}")
        _require(math.isfinite(value) and 0 <= value <= most, f"its {name}")
    for step, loss in _mapping(saved.get("losses", {}), "losses").items():
        _require(type(step) is int and type(loss) is float, "its losses")
    (main, *_), others = parts.values(), [*parts.items()][1:]
    _check_part(saved, main, "")
    _check_weights(saved.get("ema"), ema, "ema")
    more = _mapping(saved.get("parts", {}), "parts")
    _require(more.keys() == dict(others).keys(), "its parts")
    for name, part in others:
        _check_part(_mapping(more[name], name), part, f"{name}.")
    if "loss_scale" in saved:
        scale = _mapping(saved["loss_scale"], "loss_scale")
        for name, number, least, limit in loss_scale.RANGES:
            found = scale.get(name, -1)
            _require(type(found) is number and least <= found <= limit, "its loss_scale")
    if "best" in saved:
        _check_best(_mapping(saved["best"], "best"), saved["step"], ema)


def _check_best(saved: Mapping[str, Any], step: int, ema: nn.Module) -> None:
    found, weights = saved.get("step"), _mapping(saved.get("weights"), "best")
    _require(type(found) is int and 0 <= found <= step, "the step of its best")
    if weights:
        _check_weights(weights, ema, "best")


def _check_part(saved: Mapping[str, Any], part: Part, at: str) -> None:
    _check_weights(saved.get("model"), part.module, f"{at}model")
    _check_optimizer(saved.get("optimizer"), part.optimizer, f"{at}optimizer")


def _check_weights(saved: object, module: nn.Module, at: str) -> None:
    found, expected = _mapping(saved, at), module.state_dict()
    _require(found.keys() == expected.keys(), f"the names in its {at}")
    for name, tensor in expected.items():
        _check_tensor(found[name], tensor.shape, tensor.dtype, f"{at}.{name}")


def _check_optimizer(saved: object, optimizers: Optimizers, at: str) -> None:
    found = _mapping(saved, at)
    _require(found.keys() == {str(i) for i in range(len(optimizers.parts))}, f"its {at}")
    for index, optimizer in enumerate(optimizers.parts):
        state = _mapping(found[str(index)], at)
        ours = optimizer.state_dict()["param_groups"]
        groups: Any = state.get("param_groups")
        _require(isinstance(groups, list) and len(groups) == len(ours), f"the groups of its {at}")
        for group, expected in zip(groups, ours, strict=True):
            known = _mapping(group, at).keys() & expected.keys() - {*MAY_DIFFER}
            same = all(repr(group[key]) == repr(expected[key]) for key in known)
            _require("params" in known and same, f"a group of its {at}")
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        moments = _mapping(state.get("state"), at)
        _require(len(moments) in (0, len(weights)), f"its {at}")
        for number, kept in moments.items():
            place = f"{at}.{number}" if type(number) is int else at
            _require(type(number) is int and 0 <= number < len(weights), f"its {at}")
            _require(_mapping(kept, place).keys() == KEPT[type(optimizer)], f"its {place}")
            for name, tensor in kept.items():
                shape = torch.Size() if name == "step" else weights[number].shape
                _check_tensor(tensor, shape, None, f"{place}.{name}")
                _require(
                    name == "momentum" or name == "exp_avg" or bool((tensor >= 0).all()), place
                )


def _check_tensor(found: object, shape: torch.Size, kind: torch.dtype | None, at: str) -> None:
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.shape != shape:
        raise Misfit(f"{at} has not the shape {tuple(shape)}")
    right = found.dtype == kind if kind else found.is_floating_point()
    _require(right and not found.is_meta, f"the numbers in its {at}")
    _require(bool(found.isfinite().all()), f"the numbers in its {at}")


def _mapping(found: object, at: str) -> Mapping[Any, Any]:
    _require(isinstance(found, Mapping), f"its {at}")
    return found  # type: ignore[return-value]


def _require(right: bool, what: str) -> None:
    if not right:
        raise Misfit(f"{what} cannot be of this run")
