"""The state of a broken-off download on disk: whole, or not believed."""

import hashlib
from pathlib import Path

from dallebaby_cli import files

NAME = ".resume"


def save(folder: Path, state: bytes) -> None:
    """Write the state atomically, after its own SHA-256."""
    files.write_bytes(folder / NAME, hashlib.sha256(state).digest() + state)


def load(folder: Path) -> tuple[bytes | None, bool]:
    """The saved state, or None; and whether there was one that is damaged."""
    try:
        content = (folder / NAME).read_bytes()
    except FileNotFoundError:
        return None, False
    digest, state = content[:32], content[32:]
    return (state, False) if hashlib.sha256(state).digest() == digest else (None, True)
