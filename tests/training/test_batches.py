"""Which pictures are trained on and which are scored: a fair sample, whatever lies first."""

import dataclasses
import io
import threading
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import photographs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dallebaby_cli import files
from dallebaby_cli.config import DVAEConfig, PrepConfig
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.progress import ignore
from dallebaby_cli.quality import scores
from dallebaby_cli.stages.prep import prep
from dallebaby_cli.store import manifest, tokens
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.shards import Described, Shards, ShardWriter
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training.batches import Captioned, Pictures, Rows, prefetch, staged

CLASSES, EACH = 6, 40  # hold-out pictures, sorted by class as folders are


class Sized:
    """A dataset of so many rows, of one split."""

    def __init__(self, size: int) -> None:
        self.size = size

    def rows(self, split: str) -> np.ndarray:
        return np.arange(self.size)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(1, 250))
def test_every_beginning_of_the_sample_has_its_share_of_each_dataset(
    sizes: list[int], count: int
) -> None:
    rows = Rows([Sized(size) for size in sizes], "holdout")
    sample = rows.sample(count)
    assert len(set(sample.tolist())) == len(sample) == min(count, sum(sizes))
    found = np.bincount(rows.places[sample, 0], minlength=len(sizes))
    shares = len(sample) * np.array(sizes) / sum(sizes)
    assert (np.abs(found - shares) <= len(sizes)).all()
    if len(sizes) == 2:
        assert (np.abs(found - shares) <= 1).all()
    assert np.array_equal(sample, Rows([Sized(size) for size in sizes], "holdout").sample(count))


