"""encode: every picture's first view is itself, further ones are crops that depend on it alone."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Ran

from dallebaby_cli import progress
from dallebaby_cli.config import DVAEConfig, EncodeConfig, settings
from dallebaby_cli.drawing import pretrained
from dallebaby_cli.errors import UsageError
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.stages.encode import Encoded, encode
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training import augment
from dallebaby_cli.training.batches import Captioned

VIEWS = EncodeConfig(views=3, crop=0.3, shard_pictures=100, batch_size=30)


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    """A workspace with pictures and a dVAE that has learned nothing."""
    home = shutil.copytree(prepared, tmp_path / "home")
    config = DVAEConfig(image_px=32, grid=8, width=8, depth=1)
    folder = home / "vae" / "v"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    weights.save_weights(folder / "model.safetensors", DVAE(config).state_dict())
    identity = weights.write_model(folder, "vae", {"model": settings.as_dict(config)})
    manifest.write(folder, Manifest(kind="vae", name="v", id=identity, complete=True))
    return home


def codes(home: Path, config: EncodeConfig) -> tuple[Encoded, np.ndarray]:
    """What encoding ended with, and its codes (pictures, views, grid * grid)."""
    (done,) = encode(home, config, [], device="cpu", report=progress.ignore)
    tokens = Tokens(done.folder)
    return done, np.stack([tokens.views(row) for row in range(len(tokens))])


def test_the_first_view_is_the_picture_and_the_others_are_not(home: Path) -> None:
    plain, alone = codes(home, EncodeConfig())
    varied, all_views = codes(home, VIEWS)
    assert varied.fresh and varied.images_per_s > 0
    assert varied.manifest.counts["views"] == all_views.shape[1] == 3
    assert varied.manifest.id != plain.manifest.id
    assert np.array_equal(all_views[:, 0], alone[:, 0])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (all_views[:, a] != all_views[:, b]).any(1).mean() > 0.9
    _, otherwise_batched = codes(home, dataclasses.replace(VIEWS, batch_size=7, shard_pictures=64))
    assert np.array_equal(otherwise_batched, all_views)
    _, other_seed = codes(home, dataclasses.replace(VIEWS, seed=1))
    assert np.array_equal(other_seed[:, 0], alone[:, 0])
    assert (other_seed[:, 1] != all_views[:, 1]).any(1).mean() > 0.9


def test_pictures_are_mirrored_only_when_asked(home: Path) -> None:
    done, found = codes(home, EncodeConfig(views=2, crop=1, flip=True))
    source, tokens = Shards(home / "images" / "shapes"), Tokens(done.folder)
    pictures = torch.from_numpy(np.stack([source.image(row) for row in range(len(tokens))]))
    pictures = pictures.permute(0, 3, 1, 2)
    model = pretrained.load_image_tokenizer(home / "vae" / "v", torch.device("cpu"))
    mirrored = model.encode(pictures.flip(-1)).flatten(1).numpy()
    turned = (found[:, 1] == mirrored).all(1)
    assert turned.all()
    for further in ({"views": 2}, {"views": 3, "flip": True}):
        with pytest.raises(UsageError, match="would be the same; take crop below 1, or views=2"):
            EncodeConfig(crop=1, **further)


def test_few_pictures_get_views_and_hold_out_ones_are_scored_without(home: Path) -> None:
    told: list[str] = []

    def encoded(**changes: object) -> Encoded:
        config = EncodeConfig(**changes)
        (done,) = encode(home, config, [], device="cpu", report=listen)
        return done

    def listen(event: progress.Event) -> None:
        if isinstance(event, progress.Note):
            told.append(event.text)

    done = encoded()
    trained = len(Shards(home / "images" / "shapes").rows("train"))
    assert done.manifest.counts["views"] == 8 and done.manifest.config["flip"] is True
    assert f"encode: 8 views of each picture, because only {trained} are to train on: " in told[1]
    assert (
        "crops of at least 70% of it, every second view mirrored (--set views=1 takes none)"
        in told[1]
    )
    assert not encoded().fresh, "the same is chosen again"
    assert not encoded(views=8, flip=True).fresh, "and may be asked for"
    one = encoded(views=1)
    assert one.fresh and one.manifest.config["flip"] is False
    assert not any("views" in text for text in told[4:]), "it says nothing of what was asked for"
    kept = encoded()
    assert not kept.fresh and kept.manifest.id == one.manifest.id, "what is there stays as it is"
    shutil.rmtree(one.folder)
    assert encoded(flip=False).manifest.config["flip"] is False and "mirrored" not in told[-1]
    assert encoded(flip=False).manifest.counts["views"] == 8


def test_many_pictures_get_their_mirrors(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "ALL_VIEWS", 100)
    done, found = codes(home, EncodeConfig())
    assert done.manifest.counts["views"] == 2 and done.manifest.config["flip"] is True
    _, told = codes(home, EncodeConfig(views=2, crop=1, flip=True))
    assert np.array_equal(found, told), "the whole mirror"
    shutil.rmtree(done.folder)
    assert codes(home, EncodeConfig())[0].fresh and not codes(home, EncodeConfig())[0].fresh
    shutil.rmtree(done.folder)
    assert codes(home, EncodeConfig(flip=False))[0].manifest.counts["views"] == 1
    shutil.rmtree(done.folder)
    monkeypatch.setattr(Shards, "captions", lambda shards, row: ["a photo of a 7"])
    assert codes(home, EncodeConfig())[0].manifest.counts["views"] == 1


def test_drawn_scenes_get_no_views(home: Path) -> None:
    folder = home / "images" / "shapes"
    found = manifest.read(folder)
    assert found is not None
    config = {**found.config, "source": {"layout": "scenes"}}
    manifest.write(folder, dataclasses.replace(found, config=config))
    assert codes(home, EncodeConfig())[0].manifest.counts["views"] == 1


def test_a_picture_whose_caption_says_left_is_not_mirrored(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Shards.captions

    def captions(shards: Shards, row: int) -> list[str]:
        return [*said(shards, row), "its left half is blue"] if row % 2 else said(shards, row)

    monkeypatch.setattr(Shards, "captions", captions)
    _, found = codes(home, EncodeConfig(views=2, crop=1, flip=True))
    same = (found == found[:, :1]).all((1, 2))
    assert same[1::2].all() and same[::2].mean() < 0.3


def test_lost_views_are_made_again_alike(home: Path) -> None:
    done, whole = codes(home, VIEWS)
    before = {path: path.read_bytes() for path in done.folder.glob("*.arrow")}
    manifest.write(done.folder, dataclasses.replace(done.manifest, complete=False, id=""))
    lost, *kept = sorted(before)
    lost.unlink()
    times = {path: path.stat().st_mtime_ns for path in kept}
    again, found = codes(home, VIEWS)
    assert np.array_equal(found, whole) and again.manifest.id == done.manifest.id
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert not codes(home, VIEWS)[0].fresh


def test_training_draws_from_all_views_and_scoring_takes_the_first(home: Path) -> None:
    done, whole = codes(home, VIEWS)
    tokens = Tokens(done.folder)
    tokenizer = TextTokenizer.train(["a red circle", "the square is blue"], 300)
    drawn = set()
    for split in ("train", "holdout"):
        captioned = Captioned([tokens], split, tokenizer, 8)
        indices = np.arange(len(captioned))
        for step in range(3):
            read = captioned.read(indices, (0, 1, step), 0.1)[1].numpy()
            again = captioned.read(indices, (0, 1, step), 0.1)[1].numpy()
            assert np.array_equal(read, again)
            views = (read[:, None] == whole[tokens.rows(split)]).all(2)  # (pictures, views)
            if split == "holdout":
                assert views[:, 0].all()
            drawn |= {tuple(row) for row in np.eye(3, dtype=bool)[views.argmax(1)].tolist()}
    assert len(drawn) == 3


def test_how_fast_and_how_many_views_is_said(home: Path, cli: Callable[..., Ran]) -> None:
    ran = cli("--home", home, "--device", "cpu", "encode", "--set", "views=2")
    assert ran.code == 0, ran.err
    assert " pictures encoded, 2 views each, " in ran.out and " images/s" in ran.out
    assert "2 views each, already complete" in cli("--home", home, "encode", "--set", "views=2").out
