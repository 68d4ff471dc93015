"""Models on disk: weights as safetensors with a config.json that rebuilds the model and names
every file's hash.

Nothing here can run code that a file brings: safetensors holds only tensors.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dallebaby_cli import files
from dallebaby_cli.config import settings
from dallebaby_cli.errors import BadInput, Mismatch, MissingInput, UsageError
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.text import one_line

PARTS = {"vae": {"model"}, "dalle": {"model", "vae"}, "classifier": {"model"}, "judges": {"model"}}
"""What config.json describes of each kind of model."""
FILES = {
    "vae": {"model.safetensors"},
    "dalle": {"model.safetensors", "vae.safetensors", "tokenizer.json"},
    "classifier": {"model.safetensors"},
    "judges": {"model.safetensors"},
}
"""The files beside config.json, whose hashes it names."""
FLOATS = ("F64", "F32", "F16", "BF16")
WHOLE = {torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}
M = TypeVar("M", bound=nn.Module)
S = TypeVar("S")


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    files.write_bytes(path, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))


def load(path: Path, build: Callable[[], M]) -> M:
    """The model that `build` makes, filled from a safetensors file. The names and shapes of both
    are compared before any memory is taken. Raises as `load_weights`."""
    with torch.device("meta"):
        _require_fit(path, build())
    model = build()
    load_weights(path, model)
    return model


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill a model from a safetensors file, in whichever precision that is. Raises MissingInput,
    BadInput or Mismatch."""
    _require_fit(path, model)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if odd := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise BadInput(
            f"{path} holds numbers that are not finite (in {one_line(min(odd))}), so nothing can "
            "be made of it; restore it or train it again"
        )
    model.load_state_dict(tensors)


def _require_fit(path: Path, model: nn.Module) -> None:
    """Compare a model with the names, shapes and kinds of numbers in a file's header."""
    _refuse_pickle(path)
    found = {}
    try:
        with safe_open(path, "pt") as opened:
            for name in opened.keys():
                tensor = opened.get_slice(name)
                found[name] = tuple(tensor.get_shape()), tensor.get_dtype()
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    expected = {name: (tuple(t.shape), _kinds(t)) for name, t in model.state_dict().items()}
    odd = sorted(
        name
        for name in expected.keys() | found.keys()
        if name not in expected
        or name not in found
        or expected[name][0] != found[name][0]
        or found[name][1] not in expected[name][1]
    )
    if odd:
        raise Mismatch(
            f"{path} does not fit the config.json beside it ({len(odd)} tensors differ, such as "
            f"{one_line(odd[0])}); one of the two was swapped or comes from another version"
        )


def _kinds(tensor: Tensor) -> tuple[str, ...]:
    """What a file may hold a tensor as: any precision of it, or exactly its whole numbers."""
    return FLOATS if tensor.is_floating_point() else (WHOLE.get(tensor.dtype, ""),)


def _damaged(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{path} is damaged ({one_line(str(error))}); restore it or train it again")


def write_model(folder: Path, kind: str, described: Mapping[str, Any]) -> str:
    """Seal a finished model: write config.json with the hashes of the files beside it, last of
    all. Returns the model's id."""
    hashes = files.hashes([folder / name for name in sorted(FILES[kind])])
    content = {"kind": kind, "format": manifest.FORMAT, **described, "files": hashes}
    files.write_text(folder / "config.json", json.dumps(content, indent=2, sort_keys=True) + "\n")
    return model_id(folder)


def read_model(folder: Path, kind: str) -> dict[str, Any]:
    """config.json of a finished model, once it is the one that the manifest beside it (if there is
    one) was written for, and every file it names is there and is the one that was sealed. Raises
    MissingInput, BadInput or Mismatch."""
    path = folder / "config.json"
    found = manifest.read_if_whole(folder)  # none where a model was copied without it
    redo = f"restore it, or {manifest.again(found)}" if found else "restore it or train it again"
    try:
        content = files.read_json(path, redo)
    except FileNotFoundError:
        maker = manifest.MADE_BY[kind]
        raise MissingInput(f"{folder} holds no finished model; `{maker}` makes one") from None
    if content.get("kind") != kind:
        raise BadInput(f"{path} does not describe a {kind} model; use a folder below {kind}/")
    if content.get("format") != manifest.FORMAT:
        other = shorten(repr(content.get("format")), 60)
        raise BadInput(
            f"{path} has format {other} and this version reads {manifest.FORMAT}; use the version "
            "of dallebaby that made it, or train again"
        )
    if any(not isinstance(content.get(part), dict) for part in ("files", *PARTS[kind])):
        raise BadInput(f"{path} is damaged: it lacks what a {kind} model has; {redo}")
    parts: dict[str, Any] = content["files"]
    if parts.keys() != FILES[kind]:
        raise BadInput(
            f"{path} is damaged: it must name the hashes of {', '.join(sorted(FILES[kind]))} and "
            f"of nothing else; {redo}"
        )
    if found is not None:
        _require_sealed(folder, found)
    for name, expected in parts.items():
        part = folder / name
        if name == "tokenizer.json":  # of another one, the weights would take words for others
            redo = f"restore it, or remove {folder} and train it again"
        if not part.exists():
            raise MissingInput(f"{part} is missing; {redo}")
        if name.endswith(".safetensors"):
            _refuse_pickle(part)
        if files.sha256_file(part) != expected:
            raise Mismatch(
                f"{part} is not the file that {path} was written for (damaged or swapped); {redo}"
            )
    return content


def described(folder: Path) -> dict[str, Any]:
    """config.json as it lies there, with nothing checked; {} if there is none that can be read."""
    try:
        return files.read_json(folder / "config.json", "")
    except (FileNotFoundError, BadInput):
        return {}


def _require_sealed(folder: Path, found: Manifest) -> None:
    """Raise MissingInput or Mismatch if the manifest beside config.json says that the model is not
    finished, or is another one: a process was killed in between, or one of the two was swapped."""
    if not found.complete:
        raise MissingInput(f"{folder} is not finished; {manifest.again(found)} to continue it")
    if found.id != model_id(folder):
        raise Mismatch(
            f"{folder / 'config.json'} is not the one that the manifest.json beside it was written "
            f"for (damaged or swapped); restore it, or {manifest.again(found)}"
        )


def shape_of(kind: type[S], described: Mapping[str, Any], path: Path) -> S:
    """The shape of a model that the config.json at `path` describes. Raises BadInput."""
    try:
        return settings.build(kind, described)
    except (UsageError, TypeError) as error:
        raise BadInput(f"{path} describes no model of this version: {error}; restore it") from error


def model_id(folder: Path) -> str:
    """The id of a finished model: the hash of its config.json, which holds those of its files."""
    return files.sha256_file(folder / "config.json")


def _refuse_pickle(path: Path) -> None:
    """Raise BadInput if the file is a pickle stream, bare or in torch's zip."""
    try:
        with files.open_regular(path) as handle:
            head = handle.read(9)
    except FileNotFoundError:
        raise MissingInput(f"{path} is missing; restore it or train that model again") from None
    # safetensors begins with the length of its header, which may begin as a pickle does
    bare = head[:1] == b"\x80" and head[4:] != b"\0\0\0\0{"
    if bare or head[:4] == b"PK\x03\x04":
        raise BadInput(
            f"{path} is a pickle, which could run code, and not safetensors; it is never loaded: "
            "restore the file or train that model again"
        )
