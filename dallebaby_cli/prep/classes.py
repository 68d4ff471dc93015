"""Folders as classes: `dog/1.jpg` shows a dog, but `train/1.jpg` no train."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from dallebaby_cli.prep import archives, sidecars
from dallebaby_cli.prep.lists import WNID
from dallebaby_cli.store import captions

NO_CLASS = frozenset(
    "train training trainset trainval trn test testing tests testset tst val valid "
    "validation valset dev eval evaluation holdout heldout split fold set subset part batch shard "
    "chunk data dataset datasets image images img imgs picture pictures pic pics photo photos jpg "
    "jpgs jpeg jpegs jpegimages png pngs webp gif raw all extra unlabeled unlabelled unlabel "
    "file files content root archive download downloads original originals resized".split()
)  # unless folders beside it are classes
NUMBER = re.compile(r"0\d\d+|\d{4,}|\d+([-_. ]\d+)+")  # of a part, or a date
NUMBERED = re.compile(r"^\d+\.(?=\D)")  # classes, as "001.Black_footed_Albatross" is


class Classes:
    """What the folders of a dataset's pictures say is in them."""

    def __init__(self, folders: Iterable[str], words: Mapping[str, str]) -> None:
        """`folders` are those that pictures lie right in; `words` are those for ImageNet's
        classes."""
        self.words = words
        inside: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for folder in folders:
            parts = _parts(folder)
            for depth, name in enumerate(parts):
                inside[parts[:depth]].add(name)
        self.all_are_classes = {
            parent
            for parent, beside in inside.items()
            if 2 * sum(map(_is_no_class, beside)) < len(beside)
        }
        self.several = {parent for parent, beside in inside.items() if len(beside) > 1}
        self.labels: dict[str, str | None] = {}

    def label(self, folder: str) -> str | None:
        """The class of the pictures in a folder; None if there is none."""
        if folder not in self.labels:
            self.labels[folder] = self._label(_parts(folder))
        return self.labels[folder]

    def _label(self, parts: tuple[str, ...]) -> str | None:
        for depth in reversed(range(len(parts))):
            name, nearest = parts[depth], depth == len(parts) - 1
            if parts[:depth] in self.all_are_classes or not _is_no_class(name):
                # `dog/images` is a class beside others, `photos-of-mine/images` alone is none
                return self._words(name) if nearest or parts[:depth] in self.several else None
        return None

    def _words(self, name: str) -> str:
        if not name.isascii():  # it may be bytes that are no UTF-8
            name = sidecars.decoded(name.encode(errors="surrogateescape"))
        return self.words.get(name) or captions.plain(NUMBERED.sub("", name))


def is_code(label: str) -> bool:
    """Whether a label is a name of ImageNet's, which is no word for a caption."""
    return WNID.fullmatch(label) is not None


def _parts(folder: str) -> tuple[str, ...]:
    """The names in a path but those of archives."""
    names = folder.split("/") if folder else []
    return tuple(name for name in names if name != ".." and not archives.is_archive(name))


def _is_no_class(name: str) -> bool:
    return bool(NUMBER.fullmatch(name)) or re.sub(r"[\W\d_]+", "", name).lower() in NO_CLASS
