"""The discriminator that teaches a decoder to draw sharply: it learns to tell real pictures from
rebuilt ones, and is thrown away afterwards. No pretrained weights are needed.

A patch discriminator (Isola et al. 2017, arXiv 1611.07004) with the relativistic loss of R3GAN
(Huang et al. 2025, arXiv 2501.05441). What it looks at to tell them apart is what a rebuilt picture
lacks: its feature maps, matched to those of the real picture (Wang et al. 2018, arXiv 1711.11585),
teach more than its judgement does (LOG.md).

Shapes: B pictures, P pixels along a side, N patches, C channels of a map.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dallebaby_cli.models import collectives

LEAST_SIDE = 4  # of the coarsest feature map
HALVINGS = 2
SLOPE = 0.2  # of the leaky ReLU
NOISE = 0.15  # standard deviation of the noise that is not to matter, of pictures in [-1, 1]


class Discriminator(nn.Module):
    """Pictures (B, 3, P, P) in [-1, 1] → how real each patch is (B, N), in nats more than another,
    and the feature maps (B, C, H, W) that tell, the finest first."""

    def __init__(self, width: int, image_px: int) -> None:
        super().__init__()
        fold = 2 if image_px % 2 == 0 else 1
        side = image_px // fold
        first = (nn.PixelUnshuffle(fold), nn.Conv2d(3 * fold**2, width, 3, padding=1))
        stages = [nn.Sequential(*first, nn.LeakyReLU(SLOPE))]
        for _ in range(HALVINGS):
            layers = [nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(SLOPE)]
            if side >= 2 * LEAST_SIDE:
                layers += [nn.Conv2d(width, 2 * width, 2, stride=2), nn.LeakyReLU(SLOPE)]
                width, side = 2 * width, side // 2
            stages.append(nn.Sequential(*layers))
        last = nn.Conv2d(width, width, 3, padding=1)
        self.stages = nn.ModuleList([*stages, nn.Sequential(last, nn.LeakyReLU(SLOPE))])
        self.judge = nn.Conv2d(width, 1, 3, padding=1)
        self.init_weights()

    def init_weights(self) -> None:
        """All initial values: convolutions N(0, 2 / (1 + slope²) / fan-in), which keep the size of
        what passes through them (He et al. 2015, arXiv 1502.01852); biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, maps = pictures.contiguous(memory_format=torch.channels_last), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.judge(x).flatten(1).float(), maps

    def loss(self, real: Tensor, made: Tensor) -> Tensor:
        """The mean over patches of how badly it tells real pictures from what was made of them, in
        nats, and of how unlike its judgement of the same ones with noise is: so it looks for what
        is missing, not for the grain (a penalty on its gradients without second derivatives, Lin
        et al. 2025, arXiv 2501.08316)."""
        pictures = torch.cat((real, made))
        noisy = pictures + NOISE * torch.randn_like(pictures)
        clean, moved = self(torch.cat((pictures, noisy)))[0].chunk(2)
        of_real, of_made = clean.chunk(2)
        return F.softplus(of_made - of_real).mean() + (clean - moved).square().mean()


def caught(judged: Tensor, real: Tensor) -> Tensor:
    """How well a discriminator tells pictures, (B, N), from real ones, in nats."""
    return F.softplus(real - judged).mean()


def unmatched(maps: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """How far feature maps are from those of the real pictures: the mean over depths of their
    absolute difference, as a share of what is seen in the real ones."""
    shares = [
        (seen.float() - wanted.float()).abs().mean() / wanted.float().abs().mean().clamp(min=1e-6)
        for seen, wanted in zip(maps, real, strict=True)
    ]
    return torch.stack(shares).mean()


def pulled(
    output: Tensor,
    main: Callable[[Tensor], Tensor],
    pulls: Callable[[Tensor], Sequence[tuple[Tensor, float]]],
) -> Tensor:
    """A scalar with the value of a `main` loss of the decoder's output, and the gradient of it and
    of other losses (each with its weight), every one of which is made `weight` times as long as the
    first: so the balance is the same for all pictures and at any time, whatever the size of the
    losses."""
    leaf = output.detach().float().requires_grad_()
    value, others = main(leaf), pulls(leaf)
    values = [value, *(loss for loss, _ in others)]
    scale = 2.0 ** (leaf.numel().bit_length() - 1)  # or fp16 could not hold what a pixel adds
    gradients = [
        torch.autograd.grad(each * scale, leaf, retain_graph=True)[0] / scale for each in values
    ]
    lengths = collectives.reduce(torch.stack([g.square().sum() for g in gradients])).sqrt()
    weights = [weight for _, weight in others]
    whole = gradients[0]
    for gradient, length, weight in zip(gradients[1:], lengths[1:], weights, strict=True):
        whole = whole + gradient * (weight * lengths[0] / length.clamp(min=1e-20))
    surrogate = (output.float() * whole).sum()
    return value.detach() + surrogate - surrogate.detach()
