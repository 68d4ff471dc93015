"""Captions that are tokenised once: the same tokens as if each were when it is asked for."""

from unittest import mock

import numpy as np
import pytest

from dallebaby_cli.store import caption_ids
from dallebaby_cli.store.caption_ids import CaptionIds
from dallebaby_cli.store.text_tokenizer import TextTokenizer

WORDS = "a red car beside the blue house, ½ ﬁsh, ÄÖÜ and a large green tree 汽车 !".split()
LENGTH = 9


def captions(pictures: int) -> list[list[str]]:
    """Of none to three each, of no words to more than fit."""
    random = np.random.default_rng(0)
    return [
        [" ".join(random.choice(WORDS, random.integers(0, 12))) for _ in range(random.integers(4))]
        for _ in range(pictures)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train([" ".join(WORDS)] * 3, 330)


@pytest.mark.parametrize("at_once", [1, 7, 4096])
def test_looked_up_is_as_tokenised(
    tokenizer: TextTokenizer, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption_ids, "AT_ONCE", at_once)
    texts = captions(60)
    random = np.random.default_rng(1)
    pictures = random.integers(0, len(texts), 200)
    draws, left_out = random.random(200), random.random(200) < 0.2
    chosen = [
        texts[p][int(draw * len(texts[p]))] if texts[p] and not none else ""
        for p, draw, none in zip(pictures, draws, left_out, strict=True)
    ]
    found = CaptionIds(texts, tokenizer, LENGTH).read(pictures, draws, left_out)
    expected = tokenizer.encode(chosen, LENGTH)
    assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert len({tuple(row) for row in expected.tolist()}) > 40, "of many kinds"


def test_ids_take_no_more_than_the_texts_and_a_large_vocabulary_fits(
    tokenizer: TextTokenizer,
) -> None:
    texts = captions(500)
    kept = CaptionIds(texts, tokenizer, 64)
    assert kept._ids.nbytes < 2 * sum(len(text.encode()) for each in texts for text in each)
    with mock.patch.object(TextTokenizer, "vocabulary", 100_000):
        with mock.patch.object(TextTokenizer, "tokens", lambda _, texts: [[99_999]] * len(texts)):
            one = CaptionIds([["a"]], tokenizer, 2)
        assert one.read(np.array([0]), np.zeros(1), np.zeros(1, bool)).tolist() == [
            [99_999, 100_001]
        ]
