"""Quantizers: continuous features to codes of a finite codebook, with gradients that pass through.

| name   | after                                       | a code is                           |
| fsq    | Mentzer et al. 2023, arXiv 2309.15505       | a point of a fixed grid             |
| vq     | van den Oord et al. 2017, arXiv 1711.00937; | the nearest of learned unit vectors |
|        | few dimensions and a sphere as in Yu et al. |                                     |
|        | 2021, arXiv 2110.04627                      |                                     |
| gumbel | Jang et al. 2016, arXiv 1611.01144          | as vq's, and chosen by chance       |
| gumbel | Ramesh et al. 2021, arXiv 2102.12092        | the likeliest of a categorical      |
|  -free |                                             |                                     |

What differs from the papers: VQ starts from features of the first batch and moves dead codes, and
so does `gumbel`, whose logits are how near codes are. `gumbel-free` takes the encoder's own logits,
as the paper does: after minutes, it uses few of its codes.

Every quantizer has `features` (channels that it reads), `channels` (of its vectors), `codes` (size
of the codebook), `forward(features, progress) → Quantized` and `lookup(codes) → vectors`.

Shapes: B pictures, F features, D channels of a vector, K codes, G codes along one side.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dallebaby_cli.config import DVAEConfig
from dallebaby_cli.models import collectives
from dallebaby_cli.models.digits import join, split

NEARNESS = 20.0  # of gumbel's logits: codes at a right angle are e⁻²⁰ times as likely as a match
SOFT = (
    0.5  # least temperature of the mixture whose gradients it takes; sharper ones have hardly any
)


class Quantized(NamedTuple):
    """What a quantizer makes of features."""

    vectors: Tensor
    """(B, D, G, G) fp32, what the decoder reads; gradients flow to the features"""
    codes: Tensor
    """(B, G, G) int64"""
    loss: Tensor
    """what to add to the reconstruction's loss, a scalar"""


