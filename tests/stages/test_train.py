"""`train` and `train-vae` on several datasets, and from the weights of another run."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dallebaby_cli import progress
from dallebaby_cli.config import (
    DVAEConfig,
    PrepConfig,
    TrainConfig,
    TrainVaeConfig,
    TransformerConfig,
)
from dallebaby_cli.config.settings import load as config
from dallebaby_cli.errors import Interrupted, Mismatch, MissingInput, UsageError
from dallebaby_cli.progress import Event, Note, ignore
from dallebaby_cli.stages import train as stage
from dallebaby_cli.stages import train_vae as vae_stage
from dallebaby_cli.stages.encode import encode
from dallebaby_cli.stages.prep import prep
from dallebaby_cli.store import manifest
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.training import run

CPU = torch.device("cpu")
SHAPE = DVAEConfig(image_px=32, grid=8, width=8, depth=1, levels=(8, 5), codebook=40)
VAE = TrainVaeConfig(steps=2, batch_size=8, model=SHAPE)
TEXT = TransformerConfig(text_tokens=12, vocabulary=270, dim=32, depth=1, heads=2)
DALLE = TrainConfig(steps=2, batch_size=8, model=TEXT)
COPIES = 4  # of pictures that "first" holds out, trained on in "second"
Row = tuple[Image.Image, str, str]


def photo(seed: int) -> Image.Image:
    """Soft blobs with some detail, as far as numbers can look like a photo."""
    random = np.random.default_rng(seed)
    coarse, fine = (random.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (5, 24))
    large = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
    return Image.blend(large, Image.fromarray(fine).resize((64, 64)), 0.3)


def pack(home: Path, name: str, rows: Iterable[Row]) -> None:
    """Prepare images/NAME of pictures with their captions and splits."""
    folder = home.parent / name
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, (picture, caption, split) in enumerate(rows):
            content = io.BytesIO()
            picture.save(content, "PNG")
            about = json.dumps({"captions": [caption], "split": split}).encode()
            for suffix, data in (("png", content.getvalue()), ("json", about)):
                member = tarfile.TarInfo(f"{number:04}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    prep(home, str(folder), PrepConfig(image_px=32, workers=1), name=name, report=ignore)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets, the second of which trains on what the first one holds out; a dVAE, the codes
    of both, and a transformer "p" of the second."""
    home = tmp_path_factory.mktemp("several") / "home"
    held_out = [photo(seed) for seed in range(10)]
    near = held_out[0].point(lambda value: min(255, value + 8))
    first = [(p, "a red sofa", "holdout") for p in held_out]
    first += [(photo(100 + n), f"one sofa and {n} lamps", "train") for n in range(20)]
    second = [(p, "zebras graze here", "train") for p in [*held_out[:COPIES], near]]
    second += [(photo(200 + n), f"{n} zebras graze", "train") for n in range(12)]
    second += [(photo(300 + n), "a zebra", "holdout") for n in range(4)]
    pack(home, "first", first)
    pack(home, "second", second)
    where = {"preset": "tiny", "device": "cpu", "report": ignore}
    vae_stage.train_vae(home, VAE, ["first"], run_name="v", **where)
    encode(home, config("encode"), ["first", "second"], device="cpu", report=ignore)
    stage.train(home, DALLE, ["second@v"], run_name="p", **where)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of that workspace."""
    return shutil.copytree(made, tmp_path / "home")


class Told(list[str]):
    """What a stage notes."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            self.append(event.text)


def train(home: Path, name: str, told: Told | None = None, **more: object) -> run.Finished:
    changes = {k: more.pop(k) for k in ("model", "steps") if k in more}
    asked = replace(DALLE, **changes)
    report = ignore if told is None else told
    return stage.train(home, asked, [name], preset="tiny", device="cpu", report=report, **more)


# ---------------------------------------------------------------- several datasets

LEFT_OUT = "5 training pictures are left out: another of the datasets holds them out, or near"


