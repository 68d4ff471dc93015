"""Draw pictures from captions: one code after the other, or several in each of a few passes, from a
preallocated cache.

`Sampler.stream` yields the codes as they are decided, and everything that draws takes them from
there. Every picture has its own random numbers, so it does not matter what else is drawn beside it.

Shapes: B pictures, P pixels along a side, G codes along a side, N = G * G codes, K codebook.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing.fitting import at_a_time
from dallebaby_cli.drawing.next_code import asks_twice, guide
from dallebaby_cli.drawing.passes import Passes, counts
from dallebaby_cli.drawing.steps import Steps
from dallebaby_cli.errors import UsageError
from dallebaby_cli.models import collectives
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.digits import split
from dallebaby_cli.models.pictures import to_numpy
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.store.text_tokenizer import TextTokenizer

PAINTED = 32  # pictures decoded at a time


@dataclass(frozen=True)
class Drawing:
    """Pictures that are drawn together, at one moment; later moments leave it as it is."""

    first: int
    """place of the first of them among all that were asked for"""
    codes: Tensor
    """(B, G, G) int64, 0 where none is known"""
    known: Tensor
    """bool (B, G, G): which codes are decided"""
    count: int
    """how many are, of each picture"""

    @property
    def finished(self) -> bool:
        """Whether all codes are decided."""
        return self.count == self.codes.shape[1] * self.codes.shape[2]

    @property
    def done(self) -> float:
        """How many of all pictures that were asked for are drawn by now, parts of them counted."""
        pictures, rows, columns = self.codes.shape
        return self.first + pictures * self.count / (rows * columns)


@dataclass(frozen=True)
class Sketch:
    """Pictures as codes (B, G, G), and the seed that each of them came from."""

    codes: Tensor
    seeds: list[int]


@dataclass(frozen=True)
class Sampler:
    """A transformer, the image tokenizer whose codes it speaks, and that of its captions."""

    model: Transformer
    image_tokenizer: ImageTokenizer
    text_tokenizer: TextTokenizer
    id: str = ""
    vae_id: str = ""
    """of the dVAE that paints, where it is not the model's own"""
    compiled: bool = False
    """whether to compile the steps, which pays for thousands of pictures"""
    _ready: dict[tuple[int, SampleConfig], Steps] = field(init=False, default_factory=dict)
    """what the last batch left behind for the next one of its size, if it was worth recording"""

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
        known: Tensor | None = None,
        watch: Callable[[Drawing], None] | None = None,
        together: bool = False,
    ) -> Sketch:
        """n pictures of each prompt; with `best`, only so many of them: those with the highest
        `score`, best first. `known` as in `stream`. `watch` sees every moment of the stream.

        With `together`, all ranks of a run call this with the same, each draws every W-th picture
        (its `watch` sees those), and all have all of them in the end."""
        config = config or SampleConfig()
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if n < 1 or not prompts:
            raise UsageError("nothing to draw: give at least one prompt and -n 1 or more")
        check_best(best, n)
        wanted = [prompt for prompt in prompts for _ in range(n)]
        share = collectives.share() if together else slice(None)
        mine, seeds = wanted[share], range(seed, seed + len(wanted))[share]
        if known is not None and len(known) > 1:
            known = known[share]
        grid = self.model.config.grid
        codes = [torch.empty((0, grid, grid), dtype=torch.int64, device=self.device)]
        scores = [torch.empty(0, device=self.device)]
        for drawing in self.stream(mine, seeds, config, known):
            if watch:
                watch(drawing)
            if drawing.finished:
                codes.append(drawing.codes)
                if best:
                    part = mine[drawing.first : drawing.first + len(drawing.codes)]
                    scores.append(self.score(part, drawing.codes))
        drawn, scored = torch.cat(codes), torch.cat(scores)
        if together:
            drawn = collectives.gather_shares(drawn, len(wanted))
            scored = collectives.gather_shares(scored, len(wanted)) if best else scored
        chosen = torch.arange(len(wanted)).view(len(prompts), -1)
        if best:
            order = scored.cpu().view(chosen.shape).argsort(descending=True, stable=True)
            chosen = chosen.gather(1, order[:, :best])
        chosen = chosen.flatten()
        return Sketch(drawn[chosen.to(drawn.device)], [seed + number for number in chosen.tolist()])

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        config: SampleConfig,
        known: Tensor | None = None,
    ) -> Tensor:
        """Codes (B, G, G) of one picture for each prompt and seed: where the stream ends."""
        moments = self.stream(prompts, seeds, config, known)
        return torch.cat([drawing.codes for drawing in moments if drawing.finished])

    def stream(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        config: SampleConfig,
        known: Tensor | None = None,
    ) -> Iterator[Drawing]:
        """One picture for each prompt and seed, some at a time (`at_a_time`): how these are
        before anything is drawn, then as often as codes are decided, and at last `finished`.
        `known` codes, int64 (B, G, G), or (1, G, G) for all, stay as they are; those to be drawn
        are -1 there, as many of each picture. Without `steps` in the config, and where known codes
        are the first ones, codes are decided in raster order, one at a time.

        Work is done only when the next moment is asked for, so that it can end at any. Raises
        UsageError as `require`.
        """
        self.require(config, known)
        grid = self.model.config.grid
        if known is None:
            known = torch.full((1, grid, grid), -1)
        known = known.to(self.device).expand(len(prompts), -1, -1)
        size = at_a_time(self.model.config, config, self.device)
        for first in range(0, len(prompts), size):
            part = slice(first, first + size)
            yield from self._stream(first, prompts[part], seeds[part], config, known[part])

    def require(self, config: SampleConfig, known: Tensor | None = None) -> None:
        """Raise UsageError where this model cannot draw so, as one that knows raster order
        alone."""
        shape = self.model.config
        if known is not None and len({*(known >= 0).flatten(1).sum(1).tolist()}) > 1:
            raise ValueError("as many codes must be known of each picture")
        if config.steps is not None and config.steps > shape.image_tokens:
            raise UsageError(
                f"--steps {config.steps}: this model's pictures have {shape.image_tokens} codes, "
                "so that they take as many passes at most"
            )
        if shape.any_order:
            return
        learn = "train one with --set random_order=0.25"
        if config.steps is not None:
            raise UsageError(
                f"--steps {config.steps}: this model learned raster order alone, in which a pass "
                f"decides one code; leave --steps out, or {learn}"
            )
        if known is not None and not _are_first(known):
            raise UsageError(
                "this model learned raster order alone, so that it can only go on from the top "
                f"rows of a picture; keep rows of it, or {learn}"
            )

    def moments(self, config: SampleConfig, given: int) -> list[int]:
        """How many codes of a picture are decided at each moment of a stream, the first of which
        has so many that are known."""
        return counts(self.model.config.image_tokens, given, config)

    @torch.inference_mode()
    def _stream(
        self,
        first: int,
        prompts: Sequence[str],
        seeds: Sequence[int],
        config: SampleConfig,
        known: Tensor,
    ) -> Iterator[Drawing]:
        """The moments of one batch, of which some codes (B, G, G) are known, -1 for others."""
        there, decided = known >= 0, self.moments(config, int((known[0] >= 0).sum()))
        yield Drawing(first, known.where(there, 0), there, decided[0])
        if len(decided) == 1:
            return
        raster = config.steps is None and _are_first(known)
        draw = self._in_raster_order if raster else self._in_passes
        moments = draw(prompts, seeds, config, known.flatten(1), decided)
        for count, codes in zip(decided[1:], moments, strict=True):
            there = codes < self.model.config.codes
            now = codes.where(there, 0).view(known.shape)
            yield Drawing(first, now, there.view(known.shape), count)

    def _in_raster_order(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        config: SampleConfig,
        known: Tensor,
        decided: Sequence[int],
    ) -> Iterator[Tensor]:
        """Codes (B, N), K where there is none, whenever one of each picture is decided."""
        with devices.autocast(self.device, "auto"):  # around no yield: it were the caller's, too
            steps = self._steps(len(prompts), config)
            steps.begin(self._read_for(prompts, config), seeds, known[:, : decided[0]])
        try:
            yield steps.codes
            for _ in decided[2:]:
                with devices.autocast(self.device, "auto"):
                    steps.next()
                yield steps.codes
        except Exception:  # a full memory, say
            steps.recorded.clear()
            raise
        finally:  # nobody may want to see the rest
            if steps.recorded:
                self._ready[steps.batch, config] = steps

    def _in_passes(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        config: SampleConfig,
        known: Tensor,
        decided: Sequence[int],
    ) -> Iterator[Tensor]:
        """Codes (B, N), K where there is none, after each pass."""
        with devices.autocast(self.device, "auto"):
            like, text = self._computed_like(self.device), self._read_for(prompts, config)
        at_work = Passes(self.model, config, text, seeds, known, like)
        for _ in decided[1:]:
            with devices.autocast(self.device, "auto"):
                at_work.next()
            yield at_work.codes

    def _steps(self, batch: int, config: SampleConfig) -> Steps:
        """Ready to draw so many pictures; nobody else has them meanwhile."""
        ready = self._ready.pop((batch, config), None)
        self._ready.clear()  # of other sizes, whose memory these need
        return ready or Steps(
            self.model, batch, config, self._computed_like(self.device), self.compiled
        )

    def score(self, prompts: Sequence[str], codes: Tensor) -> Tensor:
        """log p(codes | prompt) - log p(codes | no prompt) in nats (B,) of codes (B, G, G): how
        much likelier its prompt makes each picture."""
        both = self.log_p([*prompts, *[""] * len(prompts)], codes.repeat(2, 1, 1))
        with_prompt, without = both.view(2, -1)
        return with_prompt - without

    @torch.inference_mode()
    def log_p(self, prompts: Sequence[str], codes: Tensor) -> Tensor:
        """log p(codes | prompt) in nats (B,) of codes (B, G, G)."""
        flat, radices = codes.flatten(1), self.model.config.radices
        with devices.autocast(self.device, "auto"):
            logits = self.model(self._read(prompts), flat)[1]
            if (learned := self.model.config.guided) != 1:  # what it would be without that
                both = torch.cat((logits, self.model(self._read([""] * len(prompts)), flat)[1]))
                logits = guide(both, 1 / learned)
        pairs = zip(torch.split(logits, [*radices], dim=-1), split(flat, radices), strict=True)
        losses = [
            F.cross_entropy(part.float().flatten(0, 1), digit.flatten(), reduction="none")
            for part, digit in pairs
        ]
        return -torch.stack(losses).sum(0).view(len(flat), -1).sum(-1)

    @torch.inference_mode()
    def paint(self, codes: Tensor, known: Tensor | None = None) -> np.ndarray:
        """uint8 (B, P, P, 3) of codes (B, G, G), grey where they are not `known`, bool (B, G, G),
        if that is given."""
        pictures, device = [], self.image_tokenizer.device
        codes, known = codes.to(device), None if known is None else known.to(device)
        for start in range(0, len(codes), PAINTED):
            part = slice(start, start + PAINTED)
            there = None if known is None else known[part]
            pictures.append(to_numpy(self.image_tokenizer.decode(codes[part], there)))
        return np.concatenate(pictures)

    @torch.inference_mode()
    def encode(self, picture: np.ndarray) -> Tensor:
        """Codes (G, G) of a picture, uint8 (P, P, 3)."""
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
        return self.image_tokenizer.encode(pixels.to(self.image_tokenizer.device))[0]

    @property
    def device(self) -> torch.device:
        """Where codes are drawn."""
        return next(self.model.parameters()).device

    def _read_for(self, prompts: Sequence[str], config: SampleConfig) -> Tensor:
        """Captions (B, T), or where there is guidance (2 B, T), the second half empty."""
        guided = asks_twice(config, self.model.config.guided)
        return self._read([*prompts, *[""] * len(prompts)] if guided else prompts)

    def _read(self, prompts: Sequence[str]) -> Tensor:
        ids = self.text_tokenizer.encode(prompts, self.model.config.text_tokens)
        return torch.from_numpy(ids).to(self.device)

    def _computed_like(self, device: torch.device) -> Tensor:
        """A tensor of the type that keys and values have here: on CPUs fp32 always, in which one
        position's attention takes a fifth of the time that it takes in bf16."""
        half = device.type != "cpu" and torch.is_autocast_enabled(device.type)
        kind = torch.get_autocast_dtype(device.type) if half else torch.float32
        return torch.empty(0, dtype=kind, device=device)


def check_best(best: int | None, n: int) -> None:
    """Raise UsageError if so many of n pictures cannot be kept."""
    if best is not None and not 1 <= best <= n:
        raise UsageError(f"--best {best}: keep 1 to {n} of the {n} pictures that -n draws")


def first_rows(codes: Tensor) -> Tensor:
    """What is known of a picture (1, G, G), given the codes (R, G) of its first rows."""
    rows, grid = codes.shape
    return F.pad(codes, (0, 0, 0, grid - rows), value=-1)[None]


def _are_first(known: Tensor) -> bool:
    """Whether the known codes of pictures (B, G, G) are the first ones in raster order."""
    there = (known >= 0).flatten(1)
    return bool((there[:, :-1] >= there[:, 1:]).all())
