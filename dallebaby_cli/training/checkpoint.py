"""Models on disk: weights as safetensors with a config.json that rebuilds the model and names
every file's hash; and the state to resume training from, as plain tensors.

Nothing here can run code that a file brings: safetensors holds only tensors, and the training
state is read with `weights_only=True`.
"""

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dallebaby_cli import files, settings
from dallebaby_cli.config import DVAEConfig
from dallebaby_cli.data import manifest
from dallebaby_cli.errors import BadInput, Mismatch, MissingInput
from dallebaby_cli.models.dvae import DVAE
from dallebaby_cli.training import distributed

PARTS = {"vae": {"model"}, "dalle": {"model", "vae"}, "classifier": {"model"}}
"""What config.json describes of each kind of model."""
MODEL_FILES = ("model.safetensors", "vae.safetensors", "tokenizer.json")


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    files.write_bytes(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill a model from a safetensors file, in whichever precision that is. Raises BadInput or
    Mismatch."""
    _refuse_pickle(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is damaged ({error}); restore it or train it again") from error
    expected = model.state_dict()
    odd = sorted(
        name
        for name in expected.keys() | tensors.keys()
        if name not in expected
        or name not in tensors
        or expected[name].shape != tensors[name].shape
    )
    if odd:
        raise Mismatch(
            f"{path} does not fit the config.json beside it ({len(odd)} tensors differ, such as "
            f"{odd[0]}); one of the two was swapped or comes from another version"
        )
    model.load_state_dict(tensors)


def write_model(folder: Path, kind: str, described: Mapping[str, Any]) -> str:
    """Seal a finished model: write config.json with the hashes of the files beside it, last of
    all. Returns the model's id."""
    parts = [p for p in MODEL_FILES if (folder / p).exists()]
    hashes = {name: files.sha256_file(folder / name) for name in parts}
    content = {"kind": kind, "format": manifest.FORMAT, **described, "files": hashes}
    files.write_text(folder / "config.json", json.dumps(content, indent=2, sort_keys=True) + "\n")
    return model_id(folder)


def read_model(folder: Path, kind: str) -> dict[str, Any]:
    """config.json of a finished model, once every file it names is there and is the one that was
    sealed. Raises MissingInput, BadInput or Mismatch."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        maker = manifest.MADE_BY[kind]
        raise MissingInput(f"{folder} holds no finished model; `{maker}` makes one") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({error}); restore it") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise BadInput(f"{path} does not describe a {kind} model; use a folder below {kind}/")
    if content.get("format") != manifest.FORMAT:
        raise BadInput(
            f"{path} has format {content.get('format')!r} and this version reads "
            f"{manifest.FORMAT}; use the version of dallebaby that made it, or train again"
        )
    parts = content.get("files")
    if not isinstance(parts, dict) or not content.keys() >= PARTS[kind]:
        raise BadInput(f"{path} is damaged: it lacks what a {kind} model has; restore it")
    for name, expected in parts.items():
        part = folder / name
        if not part.exists():
            raise MissingInput(f"{part} is missing; restore it or train that model again")
        if name.endswith(".safetensors"):
            _refuse_pickle(part)
        if files.sha256_file(part) != expected:
            raise Mismatch(
                f"{part} is not the file that {path} was written for (damaged or swapped); "
                "restore it or train that model again"
            )
    return content


def load_dvae(folder: Path, device: torch.device) -> DVAE:
    """A finished dVAE, ready to encode and decode. Raises as `read_model` and `load_weights`."""
    model = DVAE(settings.build(DVAEConfig, read_model(folder, "vae")["model"]))
    load_weights(folder / "model.safetensors", model)
    model.to(device).to(memory_format=torch.channels_last)
    return model.eval().requires_grad_(False)


def model_id(folder: Path) -> str:
    """The id of a finished model: the hash of its config.json, which holds those of its files."""
    return files.sha256_file(folder / "config.json")


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state (tensors, numbers, text, lists, dicts), atomically."""
    buffer = io.BytesIO()  # torch's own writer hides what is wrong with the disk
    torch.save(state, buffer)
    files.write_bytes(path, buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a training state back on the CPU, or None if there is none; the first process reads
    it for all. Raises BadInput."""
    if not distributed.once(path.exists):
        return None
    content = io.BytesIO(distributed.broadcast(path.read_bytes() if distributed.first() else b""))
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


def _refuse_pickle(path: Path) -> None:
    """Raise BadInput if the file is a pickle stream, bare or in torch's zip."""
    with path.open("rb") as handle:
        head = handle.read(4)
    if head[:1] == b"\x80" or head == b"PK\x03\x04":
        raise BadInput(
            f"{path} is a pickle, which could run code, and not safetensors; it is never loaded: "
            "restore the file or train that model again"
        )
