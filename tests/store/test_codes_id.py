"""The codes id: what it depends on, and what not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.store import weights
from dallebaby_cli.store.codes_id import codes_id, is_maker
from dallebaby_cli.store.manifest import Manifest

SAID = {"architecture": "dvae", "image_px": 32, "grid": 8, "width": 16, "depth": 1, "loss": "l2"}
SAID |= {"quantizer": "vq", "levels": [8, 5], "codebook": 40, "code_dim": 4, "commitment": 0.25}
TENSORS = {
    "decoder.0.weight": torch.ones(5, 5),
    "encoder.1.weight": torch.arange(24.0).view(2, 3, 2, 2),
    "quantizer.codebook": torch.arange(160.0).view(40, 4),
}
Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def make(folder: Path, change: Change = lambda said, tensors: None, inside: bool = False) -> str:
    """The codes id of a dVAE that is described and weighs so, or of one inside a transformer."""
    said, tensors = dict(SAID), dict(TENSORS)
    change(said, tensors)
    if inside:
        weights.save_weights(folder / "model.safetensors", {})
        (folder / "tokenizer.json").write_text("{}")
    name = "vae.safetensors" if inside else "model.safetensors"
    weights.save_weights(folder / name, tensors)
    parts = {"model": {}, "vae": said} if inside else {"model": said}
    weights.write_model(folder, "dalle" if inside else "vae", parts)
    return codes_id(folder)


SAME: dict[str, Change] = {
    "weights of the decoder": lambda s, t: t.update({"decoder.0.weight": torch.zeros(5, 5)}),
    "another kind of decoder": lambda s, t: t.update({"decoder.9.bias": torch.zeros(2)}),
    "no decoder": lambda s, t: t.pop("decoder.0.weight"),
    "what it was trained to match": lambda s, t: s.update(loss="laplace", commitment=1.0),
    "settings of newer versions": lambda s, t: s.update(sharpness=3),
    "settings of older versions": lambda s, t: [s.pop(n) for n in ("architecture", "loss")],
    "levels of a quantizer that has none": lambda s, t: s.update(levels=[7, 7]),
}
OTHER: dict[str, Change] = {
    "a number of the encoder": lambda s, t: t.update(
        {"encoder.1.weight": torch.arange(24.0).view(2, 3, 2, 2) + 1e-6}
    ),
    "its precision": lambda s, t: t.update({"encoder.1.weight": t["encoder.1.weight"].half()}),
    "its shape": lambda s, t: t.update(
        {"encoder.1.weight": t["encoder.1.weight"].view(3, 2, 2, 2)}
    ),
    "its names": lambda s, t: t.update({"encoder.2.weight": t.pop("encoder.1.weight")}),
    "the codebook": lambda s, t: t.update({"quantizer.codebook": -t["quantizer.codebook"]}),
    "the grid": lambda s, t: s.update(grid=16),
    "the pictures": lambda s, t: s.update(image_px=64),
    "the quantizer": lambda s, t: s.update(quantizer="gumbel"),
    "another architecture": lambda s, t: s.update(architecture="mean colour"),
}


@pytest.mark.parametrize("what", SAME)
def test_it_is_the_same_with(tmp_path: Path, what: str) -> None:
    assert make(tmp_path / "b", SAME[what]) == make(tmp_path / "a")


@pytest.mark.parametrize("what", OTHER)
def test_it_is_another_with(tmp_path: Path, what: str) -> None:
    assert make(tmp_path / "b", OTHER[what]) != make(tmp_path / "a")


def test_steps_of_fsq_count_though_no_weight_shows_them(tmp_path: Path) -> None:
    def steps(*levels: int) -> str:
        folder = tmp_path / "-".join(map(str, levels))
        return make(folder, lambda s, t: s.update(quantizer="fsq", levels=list(levels)))

    assert steps(8, 5) != steps(5, 8)


def test_it_stays_what_it_was_in_tokens_that_are_there(tmp_path: Path) -> None:
    expected = "ea7d61fadfe6d19e3317f6907dfd2cf455f9bbfe8eb1b2a0548ed9667e627f70"
    assert make(tmp_path / "a") == make(tmp_path / "b", inside=True) == expected


def test_tokens_name_either_the_codes_or_as_before_the_whole(tmp_path: Path) -> None:
    codes = make(tmp_path)
    found = Manifest(kind="vae", name="v", id="whole", complete=True)
    assert is_maker(tmp_path, found, codes) and is_maker(tmp_path, found, "whole")
    assert not is_maker(tmp_path, found, "else") and not is_maker(tmp_path, found, "")
    assert not is_maker(tmp_path, Manifest(kind="vae", name="v"), codes), "it is not finished"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"config.json is missing; restore it or train it again"):
        codes_id(tmp_path)
    make(tmp_path)
    path = tmp_path / "model.safetensors"
    for content in (path.read_bytes()[:-9], b"", b"\x80\x02}q."):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"model.safetensors is damaged \(.*\); restore it"):
            codes_id(tmp_path)
    path.unlink()
    with pytest.raises(MissingInput, match=r"model.safetensors is missing"):
        codes_id(tmp_path)
    for odd in ("{}", '{"kind": "vae"}', '{"kind": []}', '{"kind": "dalle", "vae": [3]}'):
        (tmp_path / "config.json").write_text(odd)
        with pytest.raises(BadInput, match=r"config.json describes no image tokenizer"):
            codes_id(tmp_path)
