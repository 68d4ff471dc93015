"""The state to resume training from, as plain tensors, read with `weights_only=True`: nothing here
can run code that a file brings."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput
from dallebaby_cli.text import one_line
from dallebaby_cli.training import engine


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state (tensors, numbers, text, lists, dicts), atomically."""
    buffer = io.BytesIO()  # torch's own writer hides what is wrong with the disk
    torch.save(state, buffer)
    files.write_bytes(path, buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any] | None:
    """A training state, or None if there is none. Its tensors stay in the file: memory is taken by
    what is copied out of them. All ranks call it, and the first one looks for damage. Raises
    BadInput, in all of them."""
    if not engine.once(path.exists):
        return None
    refuse(path, engine.once(lambda: _wrong(path)))
    state: object = None
    try:
        state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        wrong = "" if isinstance(state, dict) else "it holds something else"
    except Exception:  # what is in a pickle can go wrong in any way
        wrong = "what is in it cannot be read"
    refuse(path, wrong)
    assert isinstance(state, dict)
    return state


def refuse(path: Path, wrong: str) -> None:
    """Raise BadInput, in all ranks, if one of them has found something `wrong` with a state."""
    if engine.highest(bool(wrong)):
        raise damaged(path, wrong or "so another process of this run finds it")


def damaged(path: Path, why: str) -> BadInput:
    """What to say of a state from which no run can go on."""
    return BadInput(
        f"{path} is damaged or of another version ({why}), so the run cannot be continued; restore "
        f"it, or remove {path.parent} to start it anew"
    )


def _wrong(path: Path) -> str:
    """What is wrong with a file that `torch.save` should have written; "" if nothing is. Its own
    reader believes checksums and sizes; a bare pickle is not even looked at."""
    try:
        with files.open_regular(path) as content, zipfile.ZipFile(content) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                return "it is compressed"
            if archive.testzip() is not None:
                return "a checksum in it is wrong"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        return one_line(str(error))
    return ""