def test_pictures_that_another_dataset_holds_out_do_not_train(home: Path) -> None:
    told = Told()
    task, _ = vae_stage.prepare(home, VAE, ["first", "second"], device=CPU, report=told)
    held_out, trained = (
        {part.sources[source].key(row) for source, row in part.places.tolist()}
        for part in (task.holdout, task.train)
    )
    assert task.train.dropped == COPIES + 1 and len(trained) == 20 + 12
    assert len(held_out) == 14 and not held_out & trained
    second = Shards(home / "images" / "second")
    kept = second.rows("train")[-12:]
    assert trained >= {second.key(int(row)) for row in kept}, "and only those are left out"
    assert [text for text in told if text.startswith(LEFT_OUT)] == told
    alone, _ = vae_stage.prepare(home, VAE, ["second"], device=CPU, report=told)
    assert alone.train.dropped == 0 and len(alone.train) == 17


def test_codes_of_such_pictures_do_not_train_either(home: Path) -> None:
    told = Told()

    def prepare() -> stage.DalleTask:
        told.clear()
        names = ["first@v", "second@v"]
        return stage.prepare(home, DALLE, names, device=CPU, report=told)[0]

    task = prepare()
    assert task.train.dropped == COPIES + 1 and len(task.train) == 20 + 12
    assert sum(map(len, task.train.codes())) == len(task.train)
    assert [text for text in told if text.startswith(LEFT_OUT)] == told
    shutil.rmtree(home / "images" / "second")  # then only what codes themselves say is known
    task = prepare()
    assert task.train.dropped == COPIES
    assert "the pictures of second@v are gone or have changed" in told[0]