class FSQ(nn.Module):
    """Finite Scalar Quantization: D = len(levels) channels of `levels[i]` steps each.

    There is nothing to learn, so nothing that could collapse, and no loss.
    """

    levels: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.features = self.channels = len(levels)
        self.codes, self.radices = math.prod(levels), levels
        self.register_buffer("levels", torch.tensor(levels), persistent=False)

    def forward(self, features: Tensor, progress: float = 1.0) -> Quantized:
        """Quantize features (B, D, G, G). Always in fp32: in bf16 neighbouring levels merge."""
        steps = self._bound(features.float().movedim(1, -1))  # (B, G, G, D)
        steps = steps + (steps.round() - steps).detach()  # straight-through
        digits = steps.detach().round() + self.levels // 2
        codes = join(digits.long().unbind(-1), self.radices)
        vectors = (steps / (self.levels // 2)).movedim(-1, 1)
        return Quantized(vectors, codes, features.new_zeros((), dtype=torch.float32))

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors (B, D, G, G) in [-1, 1] of codes (B, G, G)."""
        digits = torch.stack(split(codes, self.radices), dim=-1)  # (B, G, G, D)
        half = self.levels // 2
        return ((digits - half) / half).float().movedim(-1, 1)

    def _bound(self, features: Tensor) -> Tensor:
        """Squash each channel so that rounding gives exactly its number of levels (paper, §3)."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = (self.levels % 2 == 0) * 0.5  # even levels sit off centre
        return torch.tanh(features + torch.atanh(offset / half)) * half - offset


class VQ(nn.Module):
    """Vector quantization on the unit sphere: features and codes are both scaled to length 1.

    The codebook is learned by gradient, not by counting, so that a step that is skipped, split or
    shared among processes treats it as every other weight. Codes that nothing chose in the last
    `patience` passes (and at first all) are moved to features of the batch, more of them to where
    the error is larger; no random numbers are drawn.
    """

    idle: Tensor

    def __init__(self, codes: int, dim: int, commitment: float, patience: int = 50) -> None:
        super().__init__()
        self.codes, self.commitment, self.patience = codes, commitment, patience
        self.features = self.channels = dim
        self.codebook = nn.Parameter(F.normalize(torch.randn(codes, dim), dim=-1))
        self.register_buffer("idle", torch.full((codes,), patience))  # passes since last chosen

    @property
    def whole_weights(self) -> tuple[nn.Parameter, ...]:
        """Those that the forward pass moves, so that every rank of a run must hold all of them."""
        return (self.codebook,)

    def forward(self, features: Tensor, progress: float = 1.0) -> Quantized:
        """Quantize features (B, D, G, G). The loss is that of van den Oord, eq. 3: the distance
        of codes from features held still, and `commitment` times the other way round."""
        z = F.normalize(features.float().movedim(1, -1), dim=-1)  # (B, G, G, D)
        if self.training:
            self._restart(z.detach().flatten(1, 2))
        codes = self._similarity(z.detach()).argmax(-1)
        if self.training:
            self._count(codes)
        e = self._vectors(codes)  # (B, G, G, D)
        loss = F.mse_loss(e, z.detach()) + self.commitment * F.mse_loss(z, e.detach())
        straight = z + (e - z).detach()
        return Quantized(straight.movedim(-1, 1), codes, loss)

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors (B, D, G, G), of length 1, of codes (B, G, G)."""
        return self._vectors(codes).movedim(-1, 1)

    def _vectors(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, F.normalize(self.codebook, dim=-1))

    def _similarity(self, z: Tensor) -> Tensor:
        return z @ F.normalize(self.codebook, dim=-1).T.detach()  # (..., K)

    @torch.no_grad()
    def _restart(self, z: Tensor) -> None:
        """Move the dead codes to some of z (B, G * G, D): the n of them to the features at which
        the running sum of errors passes 1/2n, 3/2n, 5/2n … of the whole. Sums are of whole numbers:
        those of others differ from GPU to GPU."""
        z = collectives.gather(z).flatten(0, 1)  # (N, D), so that all processes move codes alike
        dead = self.idle >= self.patience  # (K,)
        error = (1 - self._similarity(z).amax(-1)).nan_to_num().clamp(min=1e-6)  # (N,)
        reached = (error * 2**20).long().cumsum(0)
        place = (2 * dead.cumsum(0) - 1) * reached[-1] // (2 * dead.sum().clamp(min=1))
        chosen = torch.searchsorted(reached, place).clamp(max=len(z) - 1)
        moved = dead & z[chosen].isfinite().all(-1)
        self.codebook.copy_(torch.where(moved[:, None], z[chosen], self.codebook))
        self.idle.masked_fill_(moved, 0)

    @torch.no_grad()
    def _count(self, codes: Tensor) -> None:
        chosen = torch.zeros_like(self.idle).index_fill_(0, codes.flatten(), 1)
        collectives.reduce(chosen, collectives.Op.MAX)
        self.idle.add_(1).masked_fill_(chosen.bool(), 0)


class GumbelVQ(VQ):
    """Gumbel-softmax over vectors on the unit sphere: while training, codes are drawn, nearer ones
    more likely, and less and less by chance; then it is the nearest one.

    What is drawn goes on, with the gradients of the mixture of all codes (straight-through).
    """

    def __init__(
        self,
        codes: int,
        dim: int,
        temperatures: tuple[float, ...],
        anneal_fraction: float,
        kl_weight: float,
    ) -> None:
        super().__init__(codes, dim, commitment=0)
        self.temperatures, self.anneal_fraction = temperatures, anneal_fraction
        self.kl_weight = kl_weight

    def forward(self, features: Tensor, progress: float = 1.0) -> Quantized:
        """Quantize features (B, D, G, G) at `progress`, the share of the run that is over. The loss
        is `kl_weight` times the divergence from all codes being equally likely, in nats a token."""
        z = F.normalize(features.float().movedim(1, -1), dim=-1)  # (B, G, G, D)
        if self.training:
            self._restart(z.detach().flatten(1, 2))
        book = F.normalize(self.codebook, dim=-1)
        logits = NEARNESS * z @ book.T  # (B, G, G, K)
        codes = logits.argmax(-1)
        logp = logits.log_softmax(-1)
        loss = self.kl_weight * (logp.exp() * (logp + math.log(self.codes))).sum(-1).mean()
        if not self.training:
            return Quantized(self.lookup(codes), codes, loss)
        self._count(codes)
        chance = cooled(self.temperatures, self.anneal_fraction, progress)
        noise = -torch.empty_like(logits).exponential_().log()
        soft = ((logits + chance * noise) / max(chance, SOFT)).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), self.codes)
        vectors = (hard + soft - soft.detach()) @ book
        return Quantized(vectors.movedim(-1, 1), codes, loss)


class Gumbel(nn.Module):
    """Gumbel-softmax: while training, a mixture of all codes that gets sharper; then the likeliest.

    The features are the logits of a categorical distribution over the codes.
    """

    def __init__(
        self,
        codes: int,
        dim: int,
        temperatures: tuple[float, ...],
        anneal_fraction: float,
        kl_weight: float,
    ) -> None:
        super().__init__()
        self.codes = self.features = codes
        self.channels = dim
        self.temperatures, self.anneal_fraction = temperatures, anneal_fraction
        self.kl_weight = kl_weight
        self.codebook = nn.Parameter(torch.randn(codes, dim))

    def forward(self, features: Tensor, progress: float = 1.0) -> Quantized:
        """Quantize logits (B, K, G, G) at `progress`, the share of the run that is over. The loss
        is `kl_weight` times the divergence from all codes being equally likely, in nats a token."""
        logits = features.float()
        codes = logits.argmax(1)
        logp = logits.log_softmax(1)
        kl = (logp.exp() * (logp + math.log(self.codes))).sum(1).mean()
        if self.training:
            temperature = cooled(self.temperatures, self.anneal_fraction, progress)
            soft = F.gumbel_softmax(logits, temperature, dim=1)  # (B, K, G, G)
            vectors = torch.einsum("bkij,kd->bdij", soft, self.codebook)
        else:
            vectors = self.lookup(codes)
        return Quantized(vectors, codes, self.kl_weight * kl)

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors (B, D, G, G) of codes (B, G, G)."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)


def cooled(temperatures: tuple[float, ...], anneal_fraction: float, progress: float) -> float:
    """Half a cosine from the first temperature to the last, which is reached when `anneal_fraction`
    of the run is over (Ramesh et al., appendix A.2)."""
    first, last = temperatures
    done = min(progress / anneal_fraction, 1.0) if anneal_fraction else 1.0
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))


def build(config: DVAEConfig) -> FSQ | VQ | GumbelVQ | Gumbel:
    """The quantizer that a dVAE's config names."""
    if config.quantizer == "vq":
        return VQ(config.codebook, config.code_dim, config.commitment)
    if config.quantizer in ("gumbel", "gumbel-free"):
        kind = GumbelVQ if config.quantizer == "gumbel" else Gumbel
        annealing = config.temperatures, config.anneal_fraction
        return kind(config.codebook, config.code_dim, *annealing, config.kl_weight)
    return FSQ(config.steps)
