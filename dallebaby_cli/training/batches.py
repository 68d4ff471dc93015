"""What each step trains on, as a pure function of the step: so a run resumes exactly where it was.

`Order` says which rows of the data make up batch number i; no state, no position to save. A few
threads prepare the next batches while the model works.
"""

import contextlib
import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.store.shards import Shards
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.store.tokens import Tokens

T = TypeVar("T")

AHEAD = 4  # batches prepared in advance
THREADS = 2


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


def _places(rows: list[np.ndarray]) -> np.ndarray:
    """(pictures, 2) int64: the source and the row in it of every picture."""
    return np.concatenate([np.stack((np.full(len(r), i), r), axis=1) for i, r in enumerate(rows)])


class Pictures:
    """Pictures of one split of one or more image datasets, in one numbering."""

    def __init__(self, sources: list[Shards], split: str) -> None:
        self.sources = sources
        self.places = _places([s.rows(split) for s in sources])
        # a PNG is undone in many short calls: threads would only fight over the interpreter's lock
        lossless = all(source.encoding == "png" for source in sources)
        self.turn = threading.Lock() if lossless else contextlib.nullcontext()

    def __len__(self) -> int:
        return len(self.places)

    def read(self, indices: np.ndarray) -> Tensor:
        """uint8 (B, 3, P, P) of the pictures at `indices`."""
        px = self.sources[0].image_px
        batch = np.empty((len(indices), px, px, 3), np.uint8)
        with self.turn:
            for place, (source, row) in enumerate(self.places[indices].tolist()):
                batch[place] = self.sources[source].image(row)
        return torch.from_numpy(batch).permute(0, 3, 1, 2)


class Captioned:
    """Codes of one split of one or more token datasets, each with its captions as ids."""

    def __init__(
        self, sources: list[Tokens], split: str, tokenizer: TextTokenizer, text_tokens: int
    ) -> None:
        self.sources, self.tokenizer, self.text_tokens = sources, tokenizer, text_tokens
        self.vary = split == "train"  # hold-out pictures are scored as they are
        self.places = _places([s.rows(split) for s in sources])

    def __len__(self) -> int:
        return len(self.places)

    def read(
        self, indices: np.ndarray, seed: tuple[int, ...], drop: float, share: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Caption ids (B, T) and codes (B, N), both int64: one of each picture's captions and (in
        training) views drawn at random, a share `drop` of the captions left out. Of a `share` of
        the indices, exactly as it would be among all of them."""
        draws = np.random.default_rng(seed).random((len(indices), 3))[share].tolist()
        captions, codes = [], []
        places = self.places[indices[share]].tolist()
        for (source, row), (view, caption, keep) in zip(places, draws, strict=True):
            views, texts = self.sources[source].views(row), self.sources[source].captions(row)
            codes.append(views[int(view * len(views)) if self.vary else 0])
            text = texts[int(caption * len(texts))] if texts else ""
            captions.append("" if keep < drop else text)
        text_ids = self.tokenizer.encode(captions, self.text_tokens)
        return torch.from_numpy(text_ids), torch.from_numpy(np.stack(codes).astype(np.int64))

    def first_captions(self, count: int) -> list[str]:
        """One caption of each of the first pictures that have any."""
        captions = (self.sources[source].captions(row) for source, row in self.places.tolist())
        return [texts[0] for texts in itertools.islice(filter(None, captions), count)]


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
