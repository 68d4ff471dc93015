"""Folders of finished models: this version's, those of the version before, and strange ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dallebaby_cli.drawing.pretrained import from_pretrained, load_image_tokenizer
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import BadInput
from dallebaby_cli.store import weights

CPU = torch.device("cpu")


def redescribed(folder: Path, part: str, **changed: object) -> Path:
    """The folder, with entries of one part of its config.json changed (None: removed)."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content[part] = {k: v for k, v in (content[part] | changed).items() if v is not None}
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture
def vae(sampler: Sampler, tmp_path: Path) -> Path:
    """The folder of the sampler's image tokenizer, as `train-vae` leaves it."""
    tokenizer = sampler.image_tokenizer
    weights.save_weights(tmp_path / "v" / "model.safetensors", tokenizer.state_dict())
    weights.write_model(tmp_path / "v", "vae", {"model": tokenizer.describe()})
    return tmp_path / "v"


def test_folders_that_name_no_architecture_hold_a_dvae(
    sampler: Sampler, model: Path, vae: Path, tmp_path: Path
) -> None:
    codes = torch.randint(0, 240, (2, 4, 4))
    for folder in (vae, redescribed(vae, "model", architecture=None)):
        found = load_image_tokenizer(folder, CPU)
        assert (found.image_px, found.grid, found.codes, found.device) == (16, 4, 240, CPU)
        assert torch.equal(found.decode(codes), sampler.image_tokenizer.decode(codes))
    assert json.loads((model / "config.json").read_text())["vae"]["architecture"] == "dvae"
    before = redescribed(shutil.copytree(model, tmp_path / "m"), "vae", architecture=None)
    drawn = [from_pretrained(f, "cpu").generate("a red car", 2, 5) for f in (model, before)]
    assert np.array_equal(*drawn)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"architecture": "vqgan"},
            "the image tokenizer 'vqgan' and this version knows only 'dvae'",
        ),
        ({"speed": 1}, "unknown setting speed"),
    ],
)
def test_unknown_image_tokenizers_are_refused(
    model: Path, vae: Path, tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    folder = redescribed(shutil.copytree(model, tmp_path / "m"), "vae", **changed)
    with pytest.raises(BadInput, match=words) as refused:
        from_pretrained(folder, "cpu")
    assert str(folder / "config.json") in str(refused.value)
    with pytest.raises(BadInput, match=words) as refused:
        load_image_tokenizer(redescribed(vae, "model", **changed), CPU)
    assert str(vae / "config.json") in str(refused.value)
