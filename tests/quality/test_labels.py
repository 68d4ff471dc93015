"""The judge of classes: what it learns from, what it is asked, whether it can be trusted."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make
from PIL import Image

from dallebaby_cli import files
from dallebaby_cli.config import JudgeConfig, TrainJudgeConfig
from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.models.label_classifier import LabelClassifier
from dallebaby_cli.progress import ignore
from dallebaby_cli.quality import labels
from dallebaby_cli.quality.labels import Labelled
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training.batches import Pictures

CPU = torch.device("cpu")
SHORT = TrainJudgeConfig(
    model=JudgeConfig(widths=(8, 8)), steps=40, batch_size=32, eval_images=30, ema_decay=0.9
)
Prepared = Callable[..., Shards]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Shards of class folders with so many pictures each, bright ones in every second class;
    "flat" are outside of all folders."""

    def prepare(**counts: int) -> Shards:
        base = tmp_path_factory.mktemp("labels")
        random = np.random.default_rng(0)
        for place, (name, count) in enumerate(counts.items()):
            folder = base / "raw" / ("" if name == "flat" else name)
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = random.integers(0, 120, (32, 32, 3)) + 130 * (place % 2)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}{number}.png")
        settings = ("--px", 32, "--workers", 1, "--set", "holdout_percent=25")
        make(base / "home", "prep", base / "raw", *settings, "--name", "p")
        return Shards(base / "home" / "images" / "p")

    return prepare


@pytest.fixture(scope="module")
def two(prepared: Prepared) -> Labelled:
    """Of two classes that can be learned, "dark" three times as large, and one that cannot."""
    return labels.labelled([prepared(dark=120, light=40, rare=8)])


def test_every_class_is_asked_for_as_often_with_its_own_pictures(two: Labelled) -> None:
    assert two.classes == ["dark", "light"] and two.rare == 1
    asked = two.ask(31)
    assert Counter(a.number for a in asked) == {0: 15, 1: 15}
    names = two.holdout.labels()
    assert all(names[a.index] == two.classes[a.number] for a in asked)
    light = [a for a in asked if a.number == 1]
    there = len(two.held_out[1])
    assert len({a.index for a in light[:there]}) == there < 15, "one after the other"
    assert light[there].index == light[0].index and light[there].turn == there
    assert [a.number for a in two.ask(1)] == [a.number for a in two.ask(1)]
    assert len(two.ask(1)) == 1


