"""Draw pictures from captions: prefill, then one code at a time from a preallocated cache.

    from dallebaby_cli.store import weights
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
from torch.nn import functional as F

from dallebaby_cli.config import DVAEConfig, SampleConfig, TransformerConfig, settings
from dallebaby_cli.drawing.half_precision import halve
from dallebaby_cli.errors import MissingInput, UsageError
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.pictures import to_numpy
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.transformer import Cache, Transformer
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.text_tokenizer import TextTokenizer

BABY = Path(__file__).parents[1] / "baby"  # the model that comes with the package: `make baby`
PAINTED = 32  # pictures decoded at a time
GREY = 128  # of what is not drawn yet


@dataclass(frozen=True)
class Sketch:
    """Pictures as codes (B, G, G), and the seed that each of them came from."""

    codes: Tensor
    seeds: list[int]


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
        best: int | None = None,
    ) -> np.ndarray:
        """uint8 (len(prompts) * n, P, P, 3): n pictures of each prompt, the i-th of all from
        seed + i; with `best`, so many of each n, the likeliest first."""
        return self.paint(self.sketch(prompts, n, seed, config, best).codes)

    def sketch(
        self,
        prompts: str | Sequence[str],
        n: int = 1,
        seed: int = 0,
        config: SampleConfig | None = None,
        best: int | None = None,
        kept: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Sketch:
        """n pictures of each prompt; with `best`, only so many of them: those with the highest
        `score`, best first. All begin with `kept`. `progress` is told how many are done."""
        config = config or SampleConfig()
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if n < 1 or not prompts:
            raise UsageError("nothing to draw: give at least one prompt and -n 1 or more")
        if best is not None and not 1 <= best <= n:
            raise UsageError(f"--best {best}: keep 1 to {n} of the {n} pictures that -n draws")
        wanted = [prompt for prompt in prompts for _ in range(n)]
        codes, scores = [], []
        for start in range(0, len(wanted), config.batch_size):
            part = wanted[start : start + config.batch_size]
            seeds = range(seed + start, seed + start + len(part))
            codes.append(self.draw(part, seeds, config, kept))
            if best:
                scores.append(self.score(part, codes[-1]))
            if progress:
                progress(start + len(part))
        chosen = torch.arange(len(wanted)).view(len(prompts), -1)
        if best:
            order = torch.cat(scores).cpu().view(chosen.shape).argsort(descending=True, stable=True)
            chosen = chosen.gather(1, order[:, :best])
        return Sketch(torch.cat(codes)[chosen.flatten()], (chosen.flatten() + seed).tolist())

    @torch.inference_mode()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        config: SampleConfig,
        kept: Tensor | None = None,
    ) -> Tensor:
        """Codes (B, G, G) of one picture for each prompt and seed. `kept` (R, G) are the codes of
        their first rows, if those are given."""
        shape, device = self.model.config, self._device
        guided = config.guidance != 1
        text = self._read([*prompts, *[""] * len(prompts)] if guided else prompts)
        noise = torch.stack([self._noise(seed) for seed in seeds], dim=1).to(device)  # (N, B, K)
        given = () if kept is None else kept.flatten().to(device)
        with devices.autocast(device, "auto"):
            cache = Cache(shape, len(text), self._computed_like(device))
            logits = self.model.prefill(text, cache)
            codes: list[Tensor] = []
            for number in range(shape.image_tokens):
                if number < len(given):
                    code = given[number].expand(len(prompts))
                else:
                    pull = guidance_at(number / shape.image_tokens, config)
                    pulled = guide(logits, pull) if guided else logits.float()
                    code = choose(pulled, noise[number], config)
                codes.append(code)
                if number + 1 < shape.image_tokens:
                    both = torch.cat((code, code)) if guided else code
                    logits = self.model.decode_one(both, number, cache)
        return torch.stack(codes, dim=1).view(-1, shape.grid, shape.grid)

    @torch.inference_mode()
    def score(self, prompts: Sequence[str], codes: Tensor) -> Tensor:
        """log p(codes | prompt) - log p(codes | no prompt) in nats (B,) of codes (B, G, G): how
        much likelier its prompt makes each picture."""
        both = codes.flatten(1).repeat(2, 1)
        with devices.autocast(self._device, "auto"):
            logits = self.model(self._read([*prompts, *[""] * len(prompts)]), both)[1]
        loss = F.cross_entropy(logits.float().flatten(0, 1), both.flatten(), reduction="none")
        with_prompt, without = loss.view(2, len(prompts), -1).sum(-1)
        return without - with_prompt

    @torch.inference_mode()
    def paint(self, codes: Tensor, drawn: int | None = None) -> np.ndarray:
        """uint8 (B, P, P, 3) of codes (B, G, G), grey behind the first `drawn` ones if given."""
        shape = self.vae.config
        places = torch.arange(shape.grid**2, device=codes.device).view(shape.grid, shape.grid)
        there = places < (shape.grid**2 if drawn is None else drawn)
        side = shape.image_px // shape.grid
        pixels = there.repeat_interleave(side, 0).repeat_interleave(side, 1)
        pictures = []
        for part in torch.split(codes, PAINTED):
            vectors = self.vae.quantizer.lookup(part) * there
            pictures.append(self.vae.render(self.vae.decoder(vectors)).where(pixels, GREY))
        return to_numpy(torch.cat(pictures))

    @torch.inference_mode()
    def encode(self, picture: np.ndarray) -> Tensor:
        """Codes (G, G) of a picture, uint8 (P, P, 3)."""
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(self._device)
        return self.vae.encode(pixels)[0]

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _read(self, prompts: Sequence[str]) -> Tensor:
        ids = self.tokenizer.encode(prompts, self.model.config.text_tokens)
        return torch.from_numpy(ids).to(self._device)

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


def guidance_at(share: float, config: SampleConfig) -> float:
    """How hard the caption pulls when so much of the picture is drawn."""
    risen = min(1.0, share / config.guidance_ramp) if config.guidance_ramp else 1.0
    return 1 + (config.guidance - 1) * risen


def guide(logits: Tensor, guidance: float) -> Tensor:
    """Logits (B, K) from those (2 B, K) of captions and empty captions; 1 is no guidance."""
    with_caption, without = logits.float().chunk(2)
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


def model_folder(home: Path, chosen: Path | None, report: Report) -> Path:
    """The model that is to draw: the chosen one, else the one that was trained last, else the baby
    inside the package. Raises MissingInput."""
    if chosen:
        return chosen
    try:
        return manifest.newest(home, "dalle")[0]
    except MissingInput:
        if not BABY.exists():
            raise
    text = (
        "no model trained here yet: the baby inside dallebaby draws; `dallebaby demo` trains yours"
    )
    report(Note(text))
    return BABY


def from_pretrained(path: str | Path, device: str = "auto") -> Sampler:
    """Load everything that drawing needs from one folder that `train` made.

    Raises MissingInput, BadInput or Mismatch that name the file at fault.
    """
    folder = Path(path)
    described = weights.read_model(folder, "dalle")
    target = devices.resolve(device)
    model = Transformer(settings.build(TransformerConfig, described["model"]))
    vae = DVAE(settings.build(DVAEConfig, described["vae"]))
    weights.load_weights(folder / "model.safetensors", model)
    weights.load_weights(folder / "vae.safetensors", vae)
    tokenizer = TextTokenizer.load(folder / "tokenizer.json")
    halve(model.to(target).eval().requires_grad_(False), target)
    return Sampler(
        model,
        vae.to(target).eval().requires_grad_(False),
        tokenizer,
        weights.model_id(folder),
    )
