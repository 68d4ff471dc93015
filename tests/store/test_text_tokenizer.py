"""The tokenizer never meets an unknown word, and padding says where it stands."""

import json
import os
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
    with pytest.raises(BadInput, match=r"tokenizer\.json is no tokenizer of ours \(it has no"):
        TextTokenizer.load(path)
    TOKENIZER.save(path)
    with pytest.raises(BadInput, match=rf"has {TOKENIZER.vocabulary} tokens, and the config.*7;"):
        TextTokenizer.load(path, 7)
    if hasattr(os, "mkfifo"):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(BadInput, match=r"tokenizer\.json is a folder, pipe or device"):
            TextTokenizer.load(path)


FOREIGN = {
    "normalizer": [None, {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b" * 999}],
    "pre_tokenizer": [None, {"type": "Whitespace"}],
    "decoder": [None, {"type": "WordPiece", "prefix": "##", "cleanup": True}],
    "padding": [{"strategy": {"Fixed": 10**9}, "direction": "Left", "pad_id": 0}],
    "truncation": [{"max_length": 1, "strategy": "LongestFirst", "stride": 0}],
    "post_processor": [{"type": "BertProcessing", "sep": ["a", 9], "cls": ["b", 9]}],
    "added_tokens": [[{"id": 2**31, "content": "red"}]],
    "model.dropout": [0.5],
    "model.unk_token": ["a"],
    "model.type": ["WordLevel"],
    "model.byte_fallback": [True],
    "model.more": [1],
}


@pytest.mark.parametrize("key", FOREIGN)
def test_other_parts_than_ours_are_refused(tmp_path: Path, key: str) -> None:
    outer, _, inner = key.partition(".")
    for value in FOREIGN[key]:
        content = json.loads(TOKENIZER.bpe.to_str())
        if inner:
            content[outer][inner] = value
        else:
            content[outer] = value
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(BadInput, match=f"its {inner or outer} is another|more parts"):
            TextTokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("vocab", "merges", "why"),
    [
        ({"!": 7}, [], "not numbered one by one"),
        ({"!": -1}, [], "not numbered one by one"),
        ({"!": 2**32}, [], "not numbered one by one"),
        ({"!": "0"}, [], "not numbered one by one"),
        ({"more": 257}, [], "not numbered one by one"),
        ({"x" * 100_001: 256}, [], "a token has over 100,000 letters"),
        ({}, [["a", "b"]], "merges what are no tokens"),
        ({}, [["a"]], "merges what are no tokens"),
        ({}, [["a", 1]], "merges what are no tokens"),
        ({}, [None], "merges what are no tokens"),
        ({}, {}, "has no vocabulary"),
    ],
)
def test_tokens_that_cannot_be_are_refused(
    tmp_path: Path, vocab: dict, merges: object, why: str
) -> None:
    content = json.loads(TextTokenizer.train([], 256).bpe.to_str())
    content["model"]["vocab"] |= vocab
    content["model"]["merges"] = merges
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=why):
        TextTokenizer.load(tmp_path / "tokenizer.json")


def test_a_file_of_an_older_version_of_the_library_is_read(tmp_path: Path) -> None:
    content = json.loads(TOKENIZER.bpe.to_str())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    del content["model"]["ignore_merges"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    loaded = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.bpe.to_str() == TOKENIZER.bpe.to_str()
