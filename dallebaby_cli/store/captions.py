"""Captions: cleaned as they come, or written from labels by templates."""

import itertools
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

from dallebaby_cli.text import one_line

MAX_LETTERS = 1000  # longer captions are cut at a blank
VOWEL_SOUND = re.compile(
    r"(?!eu|one\b|uni[^mn]|u[bks][aeiru]|ut[ei])[aeiou8]|hour|honest|heir", re.IGNORECASE
)
PLURAL = re.compile(
    r"s$|\b(people|children|(fire|police|snow|wo)?men|cattle|police|feet|teeth|geese|mice)$", re.I
)
SINGULAR = re.compile(r"[ius]s$|\b(atlas|canvas|christmas|gas|lens|rhinoceros|thermos)$", re.I)
MASS = re.compile(
    r"(ware|wear)$|\b(agriculture|architecture|art|beer|bread|butter|cheese|chess|clothing|coffee|"
    r"education|entertainment|equipment|fog|food|fruit|furniture|grass|hair|hockey|honey|ice|"
    r"jewell?e?ry|juice|lingerie|luggage|machinery|makeup|meat|medicine|milk|money|music|nature|"
    r"pasta|popcorn|rain|recreation|rice|sand|scenery|science|seafood|snow|sugar|sushi|tea|"
    r"technology|tennis|traffic|transport|transportation|travel|water|weather|wildlife|wine|wood)$"
    r"|^space$",
    re.I,
)
DETERMINED = re.compile(r"(an?|the|my|our|some|two|three|four|five)\b|[\W\d]*$", re.I)

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
CHOICES = list(itertools.permutations(OTHERS, 2))


ENGLISH = re.compile(r"en([-_]\w+)?|eng|english", re.I)  # as names of languages
LANGUAGE = re.compile(r"[a-z]{2,3}([-_]\w+)*|\d+", re.I)  # or a number of a list
TEXT = ("caption", "text", "raw")  # of an object that tells of one caption
ODD = {bool: "true or false", int: "a number", float: "a number", dict: "an object", list: "a list"}


def given(value: object, level: int = 0) -> tuple[list[str], list[str]]:
    """What somebody says are captions, in JSON or the like: the texts, and what else there was, in
    words. A text, a list of texts, and texts by language are captions (English ones, if there are
    any), and so is the text in an object with more about it; null is none."""
    if value is None or isinstance(value, str):
        return ([] if value is None else [value]), []
    if not isinstance(value, list | dict) or level > 1:
        return [], [ODD.get(type(value), type(value).__name__)]
    if isinstance(value, dict):
        english = [value[name] for name in value if ENGLISH.fullmatch(str(name))]
        english = english or [value[name] for name in TEXT if name in value][:1]
        if not english and not all(LANGUAGE.fullmatch(str(name)) for name in value):
            return [], [ODD[dict]]  # whose texts may be anything: addresses, authors
        value = english or [*value.values()]
    found = [given(part, level + 1) for part in value]
    return [t for texts, _ in found for t in texts], [o for _, odd in found for o in odd]


def clean(texts: Iterable[str]) -> tuple[str, ...]:
    """Captions without odd blanks, control characters, empty ones and repeats, in their order."""
    kept: dict[str, None] = {}
    for text in texts:
        if not text.isascii() or not text.isprintable():
            text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
        words = one_line(text)
        if "\ufffd" in words:  # what could not be read
            words = " ".join(words.replace("\ufffd", " ").split())
        if len(words) > MAX_LETTERS:
            words = words[:MAX_LETTERS].rpartition(" ")[0] or words[:MAX_LETTERS]
        if words:
            kept[words] = None
    return tuple(kept)


def plain(name: str) -> str:
    """A folder's or class's name as words: "polar_bear" is "polar bear"."""
    return one_line(name.replace("_", " "))


def from_labels(labels: Sequence[str], file: str, *, article: bool = True) -> tuple[str, ...]:
    """Captions for a picture of which only the things in it are known: a plain one, and some of
    many others that `file`, its name, decides on. No article where the labels need none."""
    if not labels:
        return ()
    things = listed([with_article(label) if article else label for label in labels])
    chosen = CHOICES[zlib.crc32(file.encode(errors="surrogatepass")) % len(CHOICES)]
    return clean(template.format(things) for template in (FIRST, *chosen))


def listed(words: Sequence[str]) -> str:
    """The words as a sentence lists them: "a dog, a cat and a tree"."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


@lru_cache(10_000)
def with_article(label: str) -> str:
    """The label with "a" or "an", or as it is if it looks like a plural, is no thing that is
    counted ("furniture"), or says by itself which or how many ("the beach")."""
    head = re.split(r" (?:of|with|in|on|at|for|from) ", label)[0]  # "cup" of a "cup of coffee"
    plural = PLURAL.search(head) and not SINGULAR.search(head)
    if plural or MASS.search(head) or DETERMINED.match(label):
        return label
    return f"an {label}" if VOWEL_SOUND.match(label) else f"a {label}"
