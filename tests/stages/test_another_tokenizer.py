"""Another image tokenizer than the dVAE, through every stage that uses a finished one."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran
from PIL import Image
from torch import Tensor, nn

from dallebaby_cli.config import settings
from dallebaby_cli.models import tokenizers
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.tokenizers.image_tokenizer import GREY, ImageTokenizer, grey_out
from dallebaby_cli.progress import ignore
from dallebaby_cli.quality import pretrained
from dallebaby_cli.stages.prep import prep
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.store.tokens import Tokens

pytestmark = pytest.mark.slow  # a whole pipeline, though a small one

Cli = Callable[..., Ran]
LEVELS = 5  # of each colour
STEP = 63  # between two of them: the lightest is 252
QUICK = ("steps=3", "batch_size=8", "eval_images=20")


class MeanColour(nn.Module):
    """Codes each patch of a picture by its mean colour. There is nothing to learn."""

    codes = LEVELS**3
    levels = ()
    device = torch.device("cpu")

    def __init__(self, image_px: int, grid: int) -> None:
        super().__init__()
        self.image_px, self.grid = image_px, grid

    def encode(self, pictures: Tensor) -> Tensor:
        """Codes (B, G, G) of pictures (B, 3, P, P)."""
        means = nn.functional.avg_pool2d(pictures.float(), self.image_px // self.grid)
        levels = (means / STEP).round().long()
        return levels[:, 0] * LEVELS**2 + levels[:, 1] * LEVELS + levels[:, 2]

    def decode(self, codes: Tensor, known: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, P, P) of codes (B, G, G)."""
        levels = [codes // LEVELS**2, codes // LEVELS % LEVELS, codes % LEVELS]
        side = self.image_px // self.grid
        pictures = (torch.stack(levels, dim=1) * STEP).to(torch.uint8)
        pictures = pictures.repeat_interleave(side, 2).repeat_interleave(side, 3)
        return pictures if known is None else grey_out(pictures, known)


def build(described: Mapping[str, Any], path: Path) -> ImageTokenizer:
    """Such a tokenizer, and no other."""
    assert described["architecture"] == "mean colour"
    return MeanColour(described["image_px"], described["grid"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with scenes and a tokenizer, in a package that has this one and no dVAE, on a
    machine without pretrained networks."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("a dVAE was made")

    monkeypatch.setattr(tokenizers, "build", build)
    monkeypatch.setattr(DVAE, "__init__", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(pretrained, "CLIP", str(tmp_path / "clip"))
    home = tmp_path / "home"
    flags = {"image_px": 32, "limit": 150, "workers": 1, "holdout_percent": 10}
    prep(home, "scenes", settings.load("prep", flags=flags), report=ignore)
    folder = home / "vae" / "mean"
    weights.save_weights(folder / "model.safetensors", {})
    shape = {"architecture": "mean colour", "image_px": 32, "grid": 8}
    identity = weights.write_model(folder, "vae", {"model": shape})
    manifest.write(folder, Manifest(kind="vae", name="mean", id=identity, complete=True))
    return home


def flat_patches(pictures: np.ndarray) -> np.ndarray:
    """The colours (B, 8, 8, 3) of pictures (B, 32, 32, 3), which have one in each patch."""
    patches = pictures.reshape(-1, 8, 4, 8, 4, 3)
    assert (patches == patches[:, :, :1, :, :1]).all()
    return patches[:, :, 0, :, 0]


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_every_stage_takes_it(cli: Cli, home: Path, tmp_path: Path) -> None:
    def run(*arguments: object, sets: tuple[str, ...] = ()) -> dict[str, Any]:
        words = [word for setting in sets for word in ("--set", setting)]
        ran = cli("--home", home, "--device", "cpu", *arguments, *words, "--json")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    mean, source = MeanColour(32, 8), Shards(home / "images" / "scenes")
    pictures = np.stack([source.image(row) for row in range(len(source))])
    expected = mean.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    run("encode", "scenes")
    tokens = Tokens(home / "tokens" / "scenes@mean")
    codes = np.concatenate([tokens.views(row) for row in range(len(tokens))])
    assert np.array_equal(codes, expected.flatten(1).numpy())

    model = Path(run("train", "--preset", "tiny", sets=QUICK)["folder"])
    about = json.loads((model / "config.json").read_text())
    assert about["vae"] == {"architecture": "mean colour", "image_px": 32, "grid": 8}
    assert (about["model"]["codes"], about["model"]["grid"]) == (125, 8)

    photo, animation = tmp_path / "photo.png", tmp_path / "a.gif"
    Image.fromarray(pictures[0]).save(photo)
    options = ("-n", 4, "--best", 2, "--image", photo, "--keep", 3, "--progressive", animation)
    singles = run("generate", "a red car", *options)["pictures"]
    colours = flat_patches(np.stack([pixels(path) for path in singles]))
    assert (colours % STEP == 0).all()
    first = flat_patches(mean.decode(expected[:1]).permute(0, 2, 3, 1).numpy())
    assert (colours[:, :3] == first[:, :3]).all(), "the rows that are kept"
    with Image.open(animation) as frames:
        assert frames.n_frames == 5 * 8 + 1
        start = np.asarray(frames.convert("RGB")).astype(int)
    assert np.abs(start[12:, :32] - GREY).max() <= 2

    of_classifier = (*(f"classifier.{setting}" for setting in QUICK), "classifier.model.width=8")
    of_classifier += ("near_pictures=12",)
    facts = run("evaluate", "--pictures", 6, sets=of_classifier)
    held = torch.from_numpy(pictures[source.rows("holdout")]).permute(0, 3, 1, 2).float()
    rebuilt = mean.decode(expected[source.rows("holdout")]).float()
    error = (rebuilt - held).square().mean((1, 2, 3))
    psnr = (10 * (255**2 / error).log10()).mean().item()
    assert facts["reconstruction"]["psnr"] == pytest.approx(psnr, abs=1e-3)
    assert facts["holdout"]["uniform_bits"] == pytest.approx(math.log2(125))
    kinds = {"drawn", "real", "rebuilt"}
    assert {row["pictures"] for row in facts["agreement"]} == kinds and facts["distance"]
