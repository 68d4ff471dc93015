"""Models on disk: weights as safetensors with a config.json that rebuilds the model and names
every file's hash.

Nothing here can run code that a file brings: safetensors holds only tensors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, Mismatch, MissingInput
from dallebaby_cli.store import manifest

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
    """config.json of a finished model, once it is the one that the manifest beside it (if there is
    one) was written for, and every file it names is there and is the one that was sealed. Raises
    MissingInput, BadInput or Mismatch."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
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
    _require_sealed(folder)
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


def sealed_hash(folder: Path, name: str) -> str | None:
    """What config.json says that the hash of a file beside it is; None if it says nothing."""
    try:
        parts = json.loads((folder / "config.json").read_text(encoding="utf-8"))["files"]
        return str(parts[name])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _require_sealed(folder: Path) -> None:
    """Raise MissingInput or Mismatch if the manifest beside config.json says that the model is not
    finished, or is another one: a process was killed in between, or one of the two was swapped."""
    found = manifest.read_if_whole(folder)  # none where a model was copied without it
    if found is None:
        return
    if not found.complete:
        raise MissingInput(f"{folder} is not finished; {manifest.again(found)} to continue it")
    if found.id != model_id(folder):
        raise Mismatch(
            f"{folder / 'config.json'} is not the one that the manifest.json beside it was written "
            f"for (damaged or swapped); restore it, or {manifest.again(found)}"
        )


def model_id(folder: Path) -> str:
    """The id of a finished model: the hash of its config.json, which holds those of its files."""
    return files.sha256_file(folder / "config.json")


def _refuse_pickle(path: Path) -> None:
    """Raise BadInput if the file is a pickle stream, bare or in torch's zip."""
    with path.open("rb") as handle:
        head = handle.read(4)
    if head[:1] == b"\x80" or head == b"PK\x03\x04":
        raise BadInput(
            f"{path} is a pickle, which could run code, and not safetensors; it is never loaded: "
            "restore the file or train that model again"
        )
