"""The classifier learns to read scenes, is kept, and refuses what it cannot read."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dallebaby_cli.config import ClassifierConfig, OptimConfig, TrainClassifierConfig
from dallebaby_cli.models.classifier import Classifier, Read, loss
from dallebaby_cli.models.pictures import to_tensor
from dallebaby_cli.progress import Event, Note
from dallebaby_cli.quality import classifier
from dallebaby_cli.scenes import spec
from dallebaby_cli.scenes.agreement import Asked, agreement, labels, shares
from dallebaby_cli.training import augment

CPU = torch.device("cpu")
SHORT = TrainClassifierConfig(
    model=ClassifierConfig(width=24),
    optim=OptimConfig(lr=4e-3),
    steps=120,
    batch_size=32,
    eval_images=50,
    ema_decay=0.9,
)


@pytest.mark.parametrize("px", [8, 20, 32, 50, 64, 96])
def test_reads_pictures_of_any_size(px: int) -> None:
    model = Classifier(ClassifierConfig(image_px=px, width=8), classifier.VOCABULARY)
    drawn = [spec.scene(0, i) for i in range(3)]
    said = model(to_tensor(classifier.render(drawn, px)))
    colours = len(spec.COLOURS)
    assert said.present.shape == (3, colours)
    assert said.things.shape == (3, colours, len(spec.THINGS))
    assert said.centres.shape == (3, colours, 2)
    assert 0 < said.centres.min() and said.centres.max() < 1
    assert said.background.shape == (3, len(spec.BACKGROUNDS))


def test_answers_are_in_full_precision_whatever_it_computes_in() -> None:
    model = Classifier(ClassifierConfig(image_px=32, width=8), classifier.VOCABULARY)
    pictures = classifier.render([spec.scene(0, 0)], 32)
    with torch.autocast("cpu", torch.bfloat16):
        (reading,) = classifier.read(model, pictures)
        said = model(to_tensor(pictures))
    assert {t.dtype for t in vars(said).values()} == {torch.float32}
    assert reading.background in spec.BACKGROUNDS


@pytest.mark.parametrize(
    "pictures",
    [torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 16, 32).byte(), torch.zeros(3, 32, 32).byte()],
)
def test_refuses_what_is_no_batch_of_pictures(pictures: torch.Tensor) -> None:
    model = Classifier(ClassifierConfig(image_px=32, width=8), classifier.VOCABULARY)
    with pytest.raises(ValueError, match=r"must be uint8 \(B, 3, 32, 32\), not"):
        model(pictures)


def test_a_judge_is_judged_by_enough_renders_to_tell() -> None:
    model = Classifier(ClassifierConfig(image_px=32, width=8), classifier.VOCABULARY)
    for seen, right, warns in ((50, 0.98, False), (2000, 0.98, True), (50, 0.9, True)):
        config = TrainClassifierConfig(eval_images=seen)
        warning = classifier.ClassifierTask(model, config).warning({"all": right})
        assert (warning is not None) == warns


def test_the_loss_is_lowest_for_the_truth() -> None:
    drawn = [spec.scene(0, i) for i in range(20)]
    things, centres, background = map(torch.from_numpy, labels(drawn))
    sure = 20.0
    truth = Read(
        torch.where(things >= 0, sure, -sure),
        sure * torch.nn.functional.one_hot(things.clamp(min=0), len(spec.THINGS)).float(),
        centres,
        sure * torch.nn.functional.one_hot(background, len(spec.BACKGROUNDS)).float(),
    )
    assert loss(truth, things, centres, background) < 1e-3
    worse = Read(-truth.present, truth.things, truth.centres, truth.background)
    assert loss(worse, things, centres, background) > 1


@pytest.mark.slow
def test_learns_to_read_what_it_never_saw_and_is_trained_once(tmp_path: Path) -> None:
    notes: list[Event] = []
    model = classifier.train(tmp_path, SHORT, 32, CPU, notes.append)
    drawn = [spec.scene(77, i, "held-out") for i in range(300)]
    read = classifier.read(model, classifier.render(drawn, 32))
    right = shares(map(agreement, (Asked("", s, True) for s in drawn), read))
    assert right["colour"] > 0.6 and right["background"] > 0.6  # by chance, a tenth
    assert any("reads only" in e.text for e in notes if isinstance(e, Note)), "it says how unsure"

    (folder,) = (tmp_path / "classifier").iterdir()
    before = (folder / "model.safetensors").stat().st_mtime_ns
    notes.clear()
    again = classifier.train(tmp_path, SHORT, 32, CPU, notes.append)
    assert not notes and (folder / "model.safetensors").stat().st_mtime_ns == before
    assert classifier.read(again, classifier.render(drawn[:9], 32)) == read[:9]

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    mended = classifier.train(tmp_path, SHORT, 32, CPU, notes.append)
    assert classifier.read(mended, classifier.render(drawn[:9], 32)) == read[:9], "made again"


def test_it_is_trained_on_held_out_pairs_too_and_on_no_render_twice() -> None:
    model = Classifier(ClassifierConfig(image_px=32, width=8), classifier.VOCABULARY)
    task = classifier.ClassifierTask(model, SHORT)
    batches = [task.batch(step) for step in range(8)]
    pictures = np.concatenate([b[0].numpy() for b in batches])
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == len(pictures)
    for first, second in zip(task.batch(3), batches[3], strict=True):
        assert torch.equal(first, second), "so that it can be resumed"
    things = np.concatenate([b[1].numpy() for b in batches])
    shown = {
        (spec.THINGS[things[row, colour]], list(spec.COLOURS)[colour])
        for row, colour in np.argwhere(things >= 0)
    }
    assert shown & spec.HELD_OUT_PAIRS


def test_softening_follows_from_the_seed_and_keeps_the_picture() -> None:
    drawn = [spec.scene(0, i) for i in range(64)]
    pictures = to_tensor(classifier.render(drawn, 32))
    soft = augment.soften(pictures, (1, 2))
    assert torch.equal(soft, augment.soften(pictures, (1, 2)))
    assert not torch.equal(soft, augment.soften(pictures, (1, 3)))
    assert soft.dtype == torch.uint8 and soft.shape == pictures.shape
    off = (soft.float() - pictures.float()).abs().mean((1, 2, 3))
    assert 1 < off.mean() < 20 and off.max() < 40
