"""A model's folder: its config.json names its own files and no others, and what is in them fits."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dallebaby_cli.errors import BadInput, DallebabyError, Mismatch, MissingInput
from dallebaby_cli.store import weights


def changed(folder: Path, **fields: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return path


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "m")


@pytest.mark.parametrize(
    "change",
    [
        lambda files: {},
        lambda files: {**files, "../../../etc/passwd": "0"},
        lambda files: {**files, "/dev/zero": "0"},
        lambda files: {name: h for name, h in files.items() if name != "tokenizer.json"},
        lambda files: {"model.safetensors": files["model.safetensors"]},
    ],
)
def test_every_file_has_its_hash_and_no_other_is_named(
    copied: Path, change: Callable[[dict], dict]
) -> None:
    changed(copied, files=change(json.loads((copied / "config.json").read_text())["files"]))
    with pytest.raises(BadInput, match=r"config\.json is damaged: it must name the hashes"):
        weights.read_model(copied, "dalle")


@pytest.mark.parametrize("fields", [{"files": []}, {"model": [1]}, {"vae": None}, {"vae": "x"}])
def test_a_description_of_another_shape_is_damaged(copied: Path, fields: dict[str, Any]) -> None:
    changed(copied, **fields)
    with pytest.raises(BadInput, match=r"config\.json is damaged: it lacks what a dalle model has"):
        weights.read_model(copied, "dalle")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_pipes_and_devices_in_place_of_its_files_keep_nobody_waiting(
    copied: Path, name: str
) -> None:
    (copied / name).unlink()
    os.mkfifo(copied / name)
    with pytest.raises(BadInput, match=rf"{name} is a folder, pipe or device and no file"):
        weights.read_model(copied, "dalle")
    (copied / name).unlink()
    (copied / name).symlink_to("/dev/zero")
    with pytest.raises(BadInput, match=rf"{name} is a folder, pipe or device and no file"):
        weights.read_model(copied, "dalle")
    (copied / name).unlink()
    with pytest.raises(MissingInput):
        weights.read_model(copied, "dalle")


class Wide(nn.Module):
    """A layer of so many numbers that they fit in no memory."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.layer = nn.Linear(side, side)


def test_shapes_are_compared_before_any_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(Wide(4).state_dict(), path)
    before = psutil.Process().memory_info().rss
    with pytest.raises(Mismatch, match=r"2 tensors differ, such as layer\.bias"):
        weights.load(path, lambda: Wide(10**6))
    assert psutil.Process().memory_info().rss - before < 50e6
    loaded = weights.load(path, lambda: Wide(4))
    assert loaded.layer.weight.device.type == "cpu" and loaded.layer.weight.shape == (4, 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    path, model = tmp_path / "model.safetensors", Wide(4)
    with torch.no_grad():
        model.layer.weight[2, 3] = bad
    weights.save_weights(path, model.state_dict())
    with pytest.raises(BadInput, match=r"numbers that are not finite \(in layer\.weight\)"):
        weights.load(path, lambda: Wide(4))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_loaded(tmp_path: Path, kind: torch.dtype) -> None:
    path, model = tmp_path / "model.safetensors", Wide(4)
    save_file({name: tensor.to(kind) for name, tensor in model.state_dict().items()}, path)
    loaded = weights.load(path, lambda: Wide(4))
    assert loaded.layer.weight.dtype == torch.float32
    assert torch.allclose(loaded.layer.weight, model.layer.weight, atol=0.01)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors: dict[str, Tensor] = {k: v.long() for k, v in Wide(4).state_dict().items()}
    save_file(tensors, path)
    with pytest.raises(Mismatch, match="2 tensors differ"):
        weights.load(path, lambda: Wide(4))


def test_a_cut_file_of_weights_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(MissingInput, match=r"model\.safetensors is missing"):
        weights.load(path, lambda: Wide(4))
    save_file(Wide(4).state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", whole[:-1], whole[:50], b"\xff" * 8 + whole[8:], bytes(len(whole))):
        path.write_bytes(content)
        with pytest.raises(DallebabyError, match=r"model\.safetensors is damaged .*; restore it"):
            weights.load(path, lambda: Wide(4))


def test_weights_whose_header_is_as_long_as_a_pickle_begins_are_loaded(tmp_path: Path) -> None:
    """It happens to one shape of model in 32."""
    path, begun = tmp_path / "model.safetensors", set()
    for length in range(1, 300):
        name = "w" * length
        save_file({name: torch.ones(2)}, path)
        begun.add(path.read_bytes()[0])
        model = nn.Module()
        model.register_parameter(name, nn.Parameter(torch.zeros(2)))
        weights.load_weights(path, model)
    assert 0x80 in begun


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", [None, {"a": [1.0] * 50}, ["{" * 300], 2**70])
def test_pickles_of_any_kind_are_told(tmp_path: Path, content: object, protocol: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(BadInput, match="is a pickle"):
        weights.load(path, lambda: Wide(4))
