"""Captions by pretrained models: real classes and tokenizers, small and made here."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from conftest import SHAPES, Ran, run
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dallebaby_cli import captioner
from dallebaby_cli.data.shards import Shards

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
    vocabulary = folder.parent / "words.txt"
    vocabulary.write_text("\n".join(words))
    both = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 32}
    both |= {"num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.5}
    text = {"vocab_size": len(words), "encoder_hidden_size": 32, "max_position_embeddings": 64}
    text |= {"bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 2, "sep_token_id": 3}
    shape = transformers.BlipConfig(
        text_config=both | text, vision_config=both | {"image_size": 32, "patch_size": 8}
    )
    transformers.BlipForConditionalGeneration(shape).save_pretrained(folder)
    looks = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    reads = transformers.BertTokenizer(vocab=str(vocabulary))
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
    run(made / "home", "prep", draw_classes(made / "things", 120), "--px", 32, "--workers", 1)
    return made


@pytest.fixture
def home(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder / "home", tmp_path / "home")


def rows(home: Path) -> list[dict[str, str]]:
    lines = (home / "images/things/captions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def captions(home: Path, model: Path, *more: object) -> bytes:
    """The captions that a model writes in a process of its own."""
    run(home, "caption", "things", "--with", model, *more)
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
    assert 60 < len(made) == facts["captions"] and facts["pictures"] == 120
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
