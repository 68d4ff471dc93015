"""Whatever is in a model's folder, it is loaded or refused with a sentence."""

import json
import struct

import pytest
import torch
from hypothesis import strategies as st
from mutations import anything, fuzz, is_sentence, mutated
from safetensors.torch import save
from torch import nn

from dallebaby_cli.errors import BadInput, Mismatch, MissingInput
from dallebaby_cli.store import weights

torch.manual_seed(0)
LAYER = nn.Linear(3, 2)
REAL = save(LAYER.state_dict())
CONFIG = json.dumps(
    {
        "kind": "vae",
        "format": 1,
        "model": {"image_px": 32, "grid": 8},
        "files": {"model.safetensors": "0" * 64},
    },
    indent=2,
).encode()
FIELDS = st.dictionaries(st.sampled_from(sorted(json.loads(CONFIG))), anything, min_size=1)
OTHER = FIELDS.map(lambda fields: json.dumps({**json.loads(CONFIG), **fields}).encode())

ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "I64", "BOOL", "F8_E4M3", "X"]),
        "shape": st.lists(st.integers(-1, 2**63), max_size=4) | st.just([2, 3]),
        "data_offsets": st.lists(st.integers(0, 2**64), min_size=2, max_size=2) | st.just([8, 32]),
    }
)
HEADERS = st.dictionaries(
    st.sampled_from(["weight", "bias", "__metadata__", "x"]), ENTRY | anything
)


def headed(header: object) -> bytes:
    """A file with that header before the real one's numbers."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + REAL[-32:]


@fuzz(content=mutated(REAL) | HEADERS.map(headed))
def test_any_weights(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(content)
    try:
        model = weights.load(path, lambda: nn.Linear(3, 2))
    except (BadInput, Mismatch) as error:
        assert "any.safetensors" in str(error) and is_sentence(error)
    else:
        assert all(weight.isfinite().all() for weight in model.parameters())


@fuzz(content=mutated(CONFIG) | OTHER)
def test_any_description(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "described"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(REAL)
    (folder / "config.json").write_bytes(content)
    with pytest.raises((BadInput, Mismatch, MissingInput)) as refused:  # the hash is of no file
        weights.read_model(folder, "vae")
    assert "config.json" in str(refused.value) and is_sentence(refused.value)
