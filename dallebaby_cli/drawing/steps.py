"""One code of several pictures after the other, each time the same work on the same memory.

So a GPU can record a step once (a CUDA graph) and replay it: launched one by one, the hundreds of
small operations of a step would take many times as long as they work. Nothing comes back from the
device between codes. A recorded step attends to all places of a bucket and masks those to come; a
CPU attends to what is there.

Shapes: B pictures, T caption tokens, G codes along a side, N = G * G codes, K codebook, L values of
a digit, of which a code that is predicted whole is one (L = K).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing.next_code import asks_twice, choose, guidance_at, guide, keys, noise
from dallebaby_cli.models import collectives
from dallebaby_cli.models.block import Cache
from dallebaby_cli.models.transformer import Transformer

BUCKET = 64  # positions: attention reads so many at most in vain, and each takes a recording
AHEAD = 16  # places whose random numbers are made at a time


class Steps:
    """B pictures under way, drawn as `config` says; to be used again for others."""

    def __init__(
        self,
        model: Transformer,
        batch: int,
        config: SampleConfig,
        like: Tensor,
        compiled: bool = False,
    ) -> None:
        """`like` has the device and the type of keys and values. Steps that are `compiled`, and the
        model's blocks with them, take a while before the first one."""
        self.model, self.config, self.batch = model, config, batch
        shape, device = model.config, like.device
        self.guided = asks_twice(config, shape.guided)
        self.cache = Cache(shape, batch * (1 + self.guided), like)
        self.recorded: dict[int, torch.cuda.CUDAGraph] = {}
        self._number = torch.zeros(1, dtype=torch.int64, device=device)  # that is decided now
        self._keys = torch.zeros(batch, dtype=torch.int64, device=device)
        self._noise = torch.zeros(AHEAD, batch, sum(shape.radices), device=device)
        self._of_digits = torch.split(self._noise, [*shape.radices], dim=-1)
        shares = [number / shape.image_tokens for number in range(shape.image_tokens)]
        pulls = [guidance_at(share, config, shape.guided) for share in shares]
        self._pulls = torch.tensor(pulls, device=device)
        self._count = -2
        # weights that are split among ranks are fetched anew in each step
        self._records = device.type == "cuda" and not collectives.is_split(model)
        self._compiled: Callable[..., Tensor] | None = None
        if compiled:
            for block in model.blocks:
                block.compile(dynamic=True)
            self._compiled = torch.compile(self._chosen, dynamic=True)

    @property
    def codes(self) -> Tensor:
        """(B, N) int64, K where none is decided yet."""
        return self.cache.codes[: self.batch, :-1]

    def begin(self, text: Tensor, seeds: Sequence[int], given: Tensor) -> None:
        """Read captions (B, T), or where there is guidance (2 B, T), the second half empty; take
        over the first codes (B, R), and decide the one after them."""
        known, self._count = given.shape[1], -2
        self.cache.codes.fill_(self.model.config.codes)
        self.cache.codes[:, :known] = given.repeat(1 + self.guided, 1)
        self._keys.copy_(keys(seeds))
        self._at(known)
        before, now = self.model.raster[:, :known], self.model.raster[:, known : known + 1]
        self._write(self.model.ask(text, before, now, 0, self.cache, self._pick)[:, 0])

    def next(self) -> None:
        """Decide the next code of each picture."""
        self._at(self._count + 1)
        filled = self.model.config.text_tokens + 1 + self._count
        if not self._records:
            self.work(filled, masked=False)
            return
        seen = min(-(-filled // BUCKET) * BUCKET, self.model.config.sequence_len)
        if seen not in self.recorded:
            self.recorded[seen] = self._record(seen)
        self.recorded[seen].replay()

    def work(self, seen: int, masked: bool) -> None:
        """What a step is: read the last code, decide the next (`Transformer.decode_one`)."""
        before = self._number - 1
        self._write(self.model.decode_one(before, self.cache, self._pick, seen, masked))

    def _at(self, count: int) -> None:
        """Go to a place, and make random numbers where there are none for it."""
        if count % AHEAD == 0 or count != self._count + 1:
            start = count - count % AHEAD
            self._noise.copy_(noise(self._keys, start, start + AHEAD, self._noise.shape[-1]))
        self._count = count
        self._number.fill_(count)

    def _write(self, codes: Tensor) -> None:
        """Write down the codes (B,), or (2 B,), of the place that is decided now."""
        self.cache.codes.index_copy_(1, self._number, codes[:, None])

    def _pick(self, digit: int, logits: Tensor) -> Tensor:
        """Choose the digit of that number (B,), or (2 B,), from logits (B, L), or (2 B, L)."""
        of_digit = self._of_digits[digit]
        choose = self._compiled or self._chosen  # one kept of its own would keep us alive
        chosen = choose(logits, self._number, self._pulls, of_digit)
        return chosen.repeat(1 + self.guided)

    def _chosen(self, logits: Tensor, number: Tensor, pulls: Tensor, noise: Tensor) -> Tensor:
        """The digits (B,) of the place `number` (1,), by noise (AHEAD, B, L)."""
        if self.guided:
            logits = guide(logits, pulls[number])
        return choose(logits.float(), noise[number % AHEAD][0], self.config)

    def _record(self, seen: int) -> torch.cuda.CUDAGraph:
        """The step as a CUDA graph, of the model's own GPU. Working it before, as recording needs
        it, does no harm: it decides the same code from the same numbers."""
        with torch.cuda.device(self._number.device):
            return self._recorded_here(seen)

    def _recorded_here(self, seen: int) -> torch.cuda.CUDAGraph:
        here = torch.cuda.current_stream()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(2):
                self.work(seen, masked=True)
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        pool = next((before.pool() for before in self.recorded.values()), None)
        # other threads may load a model meanwhile: what they allocate is not this recording's
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self.work(seen, masked=True)
        return graph
