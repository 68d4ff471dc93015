"""tokens/NAME@RUN → dalle/RUN: train the transformer that draws."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dallebaby_cli import files
from dallebaby_cli.config import (
    SampleConfig,
    TrainConfig,
    TransformerConfig,
    settings,
)
from dallebaby_cli.drawing import pretrained
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import Mismatch, MissingInput, UsageError
from dallebaby_cli.models import collectives
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.quality import report as page
from dallebaby_cli.quality import scores
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.pictures import grid
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training import captions, engine, identity, memory, orders, parent, run
from dallebaby_cli.training.batches import Captioned, Order, Rows
from dallebaby_cli.training.makers import find_makers, painter
from dallebaby_cli.training.parent import Parent
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

SHOWN = 8  # hold-out captions that are drawn at every evaluation
LOOKED_AT = 20_000  # pictures whose captions are measured
SIZES = ("dim", "depth", "text_tokens", "vocabulary")  # what makes a transformer large


@dataclass(frozen=True)
class DalleTask:
    """What the loop needs to train a transformer."""

    model: Transformer
    image_tokenizer: ImageTokenizer
    tokenizer: TextTokenizer
    train: Captioned
    holdout: Captioned
    config: TrainConfig
    unigram_bits: float
    name: str = "train"
    unit: str = "tokens"
    frames: int = 0  # drawing takes seconds

    @property
    def compile(self) -> bool:
        return self.config.compile

    def parts(self) -> dict[str, Objective]:
        return {"model": Objective(self.model, self.loss)}

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        return state.backward("model", batch, progress)

    @property
    def units_per_step(self) -> int:
        return self.config.batch_size * self.config.model.sequence_len

    def batch(self, step: int) -> tuple[Tensor, ...]:
        config = self.config
        rows = Order(len(self.train), config.batch_size, config.seed).batch(step)
        seed = (config.seed, 1, step)
        read = self.train.read(rows, seed, config.caption_drop, collectives.share())
        if not config.model.any_order:
            return read
        return (*read, *orders.draw(config, step, collectives.share()))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        assert isinstance(model, Transformer)
        text, codes, *random = batch
        order = None
        if random:
            order = orders.chosen(random[0], random[1], orders.share(self.config, progress))
        text_loss, image_loss = model.losses(text, codes, order)
        weight = self.config.text_weight
        return weight * text_loss + (1 - weight) * image_loss

    def evaluate(self, model: nn.Module, pictures: Captioned, count: int) -> dict[str, float]:
        """Bits per code beside what knowing nothing and knowing only the codes'
        frequencies would cost, and bits per caption token."""
        assert isinstance(model, Transformer)
        found = scores.transformer(model, pictures, count, self.config.batch_size)
        return {
            "bits_per_code": found["bits_per_code"],
            "unigram_bits": self.unigram_bits,
            "uniform_bits": float(np.log2(self.config.model.codes)),
            "bits_per_caption_token": found["bits_per_caption_token"],
        }

    @property
    def early_stop(self) -> bool:
        return self.config.early_stop

    def over(self, figures: Mapping[str, float]) -> str | None:
        """Never, by these figures alone."""
        return None

    def holdout_loss(self, figures: Mapping[str, float]) -> float | None:
        """Bits per code."""
        return figures["bits_per_code"]

    def learned(self, figures: Mapping[str, float]) -> bool:
        """Whether it knows more than how often each code occurs."""
        return figures["bits_per_code"] < figures["unigram_bits"]

    def warning(self, figures: Mapping[str, float]) -> str | None:
        """If it has learned nothing."""
        if self.learned(figures):
            return None
        return (
            f"{figures['bits_per_code']:.2f} bits per code is no better than knowing how often "
            f"each occurs ({figures['unigram_bits']:.2f}); train longer, on more pictures "
            f"or with a lower rate, such as --set optim.lr={self.config.optim.lr / 10:g}"
        )

    def pictures(self, model: nn.Module, last: bool) -> dict[str, np.ndarray]:
        """The same hold-out captions drawn from the same seeds each time."""
        assert isinstance(model, Transformer)
        sampler = Sampler(model, self.image_tokenizer, self.tokenizer)
        config = SampleConfig(batch_size=SHOWN if self.config.shard else None)  # in all ranks alike
        drawn = sampler.generate(self.prompts, config=config)
        return {"samples": grid(drawn)}

    @cached_property
    def prompts(self) -> list[str]:
        """The first hold-out captions (if it has none: training captions) for samples.png."""
        return self.holdout.first_captions(SHOWN) or self.train.first_captions(SHOWN)


def prepare(
    home: Path,
    config: TrainConfig,
    names: list[str],
    *,
    start_from: str | None = None,
    device: torch.device,
    report: Report,
) -> tuple[DalleTask, dict[str, str], list[Path]]:
    """What `train` trains, the ids of its inputs by name, and the folders of the dVAEs that made
    them, the newest first. Writes nothing. Raises OutOfMemory for what is too large for the
    device."""
    found = manifest.find_all(home, "tokens", [_whole_name(home, name) for name in names])
    parents = {f"tokens/{m.name}": m.id for _, m in found}
    sources = []
    for folder, tokens in found:
        extra = captions.extra(home, tokens, parents, report)
        sources.append(Tokens(folder, extra.by_key))
    makers = find_makers(home, [m for _, m in found])
    image_tokenizer = pretrained.load_image_tokenizer(makers[0], device)
    for source in sources:
        source.require(image_tokenizer.codes, image_tokenizer.grid)
    rows = _rows(sources, report)
    captions.require(rows)
    before = parent.find(home, "dalle", start_from) if start_from else None
    how = parent.ways(before, config, image_tokenizer.levels)
    if before:
        parents[before.name] = before.id
        before.require_vae(makers[0], ", ".join(m.name for _, m in found))
        before.require_transformer(replace(config.model, any_order=how["any_order"]))
        tokenizer, config = _of_parent(before, config, report)
    else:
        tokenizer = captions.tokenizer(rows, config.model.vocabulary)
    usual = replace(config, random_order=None)
    if config.random_order == 0 and not orders.any_order(usual, how["digits"]):
        config = usual  # so it is the same run as without a word
    shape = replace(
        config.model,
        vocabulary=tokenizer.vocabulary,
        codes=image_tokenizer.codes,
        grid=image_tokenizer.grid,
        **how,
    )
    config = replace(config, model=shape)
    training = Captioned(sources, "train", tokenizer, shape.text_tokens)
    holdout = Captioned(sources, "holdout", tokenizer, shape.text_tokens)
    if not len(holdout):
        report(Note("no hold-out pictures, so figures are of training pictures", "warning"))
        holdout = training
    memory.require_model(Transformer, config.model, SIZES, device, config.shard)
    memory.require_batch(
        config, 8 * (shape.sequence_len + shape.any_order * (shape.image_tokens + 1))
    )
    model = _fresh(config)
    if before:
        weights.load_weights(before.folder / "model.safetensors", model)
    bits = scores.unigram(training, holdout, shape.codes)
    task = DalleTask(model, image_tokenizer, tokenizer, training, holdout, config, bits)
    return task, parents, makers


def train(
    home: Path,
    config: TrainConfig,
    names: list[str],
    *,
    preset: str,
    run_name: str | None = None,
    start_from: str | None = None,
    device: str = "auto",
    report: Report,
) -> run.Finished:
    """Train a transformer on the named tokens (NAME or NAME@RUN; the newest if none is named)."""
    target = engine.device(device)
    task, parents, makers = prepare(
        home, config, names, start_from=start_from, device=target, report=report
    )
    report(Note(f"train: from {', '.join(parents)} (vae/{makers[0].name}), preset {preset}"))
    if told := cut_captions(task):
        report(Note(told + (" (not with --from)" if start_from else ""), "warning"))
    tokens = [path.removeprefix("tokens/") for path in parents if path.startswith("tokens/")]
    inputs = [name.partition("@")[0] for name in names or tokens]
    run_name = run_name or identity.name(inputs, preset, _as_named(task.config), parents)
    folder = manifest.artefact(home, "dalle", run_name)
    task = _with_kept_tokenizer(_as_begun(task, folder), folder)
    vae_folder = painter(folder, makers)

    def begin() -> None:  # with what it was begun, it ends, whatever changes elsewhere meanwhile
        task.tokenizer.save(folder / "tokenizer.json")
        page.keep_prompts(folder, task.prompts)
        with files.atomic_path(folder / "vae.safetensors") as temporary:
            shutil.copyfile(vae_folder / "model.safetensors", temporary)

    described = {
        "model": settings.as_dict(task.config.model),
        "vae": weights.read_model(vae_folder, "vae")["model"],
        "caption_drop": task.config.caption_drop,
    }
    done = run.finish(
        folder, "dalle", task, task.config, parents, lambda: described, target, report, begin
    )
    page.at_end(done, report)
    return done


def _whole_name(home: Path, name: str) -> str:
    """NAME@RUN of the newest tokens of dataset NAME, finished ones first; a whole name stays as it
    is."""
    found = sorted(manifest.every(home, "tokens"), key=lambda pair: not pair[1].complete)
    return next((m.name for _, m in found if m.name.partition("@")[0] == name), name)


def _rows(sources: list[Tokens], report: Report) -> Rows[Tokens]:
    """The rows to train on. Raises MissingInput if there are none."""
    rows = Rows(sources, "train")
    blind = [source.name for source in sources if not source.knows_near_duplicates]
    if len(sources) > 1 and blind:
        report(
            Note(
                f"the pictures of {', '.join(blind)} are gone or have changed, so near duplicates "
                "of what another of the datasets holds out cannot be left out, only exact copies",
                "warning",
            )
        )
    if rows.left_out:
        report(Note(rows.left_out))
    if not len(rows):
        names = ", ".join(source.name for source in sources)
        raise MissingInput(f"{names}: no pictures to train on; prepare more of them")
    return rows


def _of_parent(
    before: Parent, config: TrainConfig, report: Report
) -> tuple[TextTokenizer, TrainConfig]:
    """The tokenizer that the parent's weights know, and the settings that follow from it."""
    theirs = before.config["model"]
    tokenizer = TextTokenizer.load(before.folder / "tokenizer.json", theirs["vocabulary"])
    asked, text_tokens = config.model, theirs["text_tokens"]
    if asked.text_tokens != text_tokens or asked.vocabulary < tokenizer.vocabulary:
        report(
            Note(
                f"text_tokens={text_tokens} and vocabulary={tokenizer.vocabulary} are those of "
                f"{before.name}, not {asked.text_tokens} and {asked.vocabulary}: its weights know "
                "captions as its own tokenizer reads them",
                "warning",
            )
        )
    return tokenizer, replace(config, model=replace(asked, text_tokens=text_tokens))


