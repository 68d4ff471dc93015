"""Folders of caption models whose config.json would take all memory, or all time."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dallebaby_cli.captioning import captioner
from dallebaby_cli.errors import BadInput, Interrupted
from dallebaby_cli.interrupt import Interrupt


def folder(path: Path, described: object) -> Path:
    """Three tensors and a config.json."""
    save_file({name: torch.ones(2) for name in "abc"}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(described))
    return path


@pytest.mark.parametrize(
    "described",
    [
        {"model_type": "gpt2", "n_layer": 10**5},
        {"model_type": "blip", "text_config": {"num_hidden_layers": 10**5}},
        {"model_type": "vision-encoder-decoder", "encoder": {"depths": [1, 10**5]}},
        {"model_type": "gpt2", "n_layer": 1e18},
    ],
)
def test_more_layers_than_weights_are_refused(tmp_path: Path, described: dict) -> None:
    with pytest.raises(BadInput, match=r"asks for [\d,.e+]+ layers, and its weights are 3 tensors"):
        captioner.find(str(folder(tmp_path, described)))


@pytest.mark.parametrize("described", [[1], "gpt2", None])
def test_a_description_of_another_shape_is_damaged(tmp_path: Path, described: object) -> None:
    with pytest.raises(BadInput, match=r"config\.json is damaged \(it holds no JSON object\)"):
        captioner.find(str(folder(tmp_path, described)))


def test_cut_weights_and_pipes_are_a_sentence(tmp_path: Path) -> None:
    path = folder(tmp_path, {"model_type": "gpt2", "n_layer": 1}) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"cannot be loaded \(SafetensorError: .*\); get it again"):
        captioner.find(str(tmp_path))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "vocab.txt")
        with pytest.raises(BadInput, match=r"vocab\.txt is a folder, pipe or device"):
            captioner.find(str(tmp_path))


def test_ctrl_c_while_a_model_is_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    found = captioner.find(str(folder(tmp_path, {"model_type": "gpt2", "n_layer": 1})))

    def pressed(*asked: object, **more: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", pressed)
    with Interrupt(at_once="stopped"), pytest.raises(Interrupted, match="stopped"):
        captioner.load(found, "cpu")
