"""What every image tokenizer promises, of those that there are."""

from pathlib import Path

import pytest
import torch

from dallebaby_cli.config import DVAEConfig, settings
from dallebaby_cli.config.models import meaning
from dallebaby_cli.errors import BadInput
from dallebaby_cli.models import tokenizers
from dallebaby_cli.models.tokenizers import quantizers
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.tokenizers.image_tokenizer import GREY


@pytest.fixture(params=["fsq", "vq", "gumbel", "gumbel-free"])
def tokenizer(request: pytest.FixtureRequest) -> DVAE:
    torch.manual_seed(0)
    shape = DVAEConfig(
        image_px=16, grid=4, width=8, depth=1, quantizer=request.param, codebook=40, levels=(8, 5)
    )
    return DVAE(shape).eval().requires_grad_(False)


def test_it_says_what_it_is_and_is_built_again_from_that(tokenizer: DVAE) -> None:
    assert (tokenizer.image_px, tokenizer.grid, tokenizer.codes) == (16, 4, 40)
    path = Path("config.json")
    again = tokenizers.build(tokenizer.describe(), path)
    again.load_state_dict(tokenizer.state_dict())
    pictures = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    codes = tokenizer.encode(pictures)
    assert codes.dtype == torch.int64 and codes.shape == (5, 4, 4)
    assert torch.equal(again.eval().encode(pictures), codes)
    assert torch.equal(again.decode(codes), tokenizer.decode(codes))
    with pytest.raises(BadInput, match="config.json names the image tokenizer None"):
        tokenizers.build({**tokenizer.describe(), "architecture": None}, path)


def test_what_is_not_known_is_grey_and_changes_nothing(tokenizer: DVAE) -> None:
    codes, other = torch.randint(0, 40, (2, 3, 4, 4))
    known = torch.rand(3, 4, 4) < 0.5  # any places, other ones in each picture
    partly = tokenizer.decode(codes, known)
    assert partly.dtype == torch.uint8 and partly.shape == (3, 3, 16, 16)
    assert torch.equal(tokenizer.decode(torch.where(known, codes, other), known), partly)
    patches = partly.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)
    assert torch.equal((patches == GREY).all(-1), ~known)
    assert torch.equal(tokenizer.decode(codes, torch.ones_like(known)), tokenizer.decode(codes))


def test_gumbel_of_older_versions_is_the_one_of_free_logits() -> None:
    shape = {"image_px": 16, "grid": 4, "width": 8, "depth": 0, "quantizer": "gumbel"}
    path = Path("config.json")
    old = tokenizers.build(shape, path)
    assert isinstance(old.quantizer, quantizers.Gumbel)
    assert old.describe()["quantizer"] == "gumbel-free"
    assert meaning(old.describe()) == meaning(shape), "tokens that were made with it stay its own"
    new = tokenizers.build(DVAE(settings.build(DVAEConfig, shape)).describe(), path)
    assert isinstance(new.quantizer, quantizers.GumbelVQ)
