"""Figures that need a pretrained network (extra `eval`): FID, rFID and the CLIP score.

They are computed where the weights are on this machine already; nothing is downloaded, and no file
is unpickled that holds anything but tensors.
"""

import pickle
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.models import device as devices

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # of github.com/toshas/torch-fidelity
CLIP = "openai/clip-vit-large-patch14"
INSTALL = "pip install 'dallebaby[eval]'"
BATCH = 32


@dataclass(frozen=True)
class Scores:
    """What could be measured, and a sentence for each thing that could not."""

    figures: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def scores(
    real: Tensor, rebuilt: Tensor, drawn: Tensor, prompts: list[str], device: torch.device
) -> Scores:
    """FID of drawn pictures and rFID of rebuilt ones, each against the real ones, and the mean CLIP
    score of drawn ones with their prompts; pictures uint8 (N, 3, P, P), sizes N among the figures.
    """
    found = Scores()
    try:
        if min(len(real), len(drawn)) < 2:
            raise MissingInput("they compare how pictures differ, so they need two and more")
        network = load_inception(device)
        found.figures["fid"], found.figures["fid_n"] = fid(network, real, drawn), len(drawn)
        found.figures["rfid"], found.figures["rfid_n"] = fid(network, real, rebuilt), len(rebuilt)
    except (MissingInput, BadInput) as error:
        found.missing.append(f"FID and rFID are left out: {error}")
    try:
        found.figures["clip_score"] = clip_score(*load_clip(), drawn, prompts, device)
        found.figures["clip_score_n"] = len(drawn)
    except MissingInput as error:
        found.missing.append(f"the CLIP score is left out: {error}")
    return found


def load_inception(device: torch.device) -> nn.Module:
    """The Inception network that FID is defined by. Raises MissingInput or BadInput."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    try:
        import torch_fidelity  # noqa: F401
        from torchmetrics.image.fid import NoTrainInceptionV3
    except ImportError:
        raise MissingInput(f"they need torchmetrics; {INSTALL}") from None
    if not path.exists():
        raise MissingInput(f"put {INCEPTION} (from github.com/toshas/torch-fidelity) at {path}")
    try:  # torch-fidelity reads it without this question
        with warnings.catch_warnings(action="ignore"):
            torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise BadInput(f"{path} is damaged, or holds more than tensors; fetch it again") from error
    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    return network.to(device).eval()


def fid(network: nn.Module, real: Tensor, others: Tensor) -> float:
    """Fréchet distance between the features of two sets of pictures, uint8 (N, 3, P, P) (Heusel et
    al. 2017, arXiv 1706.08500); depends on N, so compare only equal ones."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=network)
    with devices.autocast(metric.device, "fp32"):
        for pictures, is_real in ((real, True), (others, False)):
            for part in torch.split(pictures, BATCH):
                metric.update(part.to(metric.device), real=is_real)
        return float(metric.compute())


def load_clip() -> tuple[Any, Any]:
    """CLIP and its processor, from Hugging Face's folder of models. Raises MissingInput."""
    try:
        from transformers import CLIPModel, CLIPProcessor
    except ImportError:
        raise MissingInput(f"it needs transformers; {INSTALL}") from None
    try:
        local = {"local_files_only": True}
        model = CLIPModel.from_pretrained(CLIP, use_safetensors=True, **local)
        return model, CLIPProcessor.from_pretrained(CLIP, **local)
    except OSError:
        raise MissingInput(f"its weights are not here; `hf download {CLIP}`") from None


@torch.no_grad()
def clip_score(
    model: Any, processor: Any, pictures: Tensor, prompts: list[str], device: torch.device
) -> float:
    """100 times the mean cosine, at least 0 each, of pictures with their prompts (Hessel et al.
    2021, arXiv 2104.08718)."""
    # torchmetrics' own (1.9) cannot read what transformers 5 returns
    model, cosines = model.to(device).eval(), []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        inputs = processor(
            text=prompts[part],
            images=list(pictures[part]),
            return_tensors="pt",
            padding=True,
            truncation=True,
        )
        with devices.autocast(device, "fp32"):
            read = model(**inputs.to(device))
        cosines.append((read.image_embeds * read.text_embeds).sum(-1))  # both of length 1
    return 100 * float(torch.cat(cosines).clamp(min=0).mean())
