"""A part of `evaluate`: whether the model itself finds the caption of a picture among others, by
log p(codes | caption). A picture that was drawn without regard to its caption does not lead back to
it."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.config import EvaluateConfig
from dallebaby_cli.drawing import likelihood
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.progress import Report
from dallebaby_cli.quality.figures import Evaluated, Retrieved
from dallebaby_cli.training.batches import Captioned

CHOICES = 100  # captions at most that it looks among


def judge(
    done: Evaluated,
    sampler: Sampler,
    held_out: Captioned,
    drawn: Tensor,
    config: EvaluateConfig,
    report: Report,
) -> None:
    """Look for the captions of drawn pictures, codes (B, G, G) of the first B captions of the
    hold-out pictures, and of these themselves, among the first different ones."""
    if not config.retrieved:
        return
    first = [*held_out.with_captions()]
    choices = [*dict.fromkeys(caption for _, caption in first)][:CHOICES]
    if len(choices) == 1:
        done.missing.append("all hold-out captions are the same, so the model cannot tell them")
        return
    place = {caption: number for number, caption in enumerate(choices)}
    asked = [n for n, (_, caption) in enumerate(first[: len(drawn)]) if caption in place]
    asked = asked[: config.retrieved]
    indices = np.array([first[number][0] for number in asked])
    right = torch.tensor([place[first[number][1]] for number in asked])
    real = held_out.read_to_score(indices)[1].view(-1, *drawn.shape[1:])
    for name, codes in (("drawn", drawn[asked]), ("real", real)):
        about = (f"find captions of {name}", "sampling.batch_size")
        how = replace(config.sampling, guidance=1.0)  # none is drawn with
        found = likelihood.log_p(sampler, codes, choices, how, *about, report)
        done.retrieval.append(retrieved(name, found, right))


def retrieved(name: str, found: Tensor, right: Tensor) -> Retrieved:
    """Figures of log p (B, C) of B pictures with C captions, of which `right` (B,) are their own.
    Captions that are as likely share their places."""
    own = found.gather(1, right[:, None])
    better, alike = (found > own).sum(1), (found == own).sum(1)
    count, captions = found.shape
    return Retrieved(
        pictures=name,
        count=count,
        captions=captions,
        first=float(((better == 0) / alike).mean()),
        rank=float((better + (alike + 1) / 2).mean()),  # in the middle of those that are alike
        chance_first=1 / captions,
        chance_rank=(captions + 1) / 2,
    )
