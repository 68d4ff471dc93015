"""Captions by pretrained models: real classes and tokenizers, small and made here."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import SHAPES, Ran, make, start
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from training.test_kill import kill_when

from dallebaby_cli.captioning import captioner
from dallebaby_cli.config import CaptionConfig
from dallebaby_cli.store import extra_captions, manifest
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.store.tokens import Tokens

Cli = Callable[..., Ran]

COLOURS = ("red", "green", "blue", "gold")
END = "<|endoftext|>"
SENTENCES = [
    f"a {colour} {shape}: the {colour} {shape} {rest}\n"
    for colour in COLOURS
    for shape in SHAPES
    for rest in ("lies in the snow", "stands on a table", "is painted on a wall")
]


def draw_classes(folder: Path, count: int) -> Path:
    """Class folders such as "red_circle" of small pictures of that, no two the same."""
    for number in range(count):
        colour, shape = COLOURS[number % 4], [*SHAPES][number // 4 % 2]
        picture = Image.new("RGB", (32, 32), (number % 256, 200, 100 + number // 256))
        SHAPES[shape](ImageDraw.Draw(picture), (8, 8, 20, 20), fill=colour)
        place = folder / f"{colour}_{shape}" / f"{number:04}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture.save(place)
    return folder


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """GPT-2's kind of tokenizer, trained on a few sentences."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END],
        show_progress=False,
    )
    bpe.train_from_iterator([*SENTENCES, captioner.EXAMPLES], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)


