"""The state to resume training from, as plain tensors, read with `weights_only=True`: nothing here
can run code that a file brings."""

import contextlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput
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
    content = io.BytesIO(engine.broadcast(path.read_bytes() if engine.first() else b""))
    state: object = None
    if zipfile.is_zipfile(content):  # torch's own format; a bare pickle is not even looked at
        content.seek(0)
        with contextlib.suppress(pickle.UnpicklingError, RuntimeError):
            state = torch.load(content, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise BadInput(
            f"{path} is damaged or of another version, so the run cannot be continued; "
            f"remove {path.parent} to start it anew"
        )
    return state
