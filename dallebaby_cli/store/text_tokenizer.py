"""The text tokenizer: byte-level BPE (Sennrich et al. 2016) trained on the captions themselves.

Every byte is a token, so no word is unknown. Ids, for a vocabulary of V and captions of up to T
tokens: [0, V) are BPE tokens and V + i pads position i.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, MissingInput

MOST_BYTES = 64 << 20  # of a tokenizer.json
LONGEST = 100_000  # letters of a token
SPACE = "Ġ"  # as byte-level BPE writes it, in front of a word


def _around(bpe: models.BPE) -> Tokenizer:
    """A tokenizer with what all of ours have before and behind their tokens."""
    made = Tokenizer(bpe)
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    return made


def _parts(content: Mapping[str, Any]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a tokenizer.json. Raises ValueError if they cannot be, or anything
    else in it is not what `_around` makes."""
    model = content.get("model")
    if not isinstance(model, dict):
        raise ValueError("it has no model")
    rest = {**content, "model": {**model, "vocab": {}, "merges": []}}
    ours = json.loads(_around(models.BPE()).to_str())
    for found, expected in ((rest["model"], ours.pop("model")), (rest, ours)):
        for key in found.keys() - {"model"}:  # other versions of the library leave some out
            if key not in expected:
                raise ValueError("it has more parts than ours")
            if found[key] != expected[key]:
                raise ValueError(f"its {key} is another")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise ValueError("it has no vocabulary")
    if not vocab.keys() >= set(pre_tokenizers.ByteLevel.alphabet()):
        raise ValueError("it lacks bytes")
    ids = [*vocab.values()]
    if any(type(i) is not int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise ValueError("its tokens are not numbered one by one")
    if max(map(len, vocab)) > LONGEST:
        raise ValueError(f"a token has over {LONGEST:,} letters")
    pairs = [tuple(m.split(" ") if isinstance(m, str) else m) for m in merges if _is_pair(m)]
    if len(pairs) < len(merges) or any(
        len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys() for pair in pairs
    ):
        raise ValueError("it merges what are no tokens")
    return vocab, [(first, second) for first, second in pairs]


def _is_pair(merge: object) -> bool:
    """Whether a merge is text, as older versions write it, or a list of two texts."""
    return isinstance(merge, str) or (
        isinstance(merge, list) and all(isinstance(part, str) for part in merge)
    )


class TextTokenizer:
    """Captions to ids and back."""

    def __init__(self, bpe: Tokenizer) -> None:
        self.bpe = bpe

    @classmethod
    def train(cls, captions: Iterable[str], vocabulary: int) -> "TextTokenizer":
        """Learn at most `vocabulary` tokens; upper and lower case are one."""
        bpe = _around(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(captions, trainer)
        return cls(bpe)

    @classmethod
    def load(cls, path: Path, vocabulary: int | None = None) -> "TextTokenizer":
        """Read a tokenizer.json that `save` wrote, with so many tokens if that is known; others
        cannot be trusted to make of a caption what the model knows. Raises MissingInput or
        BadInput."""
        redo = "restore it or train that model again"
        try:
            content = files.read_json(path, redo, most=MOST_BYTES)
            vocab, merges = _parts(content)
        except FileNotFoundError:
            raise MissingInput(f"{path} is missing; {redo}") from None
        except ValueError as error:
            raise BadInput(f"{path} is no tokenizer of ours ({error}); {redo}") from None
        if vocabulary not in (None, len(vocab)):
            raise BadInput(
                f"{path} has {len(vocab)} tokens, and the config.json beside it says {vocabulary}; "
                f"one of the two was swapped: {redo}"
            )
        return cls(_around(models.BPE(vocab, merges)))

    def save(self, path: Path) -> None:
        """Write tokenizer.json, atomically."""
        files.write_text(path, self.bpe.to_str(pretty=True))

    @property
    def vocabulary(self) -> int:
        """Number of BPE tokens, V."""
        return self.bpe.get_vocab_size()

    def encode(self, captions: Sequence[str], length: int) -> np.ndarray:
        """Ids (B, length) int64: each caption's tokens, cut or padded to `length`."""
        ids = np.tile(np.arange(length) + self.vocabulary, (len(captions), 1))
        for row, tokens in zip(ids, self.tokens(captions), strict=True):
            row[: len(tokens)] = tokens[:length]
        return ids

    def tokens(self, captions: Sequence[str]) -> list[list[int]]:
        """The tokens of each caption as a whole."""
        return [encoding.ids for encoding in self.bpe.encode_batch(list(captions))]

    def lengths(self, captions: Sequence[str]) -> np.ndarray:
        """Tokens (B,) of each caption as a whole."""
        return np.array([len(tokens) for tokens in self.tokens(captions)], np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """The caption of ids, padding left out."""
        return self.bpe.decode([i for i in ids if i < self.vocabulary]).strip()

    def cut(self, caption: str, length: int) -> str | None:
        """What is left of a caption that has over `length` tokens; None if it has not."""
        ids = self.bpe.encode(caption).ids
        return self.decode(ids[:length]) if len(ids) > length else None

    def rare_words(self, caption: str) -> list[str]:
        """The words of a caption that are no token of their own: training captions had them
        seldom, or never."""
        bpe, found = self.bpe, []
        for piece, _ in bpe.pre_tokenizer.pre_tokenize_str(bpe.normalizer.normalize_str(caption)):
            word = bpe.decoder.decode([piece]).strip()
            known = {piece, f"{SPACE}{piece}"} & self._tokens
            if not known and any(c.isalnum() or not c.isascii() for c in word):
                found.append(word)
        return found

    @cached_property
    def _tokens(self) -> set[str]:
        return set(self.bpe.get_vocab())