def make_gpt2(folder: Path, steps: int, seed: int = 0) -> Path:
    """A small GPT-2 that was trained for some steps to continue our prompt."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    shape = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,  # so that it learns to copy within seconds
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    )
    model = transformers.GPT2LMHeadModel(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokenizer.pad_token = END
    rows = tokenizer([captioner.EXAMPLES + s for s in SENTENCES], padding=True, return_tensors="pt")
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    labels[:, : len(tokenizer.encode(captioner.EXAMPLES))] = -100
    for _ in range(steps):
        loss = model(**rows, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_blip(folder: Path) -> Path:
    """A small BLIP with random weights."""
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    words += "a red green blue gold circle square on in the snow wall big small".split()
    both = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 32}
    both |= {"num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.5}
    text = {"vocab_size": len(words), "encoder_hidden_size": 32, "max_position_embeddings": 64}
    text |= {"bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 2, "sep_token_id": 3}
    shape = transformers.BlipConfig(
        text_config=both | text, vision_config=both | {"image_size": 32, "patch_size": 8}
    )
    transformers.BlipForConditionalGeneration(shape).save_pretrained(folder)
    looks = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    reads = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    transformers.BlipProcessor(looks, reads).save_pretrained(folder)
    return folder


def make_vit_gpt2(folder: Path) -> Path:
    """A small encoder of pictures with a GPT-2 as decoder, random weights."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    encoder = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    decoder = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=32,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        add_cross_attention=True,
    )
    model = transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(encoder), decoder=transformers.GPT2LMHeadModel(decoder)
    )
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = config.pad_token_id = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models of each kind, and class folders prepared under home/."""
    made = tmp_path_factory.mktemp("captions")
    make_gpt2(made / "gpt2", steps=60)
    make_gpt2(made / "untrained", steps=0)
    make_blip(made / "blip")
    make_vit_gpt2(made / "vit-gpt2")
    make(made / "home", "prep", draw_classes(made / "things", 120), "--px", 32, "--workers", 1)
    return made


@pytest.fixture
def home(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder / "home", tmp_path / "home")


def rows(home: Path) -> list[dict[str, str]]:
    lines = (home / "images/things/captions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def captions(cli: Cli, home: Path, model: Path, *more: object) -> bytes:
    """The file as it is after a model wrote captions."""
    ran = cli("--home", home, "caption", "things", "--with", model, *more)
    assert ran.code == 0, ran.err
    return (home / "images/things/captions.jsonl").read_bytes()


def test_a_language_model_rewrites_labels(cli: Cli, home: Path, folder: Path) -> None:
    shards = home / "images/things/things-00000.tar"
    before = shards.read_bytes()
    ran = cli("--home", home, "caption", "things", "--with", folder / "gpt2", "--json")
    facts = json.loads(ran.out)
    assert ran.code == 0 and facts["fresh"] and facts["source"] == "model:gpt2"
    made = rows(home)
    images = Shards(home / "images/things")
    labels = {images.key(row): images.label(row) or "" for row in range(120)}
    assert 100 < len(made) == facts["captions"] and facts["pictures"] == 120
    for row in made:
        assert row["source"] == "model:gpt2" and row["key"] in labels
        assert all(word in row["caption"] for word in labels[row["key"]].split()), row
    assert facts["captions"] + sum(facts["dropped"].values()) == 2 * 120
    assert shards.read_bytes() == before, "the shards stay as they are"
    again = cli("--home", home, "caption", "things", "--with", folder / "gpt2", "--json")
    assert not json.loads(again.out)["fresh"] and rows(home) == made


@pytest.mark.parametrize("model", ["blip", "vit-gpt2"])
def test_a_captioner_looks_at_pictures(cli: Cli, home: Path, folder: Path, model: str) -> None:
    ran = cli("--home", home, "caption", "--with", folder / model, "--json", "--each", 3)
    facts = json.loads(ran.out)
    assert facts["pictures"] == 120
    assert facts["captions"] + sum(facts["dropped"].values()) == 3 * 120
    assert facts["dropped"], "random weights lose most labels"


def test_two_models_stand_side_by_side_and_each_is_replaced_alone(
    cli: Cli, home: Path, folder: Path
) -> None:
    shutil.copytree(folder / "gpt2", home / "other")
    first = captions(cli, home, folder / "gpt2")
    both = captions(cli, home, home / "other", "--set", "seed=1")
    sources = [row["source"] for row in rows(home)]
    assert sources == sorted(sources) and {*sources} == {"model:gpt2", "model:other"}
    assert both.startswith(first) and both != first
    captions(cli, home, folder / "gpt2", "--set", "seed=2")
    assert captions(cli, home, folder / "gpt2") == both, "the same bytes whatever was there before"
    (home / "images/things/captions.jsonl").unlink()
    assert captions(cli, home, folder / "gpt2") == first, "a removed file is made anew"


@pytest.mark.parametrize("model", ["untrained", "blip"])
def test_neither_batch_nor_unit_changes_a_word(home: Path, folder: Path, model: str) -> None:
    """Also where prompts of several lengths are padded to one, which most are here."""
    texts = [f"a {word}" * n for n, word in enumerate(("red circle", "box", "b", "gold"), 1)]
    found = captioner.load(captioner.find(str(folder / model)), "cpu")
    config = CaptionConfig()

    def write(chosen: list[int]) -> list[str]:
        seeds = [f"seed {n}" for n in chosen]
        if found.images is None:
            return found.rewrite([texts[n] for n in chosen], seeds, config)
        images = Shards(home / "images/things")
        return found.look([images.image(n) for n in chosen], seeds, config)

    alone = [write([n])[0] for n in range(4)]
    assert len({*alone}) == 4 and write([0, 1, 2, 3]) == alone and write([3, 0]) == alone[::-3]


def test_units_and_batches_of_other_sizes_make_the_same_file(
    cli: Cli, home: Path, folder: Path
) -> None:
    sizes = [("unit_pictures=7", "batch_size=3"), ("unit_pictures=50", "batch_size=64")]
    files = []
    for unit, batch in sizes:
        files.append(captions(cli, home, folder / "gpt2", "--set", unit, "--set", batch))
        shutil.rmtree(home / "images/things/captions")
    assert files[0] == files[1] and len(files[0]) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 3, 5] if os.environ.get("SOAK") else [3])
def test_a_killed_caption_goes_on(cli: Cli, home: Path, folder: Path, moment: int) -> None:
    small = ("--set", "unit_pictures=10", "--set", "batch_size=4")
    whole = captions(cli, home, folder / "gpt2")
    shutil.rmtree(home / "images/things/captions")
    (home / "images/things/captions.jsonl").unlink()

    def parts() -> list[Path]:
        return [*(home / "images/things/captions").glob(".work/*/*/*.jsonl")]

    process = start(home, "caption", "things", "--with", folder / "gpt2", *small)
    kill_when(process, lambda: len(parts()) >= moment)
    before = {part: part.stat().st_mtime_ns for part in parts()}
    assert moment <= len(before) < 10, "the kill must lie in the middle of the work"
    assert not (home / "images/things/captions.jsonl").exists()
    process = start(home, "caption", "things", "--with", folder / "gpt2", *small)
    kill_when(process, lambda: len(parts()) > len(before))
    assert {part: part.stat().st_mtime_ns for part in before} == before, "parts stay as they are"
    assert captions(cli, home, folder / "gpt2", *small) == whole
    assert not parts()


def test_train_joins_them_by_key(cli: Cli, home: Path, folder: Path) -> None:
    def trained(*more: object) -> tuple[str, dict[str, str]]:
        ran = cli("--home", home, "--json", "train", "--preset", "tiny", "--steps", 2, *more)
        assert ran.code == 0, ran.err
        folder = Path(json.loads(ran.out)["folder"])
        about = manifest.read(folder)
        assert about is not None
        return folder.name, about.parents

    assert cli("--home", home, "train-vae", "--preset", "tiny", "--steps", 2).code == 0
    assert cli("--home", home, "encode").code == 0
    plain, parents = trained()
    assert "images/things/captions" not in parents
    captions(cli, home, folder / "gpt2")
    with_captions, parents = trained()
    whole = extra_captions.find(home / "images/things")
    assert whole is not None and parents["images/things/captions"] == whole.id
    assert with_captions != plain, "other captions are another run"

    extra = extra_captions.read(home / "images/things")
    images = Shards(home / "images/things")
    tokens = Tokens(next((home / "tokens").iterdir()), extra.by_key)
    for row in range(120):
        own, more = images.captions(row), extra.by_key.get(images.key(row), [])
        kept_out = images.splits(np.array([row])) == ["holdout"]
        assert tokens.captions(row) == (own if kept_out else [*own, *more])

    listed = json.loads(cli("--home", home, "status", "--json").out)["artefacts"]
    shown = next(row for row in listed if row["kind"] == "captions")
    assert (shown["name"], shown["state"]) == ("things", "complete")
    smaller = ("prep", folder / "things", "--px", 32, "--limit", 100, "--workers", 1)
    for command in (smaller, ("encode",)):
        assert cli("--home", home, *command).code == 0
    ran = cli("--home", home, "train", "--preset", "tiny", "--steps", 2)
    assert ran.code == 0 and "of other pictures" in ran.err
    with (home / "images/things/captions.jsonl").open("a") as opened:
        opened.write("{")
    ran = cli("--home", home, "train", "--preset", "tiny", "--steps", 2)
    one_sentence(ran, 1, "captions.jsonl is not as it was written", "dallebaby caption things")


def test_pictures_without_captions_get_some(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """Most are dropped here, perhaps all of the hold-out's, and `train` runs all the same."""
    home = tmp_path / "home"
    bare = tmp_path / "bare"
    bare.mkdir()
    for number, path in enumerate(sorted((folder / "things").rglob("*.png"))[:40]):
        shutil.copy(path, bare / f"{number}.png")
    assert cli("--home", home, "prep", bare, "--px", 32, "--workers", 1).code == 0
    ran = cli("--home", home, "caption", "bare", "--with", folder / "gpt2")
    one_sentence(ran, 1, "images/bare has no labels", "looks at pictures")
    for command in ("train-vae --preset tiny --steps 2", "encode"):
        assert cli("--home", home, *command.split()).code == 0
    ran = cli("--home", home, "caption", "bare", "--with", folder / "blip", "--set", "each=8")
    assert ran.code == 0
    ran = cli("--home", home, "train", "--preset", "tiny", "--steps", 2)
    assert ran.code == 0, ran.err


