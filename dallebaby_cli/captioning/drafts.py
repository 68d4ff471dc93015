"""Drafts of captions that a model wrote: what they must speak of, and which of them are kept."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from dallebaby_cli.store import captions

SMALL_WORDS = frozenset(
    "a an and are as at by for from in is it its of on or that the there this to with".split()
)
LOOP = 3  # as many words that come again, or the same word so often in a row, are a loop


def subject(label: str | None, texts: Sequence[str], sources: Sequence[str]) -> str | None:
    """What a picture shows, in the words of its templates or else its label; None where only
    people have described it, whose captions need no rewriting."""
    frame = captions.FIRST.format("")
    for text, source in zip(texts, sources, strict=True):
        if source == "template":
            return text.removeprefix(frame)
    return captions.with_article(captions.plain(label)) if label else None


def sift(
    drafts: Iterable[str], known: Iterable[str], labels: Sequence[str]
) -> tuple[list[str], Counter[str]]:
    """The drafts to keep, cleaned, and how many were dropped for each reason.

    A draft must be a few words, name one of `labels` with all its words (if there are any), not
    go round in circles, and not repeat a `known` caption or an earlier draft.
    """
    kept: list[str] = []
    dropped: Counter[str] = Counter()
    seen = {tuple(_words(text)) for text in known}
    for draft in drafts:
        text = "".join(captions.clean([draft]))
        words = _words(text)
        if len(words) < 2 or "\ufffd" in text:
            dropped["no words"] += 1
        elif labels and not any(_names(words, label) for label in labels):
            dropped["label lost"] += 1
        elif _loops(words):
            dropped["goes in circles"] += 1
        elif tuple(words) in seen:
            dropped["repeat"] += 1
        else:
            seen.add(tuple(words))
            kept.append(text)
    return kept, dropped


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _names(words: Iterable[str], label: str) -> bool:
    """Whether all words of the label are there, in singular or plural."""
    wanted = {_singular(word) for word in _words(label)} - SMALL_WORDS
    return wanted <= {_singular(word) for word in words}


def _singular(word: str) -> str:
    """The word without the ending of a plural; crude, but the same for both sides."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and word[-2] != "s" else word


def _loops(words: Sequence[str]) -> bool:
    runs = [tuple(words[i : i + LOOP]) for i in range(len(words) - LOOP + 1)]
    return len(set(runs)) < len(runs) or any(len(set(run)) == 1 for run in runs)
