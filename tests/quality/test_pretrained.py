"""Figures of pretrained networks: right where there are weights, a sentence where there are not."""

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dallebaby_cli.errors import BadInput
from dallebaby_cli.quality import pretrained

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Torch's folder of weights, and a place where CLIP is not."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    monkeypatch.setattr(pretrained, "CLIP", str(tmp_path / "clip"))
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints" / pretrained.INCEPTION
    torch.hub.set_dir(before)


class MeanColour(nn.Module):
    """Three features that one can think about."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.float().mean((2, 3))


def pictures(count: int, px: int = 8) -> Tensor:
    return torch.randint(
        20, 200, (count, 3, px, px), generator=torch.Generator().manual_seed(count)
    ).byte()


def test_fid_of_a_shifted_set_is_the_shift_squared() -> None:
    real = pictures(70)
    shifted = real + torch.tensor([3, 0, 4], dtype=torch.uint8).view(3, 1, 1)
    assert pretrained.fid(MeanColour(), real, real) == pytest.approx(0, abs=1e-2)
    assert pretrained.fid(MeanColour(), real, shifted) == pytest.approx(25, abs=0.1)


def test_without_weights_each_figure_has_a_sentence() -> None:
    part = pictures(4)
    found = pretrained.scores(part, part, part, ["a"] * 4, CPU)
    assert found.figures == {}
    (fid, clip) = found.missing
    assert pretrained.INCEPTION in fid and "checkpoints" in fid
    assert "hf download" in clip


def test_one_picture_has_no_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "load_inception", lambda device: MeanColour())
    found = pretrained.scores(pictures(1), pictures(1), pictures(1), ["a"], CPU)
    assert "fid" not in found.figures and "they need two and more" in found.missing[0]
    found = pretrained.scores(pictures(2), pictures(2), pictures(2), ["a", "b"], CPU)
    assert found.figures["rfid"] == pytest.approx(0, abs=1e-2)


def test_without_the_extra_each_figure_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchmetrics", "torch_fidelity", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    part = pictures(4)
    found = pretrained.scores(part, part, part, ["a"] * 4, CPU)
    assert found.figures == {} and len(found.missing) == 2
    assert all("pip install 'dallebaby[eval]'" in sentence for sentence in found.missing)


class Trap:
    """A pickle that leaves a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_weights_that_could_run_code_are_refused(no_weights: Path) -> None:
    sprung = no_weights.with_name("sprung")
    for content in (pickle.dumps(Trap(sprung)), b"", b"nonsense"):
        no_weights.write_bytes(content)
        with pytest.raises(BadInput, match="holds more than tensors"):
            pretrained.load_inception(CPU)
    torch.save({"weight": Trap(sprung)}, no_weights)
    found = pretrained.scores(pictures(2), pictures(2), pictures(2), ["a"] * 2, CPU)
    assert "fetch it again" in found.missing[0] and not sprung.exists()


@pytest.mark.slow
def test_inception_is_read_from_its_file(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with monkeypatch.context() as patched:  # their network as it is made, before any weights
        patched.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        fresh = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(fresh.state_dict(), no_weights)
    network = pretrained.load_inception(CPU)
    assert network(pictures(2, 32)).shape == (2, 2048)


def test_clip_score_of_a_small_clip(tmp_path: Path) -> None:
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
    )

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    entries = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={e: i for i, e in enumerate(entries)}, merges=[])
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "projection_dim": 8}
    text = {"vocab_size": len(entries), "bos_token_id": 52, "eos_token_id": 53}
    config = CLIPConfig(
        text_config=layers | heads | text,
        vision_config=layers | heads | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(1)
    looks = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    CLIPProcessor(looks, tokenizer).save_pretrained(tmp_path / "clip")
    part = pictures(3, 32)
    prompts = ["a red car", "cup", "a"]
    found = pretrained.scores(part, part, part, prompts, CPU)
    assert found.figures["clip_score_n"] == 3
    model, processor = pretrained.load_clip()
    inputs = processor(text=prompts, images=list(part), return_tensors="pt", padding=True)
    with torch.no_grad():
        cosines = model(**inputs).logits_per_image.diagonal() / model.logit_scale.exp()
    assert cosines.max() > 0, "else there is nothing to compare"
    expected = 100 * cosines.clamp(min=0).mean().item()
    assert found.figures["clip_score"] == pytest.approx(expected, rel=1e-4)
