"""Cross-entropy in parts, against torch's of all logits at once."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dallebaby_cli.models import cross_entropy as module
from dallebaby_cli.models.cross_entropy import cross_entropy

ROWS, WIDTH, CLASSES = 120, 24, 37
OF_BF16 = 2**-7  # relative: a few roundings to 8 bits


def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    rows, classes = torch.randn(4, ROWS // 4, WIDTH), torch.randn(CLASSES, WIDTH)
    target, share = torch.randint(CLASSES, rows.shape[:2]), torch.rand(rows.shape[:2])
    return (
        rows.requires_grad_(),
        classes.requires_grad_(),
        target,
        share.masked_fill(share < 0.3, 0),
    )


def plain(rows: Tensor, classes: Tensor, target: Tensor, share: Tensor) -> Tensor:
    logits = F.linear(rows, classes).float().flatten(0, 1)
    return (F.cross_entropy(logits, target.flatten(), reduction="none") * share.flatten()).sum()


@pytest.mark.parametrize("held", [1, 7 * CLASSES, 1 << 24], ids=["a row", "some", "all"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_values_and_gradients_are_those_of_all_logits_at_once(
    held: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD", held)
    found: list[list[Tensor]] = []
    for loss in (cross_entropy, plain):
        rows, classes, *rest = case()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(rows, classes, *rest)
        assert value.dtype == torch.float32
        found.append([value.detach(), *torch.autograd.grad(value / 3, (rows, classes))])
    tolerance = {"fp32": 1e-6, "bf16": OF_BF16}[precision]
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


def test_nothing_is_kept_where_nothing_is_learned() -> None:
    rows, classes, *rest = case()
    expected = plain(rows, classes, *rest)
    with torch.no_grad():
        found = cross_entropy(rows, classes, *rest)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach())
    frozen = cross_entropy(rows.detach(), classes.detach(), *rest)
    assert not frozen.requires_grad


def test_fp16_holds_what_thousands_of_rows_add_to_one_class() -> None:
    """Which no scaling of the loss would make smaller: the gradient is made before it."""
    rows, classes = torch.full((20_000, 8), 8.0), torch.zeros(8, 8, requires_grad=True)
    target, share = torch.zeros(20_000, dtype=torch.int64), torch.ones(20_000)
    with torch.autocast("cpu", torch.float16):
        cross_entropy(rows, classes, target, share).backward()
    assert classes.grad is not None
    expected = 20_000 * 8.0 * torch.tensor([-7 / 8, *[1 / 8] * 7])
    torch.testing.assert_close(classes.grad, expected[:, None].expand(8, 8), rtol=2**-8, atol=0)


class Largest(TorchDispatchMode):
    """Sees how many numbers the largest tensor has that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


def test_the_logits_of_a_batch_are_never_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD", 10 * CLASSES)
    with Largest() as ours:
        cross_entropy(*case()).backward()
    with Largest() as all_at_once:
        plain(*case()).backward()
    assert all_at_once.numbers == ROWS * CLASSES
    assert ours.numbers == ROWS * WIDTH, "the rows themselves"