def test_rare_classes_are_shown_as_often_as_others(two: Labelled) -> None:
    count = np.bincount(two.answers)
    assert count[0] == count[1] and len(np.unique(two.learned)) == two.learned_from
    names = two.train.labels()
    assert all(
        names[index] == two.classes[number]
        for index, number in zip(two.learned, two.answers, strict=True)
    )
    assert two.learned_from < len(two.train), "without the class that is too rare"


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"flat": 40}, "the pictures have no labels"),
        ({"cat": 40}, "all labelled pictures are of one class, 'cat'"),
        ({"cat": 12, "dog": 14, "cow": 60}, "and of 3 classes 1 has as many"),
        ({"cat": 3, "dog": 3}, "20 training pictures of a class, and of 2 classes 0 has"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_a_sentence(
    prepared: Prepared, counts: dict[str, int], words: str
) -> None:
    with pytest.raises(MissingInput, match=words):
        labels.labelled([prepared(**counts)])


def test_datasets_are_judged_together_and_one_may_have_no_labels(prepared: Prepared) -> None:
    first, second = prepared(cat=60, dog=60), prepared(flat=40)
    both = labels.labelled([first, second])
    assert both.classes == ["cat", "dog"] and both.learned_from < 120
    assert max(both.learned) < len(first) and sum(map(len, both.held_out)) < 40


def test_pictures_without_captions_are_not_asked_for_where_others_have_some(
    two: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = {int(index) for held in two.held_out for index in held[::2]}
    monkeypatch.setattr(Pictures, "captions", lambda self, index: [] if index in silent else ["a"])
    again = labels.labelled(list(two.holdout.sources))
    for held, before in zip(again.held_out, two.held_out, strict=True):
        assert held.tolist() == before[1::2].tolist()
    monkeypatch.setattr(Pictures, "captions", lambda self, index: [])
    all_silent = labels.labelled(list(two.holdout.sources))
    assert [h.tolist() for h in all_silent.held_out] == [h.tolist() for h in two.held_out]


def test_learns_is_kept_and_is_refused_when_damaged(two: Labelled, tmp_path: Path) -> None:
    judge = labels.train(tmp_path, SHORT, two, CPU, ignore)
    asked = two.ask(20)
    pictures = two.holdout.read(np.array([a.index for a in asked]))
    found = judge.read(pictures)
    assert (found == [a.number for a in asked]).mean() > 0.9
    assert judge.read(pictures[:3]).tolist() == found[:3].tolist(), "whatever is beside it"
    with torch.autocast("cpu", torch.bfloat16):
        assert judge.read(pictures).tolist() == found.tolist()

    seen = judge.features.pooled(pictures)
    with torch.no_grad():
        expected = judge.model.features(pictures)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)

    (folder,) = (tmp_path / "judges").iterdir()
    assert folder == judge.folder
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = labels.train(tmp_path, SHORT, two, CPU, ignore)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert again.classes == ["dark", "light"] and (again.read(pictures) == found).all()

    config = (folder / "config.json").read_text()
    files.write_text(folder / "config.json", config.replace('"dark",', "3,"))
    (folder / "manifest.json").unlink()
    with pytest.raises(BadInput, match="names no classes"):
        labels.load(folder, CPU)


def test_batches_follow_from_the_step(two: Labelled) -> None:
    config = replace(SHORT, model=replace(SHORT.model, image_px=32), batch_size=16)
    task = labels.LabelTask(model=LabelClassifier(config.model, 2), config=config, data=two)
    first, answers = task.batch(3)
    assert all(torch.equal(a, b) for a, b in zip(task.batch(3), (first, answers), strict=True))
    assert first.shape == (16, 3, 32, 32) and first.dtype == torch.uint8
    assert {*answers.tolist()} == {0, 1}
    bright = first.float().mean((1, 2, 3)) > 125
    assert bright.tolist() == answers.bool().tolist(), "the answers belong to the pictures"
    untouched = replace(config, crop=1, flip=False, softened=0)
    plain = labels.LabelTask(model=task.model, config=untouched, data=two).batch(3)[0]
    order = labels.Order(len(two.learned), 16, 0).batch(3)
    assert torch.equal(plain, two.train.read(two.learned[order]))
    named, turning = replace(two, classes=["turn left", "light"]), replace(untouched, flip=True)
    found, answers = labels.LabelTask(model=task.model, config=turning, data=named).batch(3)
    as_it_is = (found == plain).flatten(1).all(1)
    assert as_it_is[answers == 0].all() and not as_it_is[answers == 1].all()
    mirrored = (found == plain.flip(-1)).flatten(1).all(1)
    assert (as_it_is ^ mirrored).all()


@pytest.mark.parametrize(
    ("right", "chance", "count", "trusted"),
    [
        (0.66, 0.1, 500, True),
        (0.12, 0.1, 500, False),
        (0.24, 0.1, 500, False),
        (0.9, 0.5, 200, True),
        (0.58, 0.5, 200, False),
        (0.07, 0.01, 500, True),
        (1.0, 0.5, 2, False),
    ],
)
def test_a_judge_that_hardly_reads_is_not_trusted(
    right: float, chance: float, count: int, trusted: bool
) -> None:
    told = labels.unsure(right, chance, count, TrainJudgeConfig())
    assert (told is None) == trusted
    if told:
        assert f"{right:.1%}" in told and f"{chance:.1%}" in told and "judge.steps=2000" in told


@pytest.mark.parametrize("px", [8, 12, 20, 32, 50, 64, 96])
def test_reads_pictures_of_any_size(px: int) -> None:
    model = LabelClassifier(JudgeConfig(image_px=px, widths=(8, 8, 8)), 5)
    assert model(torch.zeros(2, 3, px, px, dtype=torch.uint8)).shape == (2, 5)
    places = model.body[:-2](torch.zeros(1, 3, px, px)).shape[-1]
    assert 3 <= places <= 8
    for wrong in (torch.zeros(1, 3, px, px), torch.zeros(1, 3, px, px + 1, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="must be uint8"):
            model(wrong)
