"""What each step trains on, as a pure function of the step: so a run resumes exactly where it was.

`Order` says which rows of the data make up batch number i; no state, no position to save. A few
threads prepare the next batches while the model works.
"""

import collections
import contextlib
import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.config import TrainVaeConfig
from dallebaby_cli.models import collectives
from dallebaby_cli.store import splits
from dallebaby_cli.store.caption_ids import CaptionIds
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training import augment

T = TypeVar("T")
Tensors = tuple[Tensor, ...]
Source = TypeVar("Source", bound=Shards | Tokens)

AHEAD = 4  # batches prepared in advance
THREADS = 2
SAMPLE_SEED = 0  # whatever the run's own: figures of all runs are of the same pictures
DRAWS = 3  # random numbers for each picture: its view, its caption, whether that is left out


@functools.lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


class Order:
    """Epoch after epoch of shuffled indices, cut into batches; batches run on over epoch ends."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed

    def batch(self, number: int) -> np.ndarray:
        """Indices (batch_size,) of batch `number`."""
        places = np.arange(number * self.batch_size, (number + 1) * self.batch_size)
        epochs = places // self.count
        parts = [
            _shuffled(self.count, self.seed, int(epoch))[places[epochs == epoch] % self.count]
            for epoch in np.unique(epochs)
        ]
        return np.concatenate(parts)


class Rows(Generic[Source]):
    """The rows of one split of one or more datasets, in one numbering.

    A picture that is held out in one of the datasets, or is nearly the same as one that is, trains
    in none of them: `dropped` is how many were left out for that.
    """

    def __init__(self, sources: Sequence[Source], split: str) -> None:
        self.sources = sources
        rows = [source.rows(split) for source in sources]
        before = sum(map(len, rows))
        if split == "train" and len(sources) > 1:
            leaks = splits.leaks([source.identities() for source in sources])
            rows = [mine[~leak[mine]] for mine, leak in zip(rows, leaks, strict=True)]
        self.rows = rows
        self.dropped = before - sum(map(len, rows))
        numbered = (np.stack((np.full(len(r), i), r), axis=1) for i, r in enumerate(rows))
        self.places = np.concatenate([*numbered])  # int64 (rows, 2): the source and the row in it

    def __len__(self) -> int:
        return len(self.places)

    @property
    def left_out(self) -> str:
        """What a person should know of the rows that were dropped; empty if none were."""
        if not self.dropped:
            return ""
        return (
            f"{self.dropped:,} training pictures are left out: another of the datasets holds them "
            "out, or near duplicates of them"
        )

    def sample(self, count: int) -> np.ndarray:
        """The first `count` indices (all, if there are fewer) of one fixed shuffle, always the same
        one; every beginning of it has of each dataset as large a share as the whole."""
        return self._shuffle[:count]

    @functools.cached_property
    def _shuffle(self) -> np.ndarray:
        shuffled, moments, start = [], [], 0
        for size in map(len, self.rows):
            shuffled.append(start + _shuffled(size, SAMPLE_SEED, 0))
            moments.append((np.arange(size) + 0.5) / size)
            start += size
        return np.concatenate(shuffled)[np.argsort(np.concatenate(moments), kind="stable")]


class Pictures(Rows[Shards]):
    """Pictures of one split of one or more image datasets, in one numbering."""

    def __init__(self, sources: list[Shards], split: str) -> None:
        super().__init__(sources, split)
        # a PNG is undone in many short calls: threads would only fight over the interpreter's lock
        lossless = all(source.encoding == "png" for source in sources)
        self.turn = threading.Lock() if lossless else contextlib.nullcontext()

    @property
    def image_px(self) -> int:
        """P, the side of the pictures in pixels."""
        return self.sources[0].image_px

    def read(self, indices: np.ndarray) -> Tensor:
        """uint8 (B, 3, P, P) of the pictures at `indices`."""
        batch = np.empty((len(indices), self.image_px, self.image_px, 3), np.uint8)
        with self.turn:
            for place, (source, row) in enumerate(self.places[indices].tolist()):
                batch[place] = self.sources[source].image(row)
        return torch.from_numpy(batch).permute(0, 3, 1, 2)

    def labels(self) -> list[str | None]:
        """What the datasets say is in each of the pictures, in a word or a few."""
        both = zip(self.sources, self.rows, strict=True)
        return [label for source, rows in both for label in source.labels(rows)]

    def captions(self, index: int) -> list[str]:
        """Captions of the picture at `index`."""
        source, row = self.places[index].tolist()
        return self.sources[source].captions(row)


def varied(train: Pictures, config: TrainVaeConfig, step: int, stream: int) -> Tensor:
    """This rank's share of the pictures of a step, uint8 (B, 3, P, P), cropped and mirrored as the
    config says, by random numbers of a `stream` of the run's own."""
    mine = collectives.share()
    order = Order(len(train), config.batch_size, config.seed)
    random = np.random.default_rng((config.seed, stream, step))
    draws = random.random((config.batch_size, augment.DRAWS))[mine]
    return augment.vary(train.read(order.batch(step)[mine]), draws, config.crop, config.flip)


