"""Losses and figures of pictures, against their definitions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.config import DVAEConfig
from dallebaby_cli.models.tokenizers import losses
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.quality import metrics


def pictures(count: int = 2, side: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def test_pixel_losses_are_their_definitions() -> None:
    target = pictures()
    output = torch.randn(target.shape)
    error = (output - (target.float() / 127.5 - 1)).double()
    expected = {"l1": error.abs().mean(), "l2": (error**2).mean()}
    for kind, value in (expected | {"l1+l2": sum(expected.values())}).items():
        assert losses.reconstruction(output, target, kind).item() == pytest.approx(float(value))  # type: ignore[arg-type]


def test_laplace_is_the_density_of_a_logit_of_a_laplace_variable() -> None:
    """f(x) = Laplace(logit x; location, scale) times the slope of the logit at x."""
    target, output = pictures(1, 4), torch.randn(1, 6, 4, 4)
    x = 0.1 + 0.8 * target.double() / 255
    laplace = torch.distributions.Laplace(output[:, :3].double(), output[:, 3:].double().exp())
    density = laplace.log_prob(torch.log(x / (1 - x))) + (1 / (x * (1 - x))).log()
    loss = losses.reconstruction(output, target, "laplace")
    assert loss.item() == pytest.approx(-density.mean().item(), rel=1e-5)


def test_laplace_is_least_where_the_picture_is_right() -> None:
    target = pictures(1, 4)
    right = torch.logit(0.1 + 0.8 * target.float() / 255)
    sure = torch.cat((right, torch.full_like(right, -9)), dim=1)
    shifted = torch.cat((right + 0.1, torch.full_like(right, -9)), dim=1)
    best, worse = (losses.logit_laplace(output, target) for output in (sure, shifted))
    assert best.isfinite() and best < worse
    model = DVAE(DVAEConfig(image_px=4, grid=2, width=8, depth=0, loss="laplace"))
    assert torch.equal(model.render(sure), target)


def test_edges_see_a_blur_that_pixels_hardly_do() -> None:
    target = torch.zeros(1, 3, 16, 16)
    target[..., 8:] = 1
    blurred = F.avg_pool2d(F.pad(target, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    tinted = target + (blurred - target).abs().mean()
    assert losses.edges(target, target) == 0
    assert losses.edges(target, target + 0.3) == pytest.approx(0, abs=1e-6)
    assert losses.edges(blurred, target) > 10 * losses.edges(tinted, target)
    assert (blurred - target).abs().mean() == pytest.approx((tinted - target).abs().mean().item())


def test_edges_add_to_the_pixels() -> None:
    target, output = pictures(), torch.randn(2, 3, 16, 16)
    plain = losses.reconstruction(output, target, "l2")
    edges = losses.edges(output, target.float() / 127.5 - 1)
    both = losses.reconstruction(output, target, "l2", edge_weight=0.3)
    torch.testing.assert_close(both, plain + 0.3 * edges)


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, eq. 13 to 16, window by window, of (3, H, W)."""
    size = min(11, a.shape[1] if a.shape[1] % 2 else a.shape[1] - 1)
    bell = [math.exp(-((i - size // 2) ** 2) / (2 * 1.5**2)) for i in range(size)]
    weights = np.outer(bell, bell) / np.outer(bell, bell).sum()
    found = []
    for channel in range(3):
        for i in range(a.shape[1] - size + 1):
            for j in range(a.shape[2] - size + 1):
                x = a[channel, i : i + size, j : j + size].astype(float)
                y = b[channel, i : i + size, j : j + size].astype(float)
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                cov = (weights * (x - mx) * (y - my)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
                found.append(luminance * (2 * cov + c2) / (vx + vy + c2))
    return float(np.mean(found))


@pytest.mark.parametrize("side", [8, 11, 16])
def test_ssim_is_its_definition(side: int) -> None:
    a = pictures(2, side)
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1)) * 40
    b = (a.float() + noise).clamp(0, 255).to(torch.uint8)
    expected = [slow_ssim(x.numpy(), y.numpy()) for x, y in zip(a, b, strict=True)]
    assert metrics.ssim(a, b).tolist() == pytest.approx(expected, abs=1e-4)
    assert metrics.ssim(a, a).tolist() == pytest.approx([1, 1])


def test_psnr_of_a_known_error() -> None:
    a = pictures().clamp(max=245)
    assert metrics.psnr(a, a + 10).tolist() == pytest.approx([20 * math.log10(25.5)] * 2)
    assert metrics.psnr(a, a).tolist() == pytest.approx([100, 100])


def test_figures_are_the_same_inside_autocast() -> None:
    random = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (2, 3, 24, 24), generator=random, dtype=torch.uint8)
    b = (a.float() * 0.9 + 6).to(torch.uint8)
    codes = torch.tensor([[65535, 7], [0, 7]])
    known = np.array([[65534, 7], [1, 8]], np.uint16)

    def figures() -> list[float]:
        near = torch.from_numpy(metrics.nearest(codes, [known])[0])
        return torch.cat((metrics.psnr(a, b), metrics.ssim(a, b), near)).tolist()

    expected = figures()
    with torch.autocast("cpu", torch.bfloat16):
        assert figures() == expected
