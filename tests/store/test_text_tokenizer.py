"""The tokenizer never meets an unknown word, and padding says where it stands."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.store.text_tokenizer import TextTokenizer

CAPTIONS = ["a red car", "a blue house left of a green tree", "an orange fish"]
TOKENIZER = TextTokenizer.train(CAPTIONS, 400)


@given(st.text(max_size=30))
def test_any_text_comes_back_but_for_case_and_compatibility_forms(text: str) -> None:
    ids = TOKENIZER.encode([text], 400)[0]
    assert ids.shape == (400,) and ids.dtype == np.int64
    normal = TOKENIZER.bpe.normalizer.normalize_str(text)
    assert TOKENIZER.decode(ids.tolist()) == normal.strip()


def test_padding_differs_at_each_position_and_long_captions_are_cut() -> None:
    short, empty, long = TOKENIZER.encode(["a car", "", "red car " * 50], 8)
    assert short[-1] == empty[-1] == TOKENIZER.vocabulary + 7
    assert list(empty) == [TOKENIZER.vocabulary + i for i in range(8)]
    assert long.max() < TOKENIZER.vocabulary


def test_training_twice_gives_the_same_file(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    TextTokenizer.train(CAPTIONS, 400).save(tmp_path / "again.json")
    assert (tmp_path / "tokenizer.json").read_text() == (tmp_path / "again.json").read_text()
    loaded = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert np.array_equal(loaded.encode(CAPTIONS, 12), TOKENIZER.encode(CAPTIONS, 12))
    assert TOKENIZER.vocabulary <= 400


def test_a_missing_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(MissingInput, match=r"tokenizer\.json is missing"):
        TextTokenizer.load(path)
    path.write_text("{}")
    with pytest.raises(BadInput, match=r"tokenizer\.json is not a tokenizer file"):
        TextTokenizer.load(path)
