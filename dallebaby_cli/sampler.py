"""Draw pictures from captions: prefill, then one code at a time from a preallocated cache.

    from dallebaby_cli import from_pretrained
    pictures = from_pretrained("dallebaby/dalle/RUN").generate("a red car", n=8, seed=1)

Every picture has its own random numbers, so it does not matter what else is drawn beside it.
Guidance is that of Ho & Salimans (2022, arXiv 2207.12598): logits are pushed away from those that
the empty caption gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli import settings
from dallebaby_cli.config import DVAEConfig, SampleConfig, TransformerConfig
from dallebaby_cli.data.text import TextTokenizer
from dallebaby_cli.errors import UsageError
from dallebaby_cli.metrics import to_numpy
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.dvae import DVAE
from dallebaby_cli.models.transformer import Cache, Transformer
from dallebaby_cli.training import checkpoint


@dataclass(frozen=True)
class Sampler:
    """A transformer, the dVAE whose codes it speaks, and the tokenizer of its captions."""

    model: Transformer
    vae: DVAE
    tokenizer: TextTokenizer
    id: str = ""

    def generate(
        self,
        prompts: str | Sequence[str],
        n: int = 1,
        seed: int = 0,
        config: SampleConfig | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """uint8 (len(prompts) * n, P, P, 3): n pictures of each prompt, the i-th of all from
        seed + i. `progress` is told how many are done."""
        config = config or SampleConfig()
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if n < 1 or not prompts:
            raise UsageError("nothing to draw: give at least one prompt and -n 1 or more")
        wanted = [prompt for prompt in prompts for _ in range(n)]
        pictures = []
        for start in range(0, len(wanted), config.batch_size):
            part = wanted[start : start + config.batch_size]
            codes = self.draw(part, range(seed + start, seed + start + len(part)), config)
            with torch.no_grad():
                pictures.append(to_numpy(self.vae.decode(codes)))
            if progress:
                progress(start + len(part))
        return np.concatenate(pictures)

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], seeds: Sequence[int], config: SampleConfig) -> Tensor:
        """Codes (B, G, G) of one picture for each prompt and seed."""
        shape = self.model.config
        device = next(self.model.parameters()).device
        guided = config.guidance != 1
        captions = [*prompts, *[""] * len(prompts)] if guided else list(prompts)
        text = torch.from_numpy(self.tokenizer.encode(captions, shape.text_tokens)).to(device)
        noise = torch.stack([self._noise(seed) for seed in seeds], dim=1).to(device)  # (N, B, K)
        with devices.autocast(device, "auto"):
            cache = Cache(shape, len(text), self._computed_like(device))
            logits = self.model.prefill(text, cache)
            codes = []
            for number in range(shape.image_tokens):
                code = choose(guide(logits, config.guidance), noise[number], config)
                codes.append(code)
                if number + 1 < shape.image_tokens:
                    both = torch.cat((code, code)) if guided else code
                    logits = self.model.decode_one(both, number, cache)
        return torch.stack(codes, dim=1).view(-1, shape.grid, shape.grid)

    def _noise(self, seed: int) -> Tensor:
        """Gumbel noise (N, K): the likeliest code under logits + noise is a fair draw."""
        shape = self.model.config
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(shape.image_tokens, shape.codes, generator=generator)
        return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))

    def _computed_like(self, device: torch.device) -> Tensor:
        """A tensor of the type that keys and values have here."""
        bf16 = torch.is_autocast_enabled(device.type)
        return torch.empty(0, dtype=torch.bfloat16 if bf16 else torch.float32, device=device)


def guide(logits: Tensor, guidance: float) -> Tensor:
    """Logits (B, K) from those (2 B, K) of captions and empty captions; 1 is no guidance."""
    logits = logits.float()
    if guidance == 1:
        return logits
    with_caption, without = logits.chunk(2)
    return without + guidance * (with_caption - without)


def choose(logits: Tensor, noise: Tensor, config: SampleConfig) -> Tensor:
    """One code (B,) for each row of logits (B, K), by its row of Gumbel noise (B, K)."""
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        smallest = logits.topk(config.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if config.top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True)
        outside = (ordered.cumsum(-1) - ordered) >= config.top_p  # the likeliest always stays
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    return (logits + noise).argmax(-1)


def from_pretrained(path: str | Path, device: str = "auto") -> Sampler:
    """Load everything that drawing needs from one folder that `train` made.

    Raises MissingInput, BadInput or Mismatch that name the file at fault.
    """
    folder = Path(path)
    described = checkpoint.read_model(folder, "dalle")
    target = devices.resolve(device)
    model = Transformer(settings.build(TransformerConfig, described["model"]))
    vae = DVAE(settings.build(DVAEConfig, described["vae"]))
    checkpoint.load_weights(folder / "model.safetensors", model)
    checkpoint.load_weights(folder / "vae.safetensors", vae)
    tokenizer = TextTokenizer.load(folder / "tokenizer.json")
    return Sampler(
        model.to(target).eval().requires_grad_(False),
        vae.to(target).eval().requires_grad_(False),
        tokenizer,
        checkpoint.model_id(folder),
    )