def test_nothing_left_to_train_on_is_said(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "home"
    pack(other, "all", [(photo(n), "a sofa", "holdout" if n else "train") for n in range(10)])
    pack(other, "one", [(photo(0), "a sofa", "holdout"), (photo(1), "a sofa", "train")])
    shutil.copytree(home / "vae", other / "vae")
    with pytest.raises(MissingInput, match="images/all, images/one: no pictures to train on"):
        vae_stage.prepare(other, VAE, ["all", "one"], device=CPU, report=ignore)
    encode(other, config("encode"), ["all", "one"], device="cpu", report=ignore)
    with pytest.raises(MissingInput, match="all@v, one@v: no pictures to train on"):
        stage.prepare(other, DALLE, ["all@v", "one@v"], device=CPU, report=ignore)


@pytest.mark.parametrize("stage_of", [vae_stage.train_vae, stage.train])
def test_order_of_the_datasets_changes_nothing(home: Path, stage_of: Callable) -> None:
    names = ["second", "first"]
    config = VAE if stage_of is vae_stage.train_vae else DALLE
    where = {"preset": "tiny", "device": "cpu", "report": ignore}
    made = [
        stage_of(home, config, order, run_name=name, **where).folder
        for order, name in ((names, "r"), (names[::-1], "s"), (names[::-1], "r"))
    ]
    one, other = ((folder / "model.safetensors").read_bytes() for folder in made[:2])
    assert one == other
    done = stage_of(home, config, names[::-1], run_name="r", **where)
    assert not done.fresh and [*done.manifest.parents] == sorted(done.manifest.parents)
    own = stage_of(home, config, names, **where).folder.name
    assert own.startswith("second+first-tiny-"), "as before, so that old runs are found"


def test_order_does_not_change_a_run_that_goes_on(home: Path) -> None:
    """Stopped after two steps with the datasets one way round, continued the other way."""
    where = {"preset": "tiny", "device": "cpu", "report": ignore}
    names, longer = ["second", "first"], replace(VAE, steps=4)
    vae_stage.train_vae(home, VAE, names, run_name="r", **where)
    vae_stage.train_vae(home, longer, names[::-1], run_name="r", **where)
    vae_stage.train_vae(home, VAE, names, run_name="s", **where)
    vae_stage.train_vae(home, longer, names, run_name="s", **where)
    one, other = ((home / "vae" / n / "model.safetensors").read_bytes() for n in "rs")
    assert one == other


@pytest.mark.parametrize("names", [["first", "first"], ["first", "second", "first"]])
def test_a_dataset_that_is_named_twice_is_refused(home: Path, names: list[str]) -> None:
    before = {*home.rglob("*")}
    where = {"preset": "tiny", "device": "cpu", "report": ignore}
    with pytest.raises(UsageError, match="images/first is named twice; name each of them once"):
        vae_stage.train_vae(home, VAE, names, run_name="v", **where)
    with pytest.raises(UsageError, match="tokens/first@v is named twice"):
        stage.train(home, DALLE, [*names[:-1], "first@v"], run_name="p", **where)
    with pytest.raises(UsageError, match="images/first is named twice"):
        encode(home, config("encode"), names, device="cpu", report=ignore)
    assert {*home.rglob("*")} == before


# ---------------------------------------------------------------- from another run


def test_a_run_from_another_reads_captions_as_that_one_did(home: Path) -> None:
    told = Told()
    done = train(home, "first@v", told, run_name="c", start_from="p")
    kept, parent = (home / "dalle" / name / "tokenizer.json" for name in ("c", "p"))
    assert kept.read_bytes() == parent.read_bytes()
    alone = train(home, "first@v", run_name="alone")
    assert (alone.folder / "tokenizer.json").read_bytes() != parent.read_bytes()
    assert done.manifest.parents["dalle/p"] == manifest.find(home, "dalle", "p")[1].id
    assert not [text for text in told if "its weights know captions" in text]


def test_a_run_from_another_takes_its_lengths_and_says_so(home: Path) -> None:
    told = Told()
    model = replace(TEXT, text_tokens=9, vocabulary=260)
    done = train(home, "first@v", told, model=model, run_name="c", start_from="p")
    assert "text_tokens=12 and vocabulary=270 are those of dalle/p, not 9 and 260" in told[0]
    shape = done.manifest.config["model"]
    assert (shape["text_tokens"], shape["vocabulary"]) == (12, 270)


def test_codes_of_another_dvae_are_refused(home: Path) -> None:
    vae = replace(VAE, seed=1)
    where = {"preset": "tiny", "device": "cpu", "report": ignore}
    vae_stage.train_vae(home, vae, ["first"], run_name="w", **where)
    encode(home, config("encode"), ["first"], vae="w", device="cpu", report=ignore)
    with pytest.raises(Mismatch, match=r"dalle/p knows the codes of another dVAE than vae/w"):
        train(home, "first@w", run_name="c", start_from="p")
    assert not (home / "dalle" / "c").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dim": 64}, "than one with dim=64; take --set model.dim=32 "),
        ({"heads": 4}, "than one with heads=4; take --set model.heads=2 "),
        ({"depth": 2, "dim": 64}, "take --set model.dim=32 --set model.depth=1 (or the preset"),
    ],
)
def test_another_shape_of_transformer_is_refused(
    home: Path, change: dict[str, int], words: str
) -> None:
    with pytest.raises(Mismatch) as caught:
        train(home, "first@v", model=replace(TEXT, **change), start_from="p")
    assert "dalle/p is another model" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quantizer": "vq"}, "quantizer=vq; take --set model.quantizer=fsq"),
        ({"levels": (5, 8)}, "levels='[5,8]'; take --set model.levels='[8,5]'"),  # the same shapes
        ({"levels": (8, 5, 5)}, "levels='[8,5,5]'; take --set model.levels='[8,5]'"),
        ({"grid": 16}, "grid=16; take --set model.grid=8"),
        ({"width": 16, "depth": 2}, "--set model.width=8 --set model.depth=1"),
        ({"loss": "laplace"}, "loss=laplace; take --set model.loss=l2"),
    ],
)
def test_another_kind_of_dvae_is_refused(home: Path, change: dict[str, object], words: str) -> None:
    asked = replace(VAE, model=replace(SHAPE, **change))
    with pytest.raises(Mismatch) as caught:
        vae_stage.prepare(home, asked, ["first"], start_from="v", device=CPU, report=ignore)
    assert "vae/v is another model" in str(caught.value) and words in str(caught.value)


def test_a_dvae_goes_on_with_settings_that_weights_do_not_depend_on(home: Path) -> None:
    asked = replace(VAE, model=replace(SHAPE, loss="l1", codebook=99, commitment=1.0))
    task, parents = vae_stage.prepare(
        home, asked, ["first"], start_from="v", device=CPU, report=ignore
    )
    assert "vae/v" in parents and task.config.model.loss == "l1"


