"""One picture for each of many prompts, drawn by all ranks together."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing import fitting
from dallebaby_cli.drawing.sampler import Drawing, Sampler
from dallebaby_cli.models import collectives
from dallebaby_cli.progress import Progress, Report


def draw(
    sampler: Sampler,
    prompts: Sequence[str],
    config: SampleConfig,
    seed: int,
    what: str,
    report: Report,
) -> Tensor:
    """Codes (B, G, G) of one picture for each of B prompts, none chosen, the i-th from seed + i:
    all of them in every rank."""
    mine = len(range(len(prompts))[collectives.share()])
    size = max(min(fitting.at_a_time(sampler.model.config, config, sampler.device), mine), 1)

    def watch(drawing: Drawing) -> None:
        done = drawing.done * len(prompts) / mine
        report(Progress(f"draw {what}", done, len(prompts), "images"))

    def sketch(size: int) -> Tensor:
        few = replace(config, batch_size=size)
        return sampler.sketch(prompts, 1, seed, few, watch=watch, together=True).codes

    codes = fitting.halving(sketch, size, "drawing", "sampling.batch_size", report)
    return codes.to(sampler.device)
