"""Captions: cleaned as they come, or written from labels by templates."""

import random
import re
import unicodedata
from collections.abc import Iterable, Sequence

MAX_LETTERS = 1000  # longer captions are cut at a blank
VOWEL_SOUND = re.compile(
    r"(?!eu|one\b|uni[^mn]|u[bks][aeiru]|ut[ei])[aeiou8]|hour|honest|heir", re.IGNORECASE
)
PLURAL = re.compile(r"[^aious]s$|\b(people|children|men|women|trousers|scissors)$", re.IGNORECASE)

FIRST = "a photo of {}"  # the plain one that people type
OTHERS = (
    "{}",
    "a picture of {}",
    "an image of {}",
    "a photograph of {}",
    "a photo that shows {}",
    "a picture with {} in it",
    "here you can see {}",
    "this is a photo of {}",
    "a small photo of {}",
    "a snapshot of {}",
)
EACH = 3  # captions a picture


def clean(texts: Iterable[str]) -> tuple[str, ...]:
    """Captions without odd blanks, control characters, empty ones and repeats, in their order."""
    kept: dict[str, None] = {}
    for text in texts:
        visible = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
        words = " ".join(unicodedata.normalize("NFC", visible).split())
        if len(words) > MAX_LETTERS:
            words = words[:MAX_LETTERS].rpartition(" ")[0] or words[:MAX_LETTERS]
        if words:
            kept[words] = None
    return tuple(kept)


def plain(name: str) -> str:
    """A folder's or class's name as words: "polar_bear" is "polar bear"."""
    return " ".join(name.replace("_", " ").split())


def from_labels(labels: Sequence[str], file: str, *, article: bool = True) -> tuple[str, ...]:
    """Captions for a picture of which only the things in it are known: a plain one, and some of
    many others that `file`, its name, decides on. No article where the labels need none."""
    if not labels:
        return ()
    things = listed([with_article(label) if article else label for label in labels])
    chosen = random.Random(file).sample(OTHERS, EACH - 1)
    return clean(template.format(things) for template in (FIRST, *chosen))


def listed(words: Sequence[str]) -> str:
    """The words as a sentence lists them: "a dog, a cat and a tree"."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def with_article(label: str) -> str:
    """The label with "a" or "an", or as it is if it looks like a plural."""
    if PLURAL.search(label):
        return label
    return f"an {label}" if VOWEL_SOUND.match(label) else f"a {label}"
