"""The text tokenizer: byte-level BPE (Sennrich et al. 2016) trained on the captions themselves.

Every byte is a token, so no word is unknown. Ids, for a vocabulary of V and captions of up to T
tokens: [0, V) are BPE tokens and V + i pads position i.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, MissingInput

SPACE = "Ġ"  # as byte-level BPE writes it, in front of a word


class TextTokenizer:
    """Captions to ids and back."""

    def __init__(self, bpe: Tokenizer) -> None:
        self.bpe = bpe

    @classmethod
    def train(cls, captions: Iterable[str], vocabulary: int) -> "TextTokenizer":
        """Learn at most `vocabulary` tokens; upper and lower case are one."""
        bpe = Tokenizer(models.BPE())
        bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(captions, trainer)
        return cls(bpe)

    @classmethod
    def load(cls, path: Path) -> "TextTokenizer":
        """Read a tokenizer.json. Raises MissingInput or BadInput."""
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise MissingInput(f"{path} is missing; restore it or train that model again") from None
        except Exception as error:  # the library raises nothing narrower
            raise BadInput(f"{path} is not a tokenizer file ({error}); restore it") from error

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
        for row, encoding in zip(ids, self.bpe.encode_batch(list(captions)), strict=True):
            tokens = encoding.ids[:length]
            row[: len(tokens)] = tokens
        return ids

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
