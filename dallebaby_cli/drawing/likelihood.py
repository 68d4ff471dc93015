"""How likely a model finds pictures with each of several captions: what it draws from, read
backwards."""

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing import fitting
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.progress import Progress, Report


def log_p(
    sampler: Sampler,
    codes: Tensor,
    captions: list[str],
    config: SampleConfig,
    task: str,
    setting: str,
    report: Report,
) -> Tensor:
    """log p(codes | caption) in nats, (B, C) on the CPU, of codes (B, G, G) with each of C
    captions. A person sees the `task`, and sets with `setting` how many pairs are scored at a
    time."""
    pairs = np.arange(len(codes) * len(captions))

    def score(size: int) -> Tensor:
        parts = []
        for part in np.array_split(pairs, -(-len(pairs) // size)):
            picture, caption = np.divmod(part, len(captions))
            report(Progress(task, int(part[0]), len(pairs), "pairs"))
            texts = [captions[number] for number in caption]
            parts.append(sampler.log_p(texts, codes[picture].to(sampler.device)).cpu())
        report(Progress(task, len(pairs), len(pairs), "pairs"))
        return torch.cat(parts)

    most = min(fitting.at_a_time(sampler.model.config, config, sampler.device), len(pairs))
    found = fitting.halving(score, most, "scoring", setting, report)
    return found.view(len(codes), len(captions))
