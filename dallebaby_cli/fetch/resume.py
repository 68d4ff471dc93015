"""The state of a broken-off download on disk: whole, or not believed."""

import hashlib
from pathlib import Path

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput

NAME = ".resume"
LARGEST = 1 << 28  # bytes; it grows with the pieces of the torrent


def save(folder: Path, state: bytes) -> None:
    """Write the state atomically, after its own SHA-256."""
    files.write_bytes(folder / NAME, hashlib.sha256(state).digest() + state)


def load(folder: Path) -> tuple[bytes | None, bool]:
    """The saved state, or None; and whether there was one that is damaged."""
    try:
        content = files.read_small(folder / NAME, LARGEST, follow=False)
    except FileNotFoundError:
        return None, False
    except BadInput:
        return None, True
    digest, state = content[:32], content[32:]
    return (state, False) if hashlib.sha256(state).digest() == digest else (None, True)