class Captioned(Rows[Tokens]):
    """Codes of one split of one or more token datasets, each with its captions as ids."""

    def __init__(
        self, sources: list[Tokens], split: str, tokenizer: TextTokenizer, text_tokens: int
    ) -> None:
        super().__init__(sources, split)
        self.tokenizer, self.text_tokens = tokenizer, text_tokens
        self.vary = split == "train"  # hold-out pictures are scored as they are
        self._ids: CaptionIds | None = None
        self._one_thread = threading.Lock()

    def read(
        self, indices: np.ndarray, seed: tuple[int, ...], drop: float, share: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Caption ids (B, T) and codes (B, N), both int64: one of each picture's captions and (in
        training) views drawn at random, a share `drop` of the captions left out. Of a `share` of
        the indices, exactly as it would be among all of them."""
        draws = np.random.default_rng(seed).random((len(indices), DRAWS))
        return self._read(indices[share], draws[share], drop)

    def read_to_score(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """As `read`, but each picture comes with the same caption in every batch."""
        return self._read(indices, self._fixed_draws[indices], 0)

    def _read(self, indices: np.ndarray, draws: np.ndarray, drop: float) -> tuple[Tensor, Tensor]:
        codes = []
        for (source, row), view in zip(self.places[indices].tolist(), draws[:, 0], strict=True):
            views = self.sources[source].views(row)
            codes.append(views[int(view * len(views)) if self.vary else 0])
        text_ids = self._caption_ids().read(indices, draws[:, 1], draws[:, 2] < drop)
        return torch.from_numpy(text_ids), torch.from_numpy(np.stack(codes).astype(np.int64))

    def _caption_ids(self) -> CaptionIds:
        """All captions, tokenised when the first are read, or when the tokenizer is another."""
        with self._one_thread:
            if self._ids is None or self._ids.tokenizer is not self.tokenizer:
                places = self.places.tolist()
                captions = (self.sources[source].captions(row) for source, row in places)
                self._ids = CaptionIds(captions, self.tokenizer, self.text_tokens)
            return self._ids

    @functools.cached_property
    def _fixed_draws(self) -> np.ndarray:
        return np.random.default_rng(SAMPLE_SEED).random((len(self), DRAWS))

    def first_captions(self, count: int) -> list[str]:
        """One caption of each of the first pictures of the sample that have any."""
        return [caption for _, caption in itertools.islice(self.with_captions(), count)]

    def with_captions(self) -> Iterator[tuple[int, str]]:
        """Index and first caption of all pictures that have any, in the sample's order."""
        for index in self.sample(len(self)).tolist():
            source, row = self.places[index].tolist()
            if captions := self.sources[source].captions(row):
                yield index, captions[0]

    def caption_lengths(self, count: int) -> np.ndarray:
        """Tokens (captions,) of each caption of the first `count` pictures of the sample."""
        return self.tokenizer.lengths([*self._captions(count)])

    def frequent_captions(self, count: int, most: int) -> list[str]:
        """The `most` different captions that come most often with the first `count` pictures of the
        sample; of those that come as often, the first."""
        frequent = collections.Counter(filter(str.strip, self._captions(count)))
        return [caption for caption, _ in frequent.most_common(most)]

    def _captions(self, count: int) -> Iterator[str]:
        """All captions of the first `count` pictures of the sample."""
        for source, row in self.places[self.sample(count)].tolist():
            yield from self.sources[source].captions(row)

    def codes(self, *, every_view: bool = False) -> Iterator[np.ndarray]:
        """Codes uint16 (B, N) of all pictures as they are, or of each one's views one after the
        other, some thousands at a time."""
        for source, rows in zip(self.sources, self.rows, strict=True):
            yield from source.codes(rows, every_view=every_view)


def staged(read: Callable[[int], Tensors], device: torch.device) -> Callable[[int], Tensors]:
    """What reads batches, of which a GPU can fetch each while both it and the host do other work:
    its memory is pinned (in the threads that prepare it, for that takes time)."""
    if device.type != "cuda":
        return read
    return lambda number: tuple(tensor.pin_memory() for tensor in read(number))


def prefetch(read: Callable[[int], T], start: int, stop: int) -> Generator[T, None, None]:
    """read(start), read(start + 1), … read(stop - 1), prepared by threads a few ahead."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for number in range(start, stop):
                waiting.append(pool.submit(read, number))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