def by_class(folder: Path, classes: range, each: int = EACH) -> Shards:
    """Hold-out pictures of flat colours, a class each, in order."""
    writer = ShardWriter(folder, folder.name, "png", 1e6)
    for number in range(len(classes) * each):
        kind = classes[number // each]
        random = np.random.default_rng((kind, number))
        pixels = np.clip(random.normal(40 * kind, 4 + 9 * kind, (32, 32, 3)), 0, 255)
        content = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(content, "PNG")
        key = f"{folder.name}{number:06}"
        about = Described(["a"], ["human"], f"class {kind}", "x", "holdout", key)
        writer.add(key, content.getvalue(), about)
    writer.close()
    about = {"image_px": 32, "encoding": "png"}
    manifest.write(
        folder, Manifest(kind="images", name=folder.name, id="x", complete=True, config=about)
    )
    return Shards(folder)


@pytest.mark.precisions
def test_figures_of_some_hold_out_pictures_are_those_of_all_classes(tmp_path: Path) -> None:
    large = by_class(tmp_path / "large", range(CLASSES))
    small = by_class(tmp_path / "small", range(1), 2 * EACH)  # a quarter, all of the darkest class
    torch.manual_seed(0)
    model = DVAE(DVAEConfig(image_px=32, grid=8, width=8, depth=1)).eval()
    for sources, count in (([large], CLASSES * EACH), ([large, small], (CLASSES + 2) * EACH)):
        holdout = Pictures(sources, "holdout")
        with torch.no_grad():
            every = scores.reconstruction(model, holdout, count, 32)["psnr"]
            some = scores.reconstruction(model, holdout, 60, 32)["psnr"]
            first = scores.reconstruction(model, First(sources, "holdout"), 60, 32)["psnr"]
        assert abs(some - every) < 1.0 < 3 < abs(first - every)
        labels = [sources[s].label(row) for s, row in holdout.places[holdout.sample(60)].tolist()]
        assert len(set(labels)) == CLASSES


class First(Pictures):
    """What evaluations read before: the first pictures in the order of the shards."""

    def sample(self, count: int) -> np.ndarray:
        return np.arange(min(count, len(self)))


def write_tokens(folder: Path, codes: np.ndarray, split: str = "holdout") -> Tokens:
    """Token shards of codes (pictures, grid * grid)."""
    side = int(codes.shape[1] ** 0.5)
    tokens.write_shard(
        folder / "00000.arrow",
        [f"{folder.name}{number}" for number in range(len(codes))],
        [split] * len(codes),
        [[f"a red car {number}", "a blue house"] for number in range(len(codes))],
        codes.reshape(-1, 1, side, side),
    )
    counts = {"pictures": len(codes)}
    parents = {"images/x": "gone"}
    identity = files.hash_of(files.hashes([folder / "00000.arrow"]).values())
    about = Manifest(kind="tokens", name=folder.name, id=identity, complete=True)
    manifest.write(folder, dataclasses.replace(about, counts=counts, parents=parents))
    return Tokens(folder)


@pytest.mark.precisions
def test_bits_are_of_all_classes_and_of_any_size_of_batch(tmp_path: Path, sampler: Sampler) -> None:
    kinds = np.repeat(np.arange(CLASSES), EACH)
    random = np.random.default_rng(0)
    codes = (40 * kinds[:, None] + random.integers(0, 12, (len(kinds), 16))).astype(np.uint16)
    holdout = Captioned(
        [write_tokens(tmp_path / "t", codes)], "holdout", sampler.text_tokenizer, 10
    )
    with torch.no_grad():
        every, some, batched = (
            scores.transformer(sampler.model, holdout, count, size)
            for count, size in ((len(kinds), 64), (60, 64), (len(kinds), 7))
        )
    assert some["bits_per_code"] == pytest.approx(every["bits_per_code"], rel=0.05)
    assert batched == pytest.approx(every, rel=1e-5)
    classes = Counter(int(holdout._read(np.array([i]), np.zeros((1, 3)), 0)[1][0, 0]) // 40
                      for i in holdout.sample(60))  # fmt: skip
    assert len(classes) == CLASSES and max(classes.values()) < 25
    assert len({*holdout.first_captions(30)} - {f"a red car {n}" for n in range(EACH)}) > 15


def test_captions_that_come_most_often_come_first(tmp_path: Path, sampler: Sampler) -> None:
    codes = np.zeros((6, 16), np.uint16)
    train = Captioned(
        [write_tokens(tmp_path / "t", codes, "train")], "train", sampler.text_tokenizer, 10
    )
    order = train.sample(6).tolist()
    found = train.frequent_captions(6, 3)
    assert found == ["a blue house", f"a red car {order[0]}", f"a red car {order[1]}"]
    assert len(train.frequent_captions(6, 99)) == 7 and len(train.frequent_captions(2, 99)) == 3


def test_counting_codes_takes_little_memory(tmp_path: Path, sampler: Sampler) -> None:
    codes = np.random.default_rng(0).integers(0, 240, (60_000, 256)).astype(np.uint16)
    source = write_tokens(tmp_path / "large", codes, "train")
    train = Captioned([source], "train", sampler.text_tokenizer, 10)
    tracemalloc.start()
    try:
        found = scores.unigram(train, train, 240)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < codes.nbytes  # they lie on disk, and as int64 they take four times as much
    expected = np.bincount(codes.reshape(-1), minlength=240) / codes.size
    assert found == pytest.approx(-(expected * np.log2(expected)).sum(), abs=1e-4)


def test_photographs_in_class_folders_are_sampled_from_every_class(tmp_path: Path) -> None:
    with zipfile.ZipFile(photographs("cifar10-photos.zip")) as archive:
        names = [n for n in archive.namelist() if n.startswith("test/") and n < "test/z"]
        archive.extractall(tmp_path / "raw", [n for n in names if int(n[-8:-4]) < 100])
    config = PrepConfig(image_px=32, holdout_percent=50, workers=1)
    folder = prep(tmp_path / "home", str(tmp_path / "raw"), config, report=ignore).folder
    holdout = Pictures([Shards(folder)], "holdout")
    labels = np.array([holdout.sources[0].label(row) for _, row in holdout.places.tolist()])
    share = Counter(labels[holdout.sample(100)].tolist())
    assert len(share) == 10 and max(share.values()) <= 25
    assert len(set(labels[:100])) <= 3, "in the order of the shards they would be these"


def test_a_gpu_gets_batches_in_pinned_memory_made_ready_by_other_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(number: int) -> tuple[torch.Tensor, ...]:
        pictures = torch.full((2, 8, 8, 3), number).permute(0, 3, 1, 2)
        return pictures, torch.tensor([number])

    threads: set[int] = set()

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        threads.add(threading.get_ident())
        copied = tensor.clone(memory_format=torch.preserve_format)
        copied.pinned = True
        return copied

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    there = [*prefetch(staged(read, torch.device("cuda")), 3, 9)]
    here = [*prefetch(staged(read, torch.device("cpu")), 3, 9)]
    for pinned, plain in zip(there, here, strict=True):
        for ours, theirs in zip(pinned, plain, strict=True):
            assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
            assert ours.pinned and not hasattr(theirs, "pinned")
    assert threads and threading.get_ident() not in threads
