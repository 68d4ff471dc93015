"""Captions: cleaned as they come, or written from a label by templates."""

import re
import unicodedata
from collections.abc import Iterable

MAX_LETTERS = 1000  # longer captions are cut at a blank
VOWEL_SOUND = re.compile(r"(?!eu|one\b|uni[^mn]|u[bks][aeiru]|ut[ei])[aeiou8]|hour|honest", re.I)
PLURAL = re.compile(r"[^aious]s$", re.I)


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


def from_label(label: str) -> tuple[str, ...]:
    """Captions for a picture of which only the class is known."""
    return clean([f"a photo of {_with_article(label)}"])


def _with_article(label: str) -> str:
    if PLURAL.search(label):
        return label
    return f"an {label}" if VOWEL_SOUND.match(label) else f"a {label}"
