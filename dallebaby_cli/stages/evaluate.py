"""dalle/RUN or vae/RUN → figures: how good a finished model is, whether it draws what is asked.

This file has the order of things; the figures are found in judge_*.py beside it.
"""

from dataclasses import replace
from pathlib import Path

from dallebaby_cli.config import EvaluateConfig
from dallebaby_cli.drawing import fitting
from dallebaby_cli.drawing.pretrained import (
    from_pretrained,
    load_image_tokenizer,
    model_folder,
    vae_folder,
)
from dallebaby_cli.errors import BadInput, Mismatch, MissingInput
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.quality import features
from dallebaby_cli.quality import report as page
from dallebaby_cli.quality.features import Features
from dallebaby_cli.quality.figures import Evaluated
from dallebaby_cli.stages import (
    judge_captions,
    judge_copies,
    judge_holdout,
    judge_labels,
    judge_scenes,
)
from dallebaby_cli.stages.judge_labels import Prepared
from dallebaby_cli.store import manifest
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training import engine
from dallebaby_cli.training.batches import Pictures


def evaluate(
    home: Path,
    config: EvaluateConfig,
    *,
    model: Path | None = None,
    vae: str | None = None,
    only_vae: str | None = None,
    device: str = "auto",
    report: Report,
) -> Evaluated:
    """Judge a trained transformer (if none is named: the newest, or the baby) with all that is at
    hand; what it draws is painted by the decoder of the dVAE run `vae`, if one is named. Or judge
    the dVAE run `only_vae` instead. Several ranks share what is drawn, and the first one judges: it
    alone has all figures."""
    with Interrupt(at_once="stopped before all was judged; run it again to begin anew"):
        if config.kid_network != "auto":  # one that was asked for is there, or nothing is begun
            features.load(config.kid_network, engine.device(device))
        if only_vae is None:
            done = _evaluate(home, config, model, vae_folder(home, vae), device, report)
        else:
            done = _evaluate_vae(home, config, only_vae, device, report)
        if engine.first():
            done.report = page.of_evaluation(home, done, report)
        engine.wait()
    return done


def _evaluate(
    home: Path,
    config: EvaluateConfig,
    model: Path | None,
    vae: Path | None,
    device: str,
    report: Report,
) -> Evaluated:
    folder = model_folder(home, model, report)
    sampler = from_pretrained(folder, str(engine.device(device)), vae)
    sampler.require(config.sampling)
    drawn = len(judge_scenes.KINDS) * config.pictures // engine.world()
    if fitting.pays_to_compile(drawn, sampler.device):
        sampler = replace(sampler, compiled=True)
    about = manifest.read(folder)
    if about is None:
        raise MissingInput(f"{folder} has no manifest.json, which says what it was trained on")
    painted = f" with the decoder of {vae}" if vae else ""
    report(Note(f"evaluate: {folder}{painted}, {config.pictures} pictures of each kind"))
    done, scenes = Evaluated(folder, vae), manifest.of_scenes(home, about)
    try:
        data = judge_holdout.data_of(home, about, done.missing)
        for source in data.tokens:
            source.require(sampler.model.config.codes, sampler.model.config.grid)
    except (BadInput, MissingInput, Mismatch) as error:
        why = "which need what it was trained on"
        done.missing.append(f"no hold-out figures, {why}: {error}")
        if not scenes:
            done.missing.append("nothing says what to ask for, so what it draws is not read")
    else:
        prepared, tokenizer = None, sampler.image_tokenizer
        if not scenes:
            prepared = judge_labels.prepare(done, home, data.images, config, sampler.device, report)
        made = judge_holdout.judge(done, sampler, data, _eyes(prepared), config, report)
        if made and engine.first():
            judge_copies.judge(done, home, tokenizer, made, _eyes(prepared), config, report)
        if made and not scenes and engine.first():
            judge_captions.judge(done, sampler, made.held_out, made.codes, config, report)
        if prepared:
            judge_labels.judge(done, home, prepared, tokenizer, sampler, config, report)
    if scenes:
        judge_scenes.judge(done, home, sampler.image_tokenizer, sampler, config, report)
    return done


def _eyes(prepared: Prepared | None) -> Features | None:
    """What the judge of classes sees with."""
    return prepared.judge.features if prepared and prepared.judge else None


def _evaluate_vae(
    home: Path, config: EvaluateConfig, vae: str, device: str, report: Report
) -> Evaluated:
    """What holds of an image tokenizer without a transformer: how pictures come back."""
    folder, about = manifest.find(home, "vae", vae)
    tokenizer = load_image_tokenizer(folder, engine.device(device))
    done = Evaluated(folder)
    if not engine.first():
        return done
    report(Note(f"evaluate: {folder}, {config.pictures} pictures of each kind"))
    images = [p for p in about.parents.items() if p[0].startswith("images/")]
    pictures = Pictures(
        [Shards(judge_holdout.same(home, *parent)[0]) for parent in images], "holdout"
    )
    if not len(pictures):
        raise MissingInput(f"{', '.join(about.parents)} hold nothing out")
    done.reconstruction.update(judge_holdout.score_rebuilt(tokenizer, pictures, config, report))
    scenes, prepared = manifest.of_scenes(home, about), None
    if not scenes:
        prepared = judge_labels.prepare(
            done, home, pictures.sources, config, tokenizer.device, report
        )
    real = pictures.read(pictures.sample(config.pictures))
    judge_holdout.judge_pictures(done, tokenizer, real, _eyes(prepared), config, report)
    if prepared:
        judge_labels.judge(done, home, prepared, tokenizer, None, config, report)
    if scenes:
        judge_scenes.judge(done, home, tokenizer, None, config, report)
    return done
