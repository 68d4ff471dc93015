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
    """Read a training state back on the CPU, or None if there is none; the first process reads
    it for all. Raises BadInput."""
    if not engine.once(path.exists):
        return None
    whole = io.BytesIO(engine.broadcast(_read(path) if engine.first() else b""))
    if wrong := _wrong(whole):
        raise damaged(path, wrong)
    try:
        state: object = torch.load(whole, map_location="cpu", weights_only=True)
    except Exception as error:  # what is in a pickle can go wrong in any way
        raise damaged(path, "what is in it cannot be read") from error
    if not isinstance(state, dict):
        raise damaged(path, "it holds something else")
    return state


def damaged(path: Path, why: str) -> BadInput:
    """What to say of a state from which no run can go on."""
    return BadInput(
        f"{path} is damaged or of another version ({why}), so the run cannot be continued; restore "
        f"it, or remove {path.parent} to start it anew"
    )


def _read(path: Path) -> bytes:
    with files.open_regular(path) as opened:
        return opened.read()


def _wrong(content: io.BytesIO) -> str:
    """What is wrong with a file that `torch.save` should have written; "" if nothing is. Its own
    reader believes checksums and sizes; a bare pickle is not even looked at."""
    try:
        with zipfile.ZipFile(content) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                return "it is compressed"
            if archive.testzip() is not None:
                return "a checksum in it is wrong"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        return one_line(str(error))
    content.seek(0)
    return ""