def cut_captions(task: DalleTask) -> str | None:
    """How many training captions are longer than the model reads, if any are, and what to set."""
    lengths, most = task.train.caption_lengths(LOOKED_AT), task.config.model.text_tokens
    cut = int((lengths > most).sum())
    if not cut:
        return None
    longest, nearly = int(lengths.max()), int(np.percentile(lengths, 99, method="higher"))
    few_are_long = most < nearly < longest / 2
    enough = f"{nearly} keeps 99 % of them" if few_are_long else f"{longest} keeps them"
    return (
        f"{cut:,} of {len(lengths):,} captions have over text_tokens={most} tokens and lose their "
        f"ends; --set model.text_tokens={enough} whole"
    )


def _fresh(config: TrainConfig) -> Transformer:
    """An untrained model."""
    torch.manual_seed(config.seed)
    model = Transformer(config.model)
    model.recompute = config.recompute
    return model


def _as_named(config: TrainConfig) -> TrainConfig:
    """The settings that a run is named after: where nobody chose its orders, the same as before
    there were any."""
    if config.random_order is not None:
        return config
    return replace(config, model=replace(config.model, any_order=False))


def _as_begun(task: DalleTask, folder: Path) -> DalleTask:
    """The task with a model that reads and predicts codes as the run in the folder was begun to, if
    one was: older versions knew no numbers, predicted codes whole, however many there are, and
    learned no order but raster order, where nobody said so."""
    found, config = manifest.read(folder), task.config
    before = found.config.get("model") if found else None
    if found is None or not isinstance(before, dict):
        return task
    how = {name: before.get(name, []) for name in ("digits", "numbers")}
    try:
        if config.random_order is None:
            how["any_order"] = before.get("any_order", False)
            config = settings.build(
                TrainConfig,
                settings.as_dict(config) | {"random_order": found.config.get("random_order")},
            )
        shape = settings.build(TransformerConfig, settings.as_dict(config.model) | how)
    except UsageError:  # it is of other codes, which is told where settings are compared
        return task
    config, same = replace(config, model=shape), shape == config.model
    return replace(task, model=task.model if same else _fresh(config), config=config)


def _with_kept_tokenizer(task: DalleTask, folder: Path) -> DalleTask:
    """The task with the tokenizer that the run in the folder was begun with, if one was. Raises
    Mismatch if its weights, where they are finished, know another one."""
    path = folder / "tokenizer.json"
    parts = weights.described(folder).get("files")
    sealed = parts.get(path.name) if isinstance(parts, dict) else None
    if sealed and not (path.exists() and files.sha256_file(path) == sealed):
        raise Mismatch(
            f"{path} is missing or not the one that this run was trained with, so its weights "
            f"would take words for others; restore it, or remove {folder} to train anew"
        )
    if path.exists():
        kept = TextTokenizer.load(path)
    elif (folder / "state.pt").exists():  # of a version that saved it last, and always its own
        kept = captions.tokenizer(task.train, task.config.model.vocabulary)
    else:
        return task
    task.train.tokenizer = task.holdout.tokenizer = kept
    return replace(task, tokenizer=kept)
