"""The discriminator that teaches a decoder to draw sharply: it tells real pictures from rebuilt
ones, patch by patch, and is thrown away afterwards.

After the patch discriminators of pix2pix (Isola et al. 2017, arXiv 1611.07004) and the relativistic
loss of R3GAN (Huang et al. 2025, arXiv 2501.05441), whose gradient penalties are approximated by
judging noisy copies alike (Lin et al. 2025, arXiv 2501.08316), which needs no second derivatives.
It sees beside each picture what pixels alone made of the same codes, so it judges what was added.
No pretrained weights are needed.

Shapes: B pictures, P pixels along a side, N patches that are judged.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dallebaby_cli.models import collectives

LEAST_SIDE = 4  # of the coarsest feature map
HALVINGS = 2
SLOPE = 0.2  # of the leaky ReLU
NOISE = 0.05  # standard deviation of the noise, of pictures in [-1, 1]
SMOOTHNESS = 1.0  # weight of judging noisy copies alike


class Discriminator(nn.Module):
    """Pictures, and what pixels alone made of them, both (B, 3, P, P) in [-1, 1] → (B, N), how
    real each patch is, in nats more than another."""

    def __init__(self, width: int, image_px: int) -> None:
        super().__init__()
        fold = 2 if image_px % 2 == 0 else 1
        side = image_px // fold
        layers: list[nn.Module] = [nn.PixelUnshuffle(fold), nn.Conv2d(6 * fold**2, width, 3, 1, 1)]
        for _ in range(HALVINGS):
            layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(width, width, 3, padding=1)]
            if side >= 2 * LEAST_SIDE:
                layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(width, 2 * width, 2, stride=2)]
                width, side = 2 * width, side // 2
        layers += [nn.LeakyReLU(SLOPE), nn.Conv2d(width, width, 3, padding=1)]
        super().__init__()
        self.body = nn.Sequential(*layers, nn.LeakyReLU(SLOPE))
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

    def forward(self, pictures: Tensor, beside: Tensor) -> Tensor:
        seen = torch.cat((pictures, beside), dim=1).contiguous(memory_format=torch.channels_last)
        return self.judge(self.body(seen)).flatten(1).float()

    def loss(self, real: Tensor, made: Tensor, beside: Tensor) -> Tensor:
        """The mean over patches of how badly it tells real pictures from made ones, in nats, and of
        how unevenly it judges the same ones with a little noise."""
        pictures = torch.cat((real, made))
        noisy = pictures + NOISE * torch.randn_like(pictures)
        judged = self(torch.cat((pictures, noisy)), beside.repeat(4, 1, 1, 1))
        clean, moved = judged.chunk(2)
        of_real, of_made = clean.chunk(2)
        uneven = (clean - moved).square().mean()
        return F.softplus(of_made - of_real).mean() + SMOOTHNESS * uneven


def pulled(
    output: Tensor,
    main: Callable[[Tensor], Tensor],
    pulls: Sequence[tuple[Callable[[Tensor], Tensor], float]],
) -> Tensor:
    """A scalar with the value of a `main` loss of the decoder's output, and the gradient of it and
    of other losses, each of which is made `weight` times as long as the first: so the balance is
    the same for all pictures and at any time, whatever the size of the losses."""
    leaf = output.detach().requires_grad_()
    value = main(leaf)
    gradients = [
        torch.autograd.grad(loss, leaf)[0] for loss in (value, *(p(leaf) for p, _ in pulls))
    ]
    lengths = collectives.reduce(torch.stack([g.square().sum() for g in gradients])).sqrt()
    weights = [weight for _, weight in pulls]
    whole = gradients[0]
    for gradient, length, weight in zip(gradients[1:], lengths[1:], weights, strict=True):
        whole = whole + gradient * (weight * lengths[0] / length.clamp(min=1e-20))
    surrogate = (output * whole).sum()
    return value.detach() + surrogate - surrogate.detach()
