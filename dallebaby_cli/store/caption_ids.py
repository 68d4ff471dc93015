"""Captions as the ids of their tokens, all tokenised once, so that a batch only looks them up.

They lie end to end in memory, two bytes each: less than the texts themselves take.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dallebaby_cli.store.text_tokenizer import TextTokenizer

AT_ONCE = 4096  # pictures whose captions are tokenised together


class CaptionIds:
    """The captions of some pictures, given picture by picture, each cut to `length` tokens."""

    def __init__(
        self, captions: Iterable[Sequence[str]], tokenizer: TextTokenizer, length: int
    ) -> None:
        self.tokenizer, self.length = tokenizer, length
        kind = np.uint16 if tokenizer.vocabulary <= 1 << 16 else np.uint32
        counts, sizes, ids = [], [], []
        for group in _groups(itertools.chain(captions, [[""]])):  # at last the one of no words
            texts = [text for each in group for text in each]
            tokens = [found[:length] for found in tokenizer.tokens(texts)]
            counts.append(np.array([len(each) for each in group], np.int64))
            sizes.append(np.array([len(found) for found in tokens], np.int64))
            ids.append(np.fromiter(itertools.chain.from_iterable(tokens), kind))
        self._first = _starts(counts)  # caption of each picture
        self._start = _starts(sizes)  # id of each caption
        self._ids = np.concatenate(ids)

    def read(self, pictures: np.ndarray, draws: np.ndarray, left_out: np.ndarray) -> np.ndarray:
        """Ids (B, length) int64, as `TextTokenizer.encode` has them, of one caption of each of the
        pictures (B,): the one at `draws` (B,), 0 to 1, of all it has; of no words where it has none
        or is `left_out` (B,)."""
        first, count = self._first[pictures], np.diff(self._first)[pictures]
        chosen = first + (draws * count).astype(np.int64)
        chosen[left_out | (count == 0)] = len(self._start) - 2
        rows = np.tile(np.arange(self.length) + self.tokenizer.vocabulary, (len(chosen), 1))
        bounds = zip(self._start[chosen].tolist(), self._start[chosen + 1].tolist(), strict=True)
        for row, (start, stop) in zip(rows, bounds, strict=True):
            row[: stop - start] = self._ids[start:stop]
        return rows


def _groups(captions: Iterable[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    pictures = iter(captions)
    while group := list(itertools.islice(pictures, AT_ONCE)):
        yield group


def _starts(parts: list[np.ndarray]) -> np.ndarray:
    """Where each begins that has so many things, and where the last one ends."""
    return np.concatenate([[0], *parts]).cumsum()
