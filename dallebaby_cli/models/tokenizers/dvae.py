"""The discrete VAE: a picture to a grid of codes and back.

After the dVAE of DALL-E (Ramesh et al. 2021, arXiv 2102.12092, appendix A). What differs: a
space-to-depth stem does the first down-scaling for free, so that convolutions run where they pay;
residual blocks are normalised; the quantizer is a part that can be exchanged.

It is an `ImageTokenizer`. Shapes: B pictures, P pixels along a side, G codes along a side,
F features, D channels of a code.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dallebaby_cli.config import DVAEConfig, settings
from dallebaby_cli.models.pictures import to_float
from dallebaby_cli.models.tokenizers import losses, quantizers
from dallebaby_cli.models.tokenizers.image_tokenizer import grey_out
from dallebaby_cli.models.tokenizers.quantizers import Quantized


class Residual(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))) at constant width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class Encoder(nn.Sequential):
    """(B, 3, P, P) → (B, F, G, G)"""

    def __init__(self, config: DVAEConfig, channels: int) -> None:
        width = config.width
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch_px),
            nn.Conv2d(3 * config.patch_px**2, width, 3, padding=1),
            *(Residual(width) for _ in range(config.depth)),
        ]
        for halving in range(config.halvings):
            wide = 2 * config.width
            layers.append(nn.Conv2d(width if halving == 0 else wide, wide, 2, stride=2))
            layers += [Residual(wide) for _ in range(config.depth)]
            width = wide
        super().__init__(*layers, nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, channels, 1))


class Decoder(nn.Sequential):
    """(B, D, G, G) → (B, 3 or 6, P, P), the encoder's mirror image"""

    def __init__(self, config: DVAEConfig, channels: int) -> None:
        width = config.width * (2 if config.halvings else 1)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        for halving in reversed(range(config.halvings)):
            layers += [Residual(width) for _ in range(config.depth)]
            narrow = config.width if halving == 0 else width
            layers.append(nn.ConvTranspose2d(width, narrow, 2, stride=2))
            width = narrow
        super().__init__(
            *layers,
            *(Residual(width) for _ in range(config.depth)),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, config.output_channels * config.patch_px**2, 3, padding=1),
            nn.PixelShuffle(config.patch_px),
        )


class DVAE(nn.Module):
    """Encoder, quantizer, decoder. Pictures go in and come out as uint8 (B, 3, P, P)."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = quantizers.build(config)
        self.encoder = Encoder(config, self.quantizer.features)
        self.decoder = Decoder(config, self.quantizer.channels)
        self.init_weights()

    def init_weights(self) -> None:
        """All initial values.

        | part                         | value                                  |
        | convolutions                 | N(0, 1 / fan-in), bias 0               |
        | last convolution of Residual | 0: each block starts as the identity   |
        | GroupNorm                    | scale 1, shift 0                       |
        | encoder's last convolution   | N(0, 1 / fan-in): unit-size features   |
        | decoder's last convolution   | N(0, 0.01 / fan-in): starts near grey  |
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                weight = module.weight
                transposed = isinstance(module, nn.ConvTranspose2d)
                fan_in = weight.shape[0] if transposed else weight[0].numel()
                nn.init.normal_(weight, std=fan_in**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Residual):
                nn.init.zeros_(module.conv2.weight)
        last = self.decoder[-2]
        assert isinstance(last, nn.Conv2d)
        with torch.no_grad():
            last.weight.mul_(0.1)

    def forward(self, pictures: Tensor, progress: float = 1.0) -> tuple[Tensor, Quantized]:
        """What `losses.reconstruction` and `render` read, (B, 3 or 6, P, P), and what the quantizer
        made of the pictures when `progress` of the training run is over."""
        quantized = self._quantize(pictures, progress)
        return self.decoder(quantized.vectors), quantized

    @property
    def image_px(self) -> int:
        """Side of the pictures in pixels."""
        return self.config.image_px

    @property
    def grid(self) -> int:
        """Codes along one side."""
        return self.config.grid

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        return self.config.codes

    @property
    def levels(self) -> tuple[int, ...]:
        """How many values each of the numbers has that a code is made of, if it is of FSQ."""
        return self.config.steps if self.config.quantizer == "fsq" else ()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def describe(self) -> dict[str, Any]:
        """What config.json says of it, and `build` makes such a model from."""
        nearness = {"logits": "nearness"} if self.config.quantizer == "gumbel" else {}
        return {"architecture": "dvae", **settings.as_dict(self.config), **nearness}

    def encode(self, pictures: Tensor) -> Tensor:
        """Codes (B, G, G) int64 of uint8 pictures (B, 3, P, P)."""
        return self._quantize(pictures, 1.0).codes

    def _quantize(self, pictures: Tensor, progress: float) -> Quantized:
        features = self.encoder(self.normalise(pictures))
        with torch.autocast(features.device.type, enabled=False):  # neighbouring codes would merge
            return self.quantizer(features, progress)

    def decode(self, codes: Tensor, known: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, P, P) uint8 of codes (B, G, G), grey where they are not `known`, bool
        (B, G, G), if that is given."""
        vectors = self.quantizer.lookup(codes)
        if known is None:
            return self.render(self.decoder(vectors))
        return grey_out(self.render(self.decoder(vectors * known[:, None])), known)

    def render(self, output: Tensor) -> Tensor:
        """Pictures (B, 3, P, P) uint8 of the decoder's output."""
        return denormalise(losses.in_range(output.float(), self.config.loss))

    def normalise(self, pictures: Tensor) -> Tensor:
        """uint8 (B, 3, P, P) → float in [-1, 1]; refuses anything else with a sentence."""
        return to_float(pictures, self.config.image_px) / 127.5 - 1


def denormalise(x: Tensor) -> Tensor:
    """Float in [-1, 1] → uint8, clipped and rounded."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
