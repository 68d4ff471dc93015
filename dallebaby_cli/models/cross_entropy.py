"""Cross-entropy of a linear layer's classes, some thousand rows at a time.

All logits of a batch take more memory than most of the model: here those of a few rows are held,
and turned into what they add to the gradients at once, so that nothing is computed twice.

Shapes: M rows, D width, K classes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

HELD = 1 << 24  # logits at a time: 64 MB, and enough work for any device
ALIGNED, FULL = 8, 64  # GPUs want rows that begin at 16 bytes: others get classes that do not count
ROOM = 64  # a sum of so many rows overflows fp16 otherwise; for others it changes nothing


def cross_entropy(rows: Tensor, classes: Tensor, target: Tensor, share: Tensor) -> Tensor:
    """The sum over rows (…, D) of their share (…), 0 to 1, times the cross-entropy in nats of their
    logits `rows @ classes.T`, classes being (K, D), with a target (…) int64. Products are in
    autocast's precision, all else in fp32."""
    learned = torch.is_grad_enabled() and (rows.requires_grad or classes.requires_grad)
    kind = rows.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype
    each = rows.flatten(0, -2), classes, target.flatten(), share.flatten()
    total: Tensor = _CrossEntropy.apply(*each, dtype, learned)
    return total


class _CrossEntropy(torch.autograd.Function):
    """The loss, and its gradients while the logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        classes: Tensor,
        target: Tensor,
        share: Tensor,
        dtype: torch.dtype,
        learned: bool,
    ) -> Tensor:
        count = len(classes)
        spare = -count % FULL if count % ALIGNED else 0
        matrix = F.pad(classes.to(dtype), (0, 0, 0, spare))
        total = share.new_zeros(())
        of_rows = torch.empty_like(rows) if learned else None
        of_classes = torch.zeros_like(classes) if learned else None
        each = -(-len(rows) // -(-len(rows) * count // HELD))  # all parts alike
        for start in range(0, len(rows), each):
            part = slice(start, start + each)
            some, answer, part_share = rows[part].to(dtype), target[part, None], share[part, None]
            logp = F.linear(some, matrix)[:, :count].float().log_softmax(1)
            total -= (logp.gather(1, answer) * part_share).sum()
            if of_rows is None or of_classes is None:
                continue
            slope = logp.exp_()  # the softmax, less 1 at the answer
            slope.scatter_(1, answer, slope.gather(1, answer) - 1)
            slope = slope.mul_(part_share).to(dtype)
            if spare:
                slope = F.pad(slope, (0, spare))
            of_rows[part] = slope @ matrix
            of_classes.add_((slope.T @ (some / ROOM))[:count], alpha=ROOM)
        if of_rows is not None:
            ctx.save_for_backward(of_rows, of_classes)
        return total

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        of_rows, of_classes = ctx.saved_tensors
        return of_rows * slope, of_classes * slope, None, None, None, None