def one_sentence(ran: Ran, code: int, *parts: str) -> None:
    """An expected failure: its exit code, and one line that says all these things."""
    error = ran.err.strip().splitlines()[-1]
    assert ran.code == code and error.startswith("error: ") and "Traceback" not in ran.err, ran.err
    for part in parts:
        assert part in error, error


def test_models_that_cannot_be_used(cli: Cli, home: Path, folder: Path) -> None:
    def tried(model: object) -> Ran:
        ran = cli("--home", home, "caption", "things", "--with", model)
        assert not (home / "images/things/captions.jsonl").exists()
        return ran

    one_sentence(tried(home / "nowhere"), 1, f"there is no folder {home}/nowhere")
    empty = home / "empty"
    empty.mkdir()
    one_sentence(tried(empty), 1, "no .safetensors weights", "not opened")
    pickled = shutil.copytree(folder / "gpt2", home / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    one_sentence(tried(pickled), 1, "no .safetensors weights")
    cut = shutil.copytree(folder / "gpt2", home / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    one_sentence(tried(cut), 1, f"{cut} cannot be loaded")
    lacking = shutil.copytree(folder / "gpt2", home / "lacking")
    tensors = load_file(lacking / "model.safetensors")
    del tensors["transformer.h.1.attn.c_attn.weight"]
    save_file(tensors, lacking / "model.safetensors", {"format": "pt"})
    one_sentence(tried(lacking), 1, "lacks weights, transformer.h.1.attn.c_attn.weight")
    other = shutil.copytree(folder / "gpt2", home / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    one_sentence(tried(other), 1, "neither a causal language model nor a captioner")
    foreign = shutil.copytree(folder / "gpt2", home / "foreign")
    code = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    (foreign / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": code}))
    (foreign / "mine.py").write_text(f"open({str(home / 'ran')!r}, 'w')")
    one_sentence(tried(foreign), 1, f"{foreign} cannot be loaded")
    assert not (home / "ran").exists(), "code that comes with a model is not run"


def test_the_extra_that_is_not_installed(
    cli: Cli, home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # so that importing it fails
    ran = cli("--home", home, "caption", "things", "--with", folder / "gpt2")
    one_sentence(ran, 1, "pip install 'dallebaby[caption]'")


def test_a_hub_that_cannot_be_reached(home: Path) -> None:
    """Nothing listens where the hub should be."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ran = subprocess.run(
        [sys.executable, "-m", "dallebaby_cli", "--home", home, "caption", "--with", "some/gpt2"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home)},
    )
    one_sentence(Ran(ran.returncode, ran.stdout, ran.stderr), 1, "hub cannot be reached", "--with")
