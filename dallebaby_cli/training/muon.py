"""Muon: momentum whose matrix is made orthogonal before it is applied, for hidden layers.

After Jordan et al. 2024 (kellerjordan.github.io/posts/muon), scaled so that AdamW's learning rate
fits, and shared among the ranks (Liu et al. 2025, arXiv 2502.16982). torch.optim.Muon computes in
bf16, which takes a hundred times longer on a processor that has it not; this one computes in fp32,
on a GPU in TF32, and takes matrices of one shape at once. A convolution's kernel counts as the
matrix of its first dimension by all others.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from dallebaby_cli.models import collectives
from dallebaby_cli.models import device as devices
from dallebaby_cli.training import engine
from dallebaby_cli.training.dtensors import like, local

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic polynomial, from the post
RMS = 0.2  # of an update's entries, like AdamW's


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, r, c) with their singular values drawn to about 1: Newton-Schulz iteration."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if not x.is_cuda:
        return gathered(x)
    with devices.tf32():
        return step_by_step(x)


def step_by_step(x: Tensor) -> Tensor:
    """The iteration as published, which gets by with 10 bits of each number."""
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def gathered(x: Tensor) -> Tensor:
    """The same, with the polynomials gathered as products of small Gram matrices that multiply the
    large ones once, at the end: a fraction of the work where r and c differ. It takes whole fp32:
    with 10 bits of each number it is 20 % off, with bf16's 8 it grows without bounds (LOG.md)."""
    a, b, c = COEFFICIENTS
    gram = x @ x.mT
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    factor = whole = torch.baddbmm(a * identity + b * gram, gram, gram, alpha=c)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = torch.baddbmm(a * identity + b * gram, gram, gram, alpha=c)
        whole = factor @ whole
    return whole @ x


def orthogonal_together(matrices: list[Tensor]) -> list[Tensor]:
    """`orthogonal` of matrices of one shape (r, c), which all ranks have: each rank makes its share
    of them, and all get the results."""
    mine = matrices[collectives.share()]
    each = -(-len(matrices) // engine.world())
    mine += matrices[:1] * (each - len(mine))  # all send as many
    return list(collectives.gather(orthogonal(torch.stack(mine)))[: len(matrices)])


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices and kernels."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step; every parameter has its gradient. As in torch's fused optimizers, nothing
        is changed where the device finds 1 in `found_inf`."""
        assert closure is None, "the loop computes losses itself"
        bad = None if self.found_inf is None else self.found_inf > 0
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                shapes[weight.shape].append(weight)
            for shape, weights in shapes.items():
                momenta = [local(self._momentum(w, bad), full=True).flatten(1) for w in weights]
                made = zip(orthogonal_together(momenta), weights, strict=True)
                updates = [local(like(update.view(shape), weight)) for update, weight in made]
                size = group["lr"] * RMS * max(momenta[0].shape) ** 0.5
                ours = [local(weight) for weight in weights]
                kept: float | Tensor = 1 - group["lr"] * group["weight_decay"]
                if bad is not None:
                    kept = torch.where(bad, 1.0, kept)
                    torch._foreach_mul_(updates, torch.where(bad, 0.0, 1.0))
                torch._foreach_mul_(ours, kept)
                torch._foreach_add_(ours, updates, alpha=-size)

    def _momentum(self, weight: Tensor, bad: Tensor | None) -> Tensor:
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        if bad is not None:
            gradient = torch.where(bad, momentum, gradient)  # from which it does not move
        momentum.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)
