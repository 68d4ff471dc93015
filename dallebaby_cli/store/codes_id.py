"""The codes id: a hash of what makes an image tokenizer's codes and gives them their meaning, which
is all of it but its decoder.

Tokens name it as their dVAE's id. So a dVAE that was given another decoder makes the same codes as
before, and either decoder paints them. Tokens of older versions name the id of the whole dVAE.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, deserialize

from dallebaby_cli import files
from dallebaby_cli.config.models import meaning
from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.text import one_line

WHERE = {"vae": ("model", "model.safetensors"), "dalle": ("vae", "vae.safetensors")}
"""Kind of model → where its config.json describes the image tokenizer, and the file of weights."""
DECODER = "decoder."  # what its tensors' names begin with


def codes_id(folder: Path) -> str:
    """That of a finished dVAE, or of the one inside a finished transformer. Raises MissingInput or
    BadInput."""
    redo = "restore it or train it again"
    try:
        content = files.read_json(folder / "config.json", redo)
        part, name = WHERE[content["kind"]]
        said = json.dumps(meaning(content[part]), sort_keys=True)
        return files.hash_of([said, *_tensors(folder / name)])
    except FileNotFoundError as error:
        raise MissingInput(f"{error.filename} is missing; {redo}") from None
    except (KeyError, TypeError, AttributeError) as error:
        path = folder / "config.json"
        raise BadInput(f"{path} describes no image tokenizer ({error!r}); {redo}") from error


def is_maker(folder: Path, found: Manifest, identity: str) -> bool:
    """Whether the dVAE in the folder, with that manifest, makes the codes of tokens that name its
    id so. Raises as `codes_id`."""
    return found.complete and identity in (found.id, codes_id(folder))


def _tensors(path: Path) -> Iterator[str]:
    """Name, kind, shape and hash of each tensor that is no part of the decoder, by name."""
    try:
        with files.open_regular(path) as handle:
            tensors = deserialize(handle.read())  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        why = one_line(str(error))
        raise BadInput(f"{path} is damaged ({why}); restore it or train it again") from error
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        if not name.startswith(DECODER):
            digest = hashlib.sha256(tensor["data"]).hexdigest()
            yield json.dumps([name, tensor["dtype"], tensor["shape"], digest])