def test_pictures_of_another_size_need_as_many_pixels_a_code(home: Path) -> None:
    (home.parent / "raw").mkdir()
    for number in range(4):
        photo(number).save(home.parent / "raw" / f"{number}.png")
    for px, grid in ((64, 16), (30, 6)):
        prep(
            home,
            str(home.parent / "raw"),
            PrepConfig(image_px=px, workers=1),
            name=f"at{px}",
            report=ignore,
        )
        asked = replace(VAE, model=replace(SHAPE, image_px=px, grid=grid))
        if px == 64:
            task, _ = vae_stage.prepare(
                home, asked, ["at64"], start_from="v", device=CPU, report=ignore
            )
            assert len(task.batch(0)[0]) == 8
        else:
            with pytest.raises(Mismatch, match="a code for every 4 x 4 pixels, which does not"):
                vae_stage.prepare(home, asked, ["at30"], start_from="v", device=CPU, report=ignore)


# ---------------------------------------------------------------- what a run is begun with


class Stop(Told):
    """Ends the stage when it says where its run is."""

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, progress.Progress):
            raise Interrupted("stopped", 15)


def test_the_tokenizer_is_kept_from_the_first_step_on(home: Path) -> None:
    folder = home / "dalle" / "r"
    with pytest.raises(Interrupted):
        train(home, "first@v", Stop(), run_name="r", steps=3)
    assert not manifest.read(folder).complete
    path = folder / "tokenizer.json"
    assert (folder / "vae.safetensors").exists()
    kept = TextTokenizer.load(path)
    assert kept.vocabulary == 270
    other = TextTokenizer.train(["entirely different words, of course"] * 9, 270)
    assert other.vocabulary == 270 and other.bpe.to_str() != kept.bpe.to_str()
    other.save(path)  # as if another version of the library had learned other tokens
    done = train(home, "first@v", run_name="r", steps=3)
    assert TextTokenizer.load(path).bpe.to_str() == other.bpe.to_str()
    assert done.manifest.complete


def test_a_run_of_a_version_that_kept_none_goes_on_with_its_own(home: Path) -> None:
    """It had trained one of its own, even from another run's weights."""
    with pytest.raises(Interrupted):
        train(home, "first@v", Stop(), run_name="r", start_from="p", steps=3)
    (home / "dalle" / "r" / "tokenizer.json").unlink()
    assert (home / "dalle" / "r" / "state.pt").exists()
    train(home, "first@v", run_name="r", start_from="p", steps=3)
    alone = train(home, "first@v", run_name="alone")
    own, parent = (
        (folder / "tokenizer.json").read_bytes()
        for folder in (home / "dalle" / "r", home / "dalle" / "p")
    )
    assert own == (alone.folder / "tokenizer.json").read_bytes() != parent


def test_captions_that_are_cut_are_counted_and_the_setting_is_named(home: Path) -> None:
    def prepared(text_tokens: int) -> stage.DalleTask:
        asked = replace(DALLE, model=replace(TEXT, text_tokens=text_tokens))
        return stage.prepare(home, asked, ["first@v", "second@v"], device=CPU, report=ignore)[0]

    task = prepared(1)
    captions = [f"one sofa and {n} lamps" for n in range(20)]
    captions += [f"{n} zebras graze" for n in range(12)]
    lengths = (task.tokenizer.encode(captions, 30) < task.tokenizer.vocabulary).sum(1)
    some, longest = int(lengths.min()), int(lengths.max())
    cut = int((lengths > some).sum())
    assert 0 < cut < 32
    assert stage.cut_captions(prepared(some)) == (
        f"{cut} of 32 captions have over text_tokens={some} tokens and lose their ends; "
        f"--set model.text_tokens={longest} keeps them whole"
    )
    assert stage.cut_captions(prepared(longest)) is None

    notes = Told()
    train(home, "second@v", notes, model=replace(TEXT, text_tokens=1), run_name="cut")
    assert any("captions have over text_tokens=1 tokens" in note for note in notes)


def test_one_very_long_caption_does_not_make_all_long(home: Path) -> None:
    task = stage.prepare(home, DALLE, ["second@v"], device=CPU, report=ignore)[0]
    lengths = np.array([5] * 300 + [20] * 10 + [900])
    task.train.caption_lengths = lambda count: lengths  # type: ignore[method-assign]
    assert "11 of 311 captions" in str(stage.cut_captions(task))
    assert str(stage.cut_captions(task)).endswith("text_tokens=20 keeps 99 % of them whole")
