"""Whatever is in a tokenizer.json, it is ours and works or is refused with a sentence."""

import json

import pytest
from hypothesis import strategies as st
from mutations import anything, fuzz, is_sentence, mutated

from dallebaby_cli.errors import BadInput
from dallebaby_cli.store.text_tokenizer import TextTokenizer

REAL = TextTokenizer.train(["a red car", "a blue house"], 280).bpe.to_str()
MODEL = json.loads(REAL)["model"]
MERGES = st.lists(st.lists(st.sampled_from(sorted(MODEL["vocab"])), min_size=2, max_size=2))
MODELS = st.fixed_dictionaries(
    {},
    optional={
        "vocab": st.just(MODEL["vocab"]) | anything,
        "merges": MERGES | anything,
        "dropout": anything,
    },
)
OTHER = MODELS.map(lambda m: json.dumps({**json.loads(REAL), "model": {**MODEL, **m}}).encode())


@fuzz(content=mutated(REAL.encode()) | OTHER)
def test_any_tokenizer(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    path.write_bytes(content)
    try:
        tokenizer = TextTokenizer.load(path)
    except BadInput as error:
        assert "tokenizer.json" in str(error) and is_sentence(error)
        return
    ids = tokenizer.encode(["a red car", "猫 \u00e9", ""], 8)
    assert ids.shape == (3, 8) and 0 <= ids.min() and ids.max() < tokenizer.vocabulary + 8
    assert len(tokenizer.decode(ids[0].tolist())) < 1000
