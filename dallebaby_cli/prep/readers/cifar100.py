"""CIFAR-100 in its binary form: like CIFAR-10, with a coarse label byte before the fine one."""

import re
from pathlib import Path

from dallebaby_cli.errors import BadInput
from dallebaby_cli.prep import archives, sidecars
from dallebaby_cli.prep.readers import Records, cifar10
from dallebaby_cli.store import captions

ARCHIVE = "cifar-100-binary.tar.gz"
NAMES = ("coarse_label_names.txt", "fine_label_names.txt")


def fits(names: set[str]) -> bool:
    """Whether there is the archive, in either form, or what comes out of it."""
    return bool(names & {ARCHIVE, "cifar-100-python.tar.gz", NAMES[1]})


def read(folder: Path) -> Records:
    """All pictures, in the archive's order. Raises BadInput for pickles."""
    found = archives.named(folder, *NAMES, within=(ARCHIVE,))
    if len(found) < 2:
        raise BadInput(cifar10.no_binary(folder, "cifar-100"))
    coarse, fine = ([_words(n) for n in sidecars.decoded(found[name]).split()] for name in NAMES)

    def describe(codes: bytes, file: str) -> tuple[str, tuple[str, ...]]:
        label, kind = fine[codes[1]], coarse[codes[0]]
        return label, (*captions.from_labels([label], file), f"{label}, {kind}")

    return Records(cifar10.rows(folder, ARCHIVE, 2, describe))


def _words(name: str) -> str:
    """ "vehicles_1" is "vehicles"."""
    return captions.plain(re.sub(r"_\d+$", "", name))
