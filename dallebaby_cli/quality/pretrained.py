"""Figures that need a pretrained network (extra `eval`): FID, rFID, KID, CMMD and the CLIP score.

They are computed where the weights are on this machine already; nothing is downloaded. Where no
network is, a classifier that was trained here compares sets of pictures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dallebaby_cli.errors import BadInput, MissingInput
from dallebaby_cli.models import device as devices
from dallebaby_cli.progress import Progress, Report, ignore
from dallebaby_cli.quality import features
from dallebaby_cli.quality.features import BATCH, DAMAGED, INSTALL, Features

AUTO = ("inception", "efficientnet-lite0")  # the first that is here compares sets for KID
CLIP = "openai/clip-vit-large-patch14"
LEAST = 4  # pictures of which each half holds two, which can differ
ROWS = 1024  # of a kernel's matrix at a time
LOOKED_AT = 4 * BATCH  # pictures, before it is told how far that has come
FID = "FID"
WIDTH = 10  # of CMMD's kernel
Distance = Callable[[Tensor, Tensor], float]
"""of two sets of vectors (N, C)"""


@dataclass(frozen=True)
class Compared:
    """How far sets of pictures are from the hold-out ones: about 0 where they are alike."""

    figure: str
    network: str
    n: int
    """pictures of each set; compare figures of about as many only"""
    rebuilt: float
    drawn: float | None
    """None where nothing was drawn"""
    real: float | None
    """one half of the hold-out pictures from the other: what chance alone makes; None for FID, for
    which sets of half the size are farther apart"""


@dataclass(frozen=True)
class Scores:
    """What could be measured, and a sentence for each thing that could not."""

    figures: dict[str, float] = field(default_factory=dict)
    compared: list[Compared] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sets:
    """Pictures uint8 (N, 3, P, P), or what a network sees in them, (N, C); N of each its own."""

    real: Tensor
    rebuilt: Tensor
    drawn: Tensor | None
    """None where nothing was drawn"""

    def every(self) -> list[Tensor]:
        """Those that are there."""
        return [part for part in (self.real, self.rebuilt, self.drawn) if part is not None]

    def least(self) -> int:
        """The size of the smallest."""
        return min(map(len, self.every()))

    def seen(self, look: Callable[[Tensor], Tensor], name: str, report: Report) -> "Sets":
        """What a network of that name sees in them: `look` is given a part of one at a time."""
        done, total, found = 0, sum(map(len, self.every())), []
        for pictures in self.every():
            parts = []
            for part in torch.split(pictures, LOOKED_AT):
                report(Progress(f"look with {name}", done, total, "images"))
                parts.append(look(part))
                done += len(part)
            found.append(torch.cat(parts))
        report(Progress(f"look with {name}", total, total, "images"))
        return Sets(found[0], found[1], found[2] if len(found) > 2 else None)


def scores(
    pictures: Sets,
    prompts: list[str],
    device: torch.device,
    network: str = "auto",
    own: Features | None = None,
    report: Report = ignore,
) -> Scores:
    """Distances of drawn and rebuilt pictures from the real ones, and the mean CLIP score of drawn
    ones with their prompts; sizes N are among the figures. KID sees with `network`, or where "auto"
    finds none, with the dataset's `own` classifier, and so does FID where Inception is not here.
    Each network looks at each picture once. Raises UsageError where `network` is none."""
    found, seen = Scores(), dict[str, Sets]()

    def by(eyes: Features) -> Sets:
        if eyes.name not in seen:
            seen[eyes.name] = pictures.seen(eyes.pooled, eyes.name, report)
        return seen[eyes.name]

    try:
        if (n := pictures.least()) < 2:
            raise MissingInput("they compare how pictures differ, so they need two and more")
        vectors = by(features.load(AUTO[0], device))
        others = {"rfid": vectors.rebuilt, "fid": vectors.drawn}
        for name, part in others.items():
            if part is not None:
                found.figures.update({name: frechet(vectors.real[:n], part[:n]), f"{name}_n": n})
    except (MissingInput, BadInput) as error:
        found.missing.append(f"FID and rFID as papers have them are left out: {error}")
    distances: dict[str, Distance] = {"KID x 1000": by_cubic}
    distances |= {} if found.figures else {FID: frechet}
    try:
        judge = _judge(network, device, own, found)
        require(pictures)
        compare(found, distances, judge.name, by(judge))
    except (MissingInput, BadInput) as error:
        found.missing.append(f"KID is left out: {error}")
    try:
        model, processor = load_clip()

        def look(part: Tensor) -> Tensor:
            return embed_pictures(model, processor, part, device)

        name = CLIP.rpartition("/")[2]
        vectors = pictures.seen(look, name, report)
        if vectors.drawn is not None:
            score = clip_score(model, processor, vectors.drawn, prompts, device)
            found.figures.update({"clip_score": score, "clip_score_n": len(vectors.drawn)})
        compare(found, {"CMMD x 1000": by_gaussian}, name, vectors)
    except (MissingInput, BadInput) as error:
        found.missing.append(f"CMMD and the CLIP score are left out: {error}")
    return found


# ---------------------------------------------------------------- sets, by a kernel


def load_judge(network: str, device: torch.device) -> Features:
    """The network that KID sees with, by name; "auto" is Inception where that is here, else
    efficientnet-lite0. Raises UsageError, MissingInput or BadInput."""
    if network != "auto":
        return features.load(network, device)
    try:
        return features.load(AUTO[0], device)
    except (MissingInput, BadInput) as first:
        try:
            return features.load(AUTO[1], device)
        except (MissingInput, BadInput) as second:
            raise MissingInput(f"{first}; or for another network: {second}") from None


def _judge(network: str, device: torch.device, own: Features | None, found: Scores) -> Features:
    """The network of that name, or where there is none, `own`, of which a sentence tells."""
    try:
        return load_judge(network, device)
    except (MissingInput, BadInput) as error:
        if own is None or network != "auto":
            raise
        found.missing.append(
            "sets of pictures are compared by what the dataset's own judge of classes sees, so "
            "figures of other datasets are not comparable; no pretrained network is here: "
            f"{error}"
        )
        return own


def require(sets: Sets) -> None:
    """Raises MissingInput for sets that are too small to be compared."""
    if sets.least() < LEAST:
        raise MissingInput(f"it compares sets of {LEAST} pictures and more")


def compare(found: Scores, distances: Mapping[str, Distance], network: str, seen: Sets) -> None:
    """Add each distance, by its name, of each set from the real pictures, by what a network saw in
    them, all cut to the size of the smallest. Raises MissingInput for sets that are too small."""
    require(seen)
    n = seen.least()
    real, rebuilt = seen.real[:n], seen.rebuilt[:n]
    for figure, distance in distances.items():
        far = None if seen.drawn is None else distance(real, seen.drawn[:n])
        halves = None if figure == FID else distance(real[: n // 2], real[n // 2 :])
        near = distance(real, rebuilt)
        found.compared.append(Compared(figure, network, n, near, far, halves))


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of two sets of vectors (N, C) and (M, C), as if they were normal (Heusel et
    al. 2017, arXiv 1706.08500): |m - m'|² + tr(S + S' - 2 (S S')^½)."""
    a, b = a.double(), b.double()
    x, y = ((v - v.mean(0)) / max(len(v) - 1, 1) ** 0.5 for v in (a, b))  # S is x.T @ x
    # tr((S S')^½) is the sum of the singular values of x @ y.T, and of this, which is small
    roots = torch.linalg.svdvals(_triangle(x) @ _triangle(y).T).sum()
    spread = x.square().sum() + y.square().sum() - 2 * roots
    return float((a.mean(0) - b.mean(0)).square().sum() + spread)


def _triangle(x: Tensor) -> Tensor:
    """At most C rows with the same x.T @ x as x (N, C)."""
    return torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x


def mmd(
    kernel: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, *, paired: bool = True
) -> float:
    """Squared maximum mean discrepancy of two sets of vectors (N, C) and (M, C), without bias
    (Gretton et al. 2012, lemma 6): in the mean 0 for sets alike, so a little below it at times. In
    `paired` sets of one size vectors of one number are not compared: rebuilt pictures would gain
    from being compared with their own originals."""
    a, b = a.double(), b.double()

    def mean(x: Tensor, y: Tensor, without_pairs: bool) -> float:
        parts, count = torch.split(x, ROWS), len(x) * len(y)
        total = float(sum(kernel(part, y).sum() for part in parts))
        if without_pairs:
            both = zip(parts, torch.split(y, ROWS), strict=True)
            total -= float(sum(kernel(p, q).trace() for p, q in both))
            count -= len(x)
        return total / count

    return mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, paired and len(a) == len(b))


def cubic(a: Tensor, b: Tensor) -> Tensor:
    """KID's kernel (Bińkowski et al. 2018, arXiv 1801.01401): (N, C), (M, C) → (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def gaussian(a: Tensor, b: Tensor) -> Tensor:
    """CMMD's kernel (Jayasumana et al. 2023, arXiv 2401.09603): (N, C), (M, C) → (N, M)."""
    return torch.exp(-torch.cdist(a, b).square() / (2 * WIDTH**2))


def by_cubic(a: Tensor, b: Tensor) -> float:
    """KID x 1000."""
    return 1000 * mmd(cubic, a, b)


def by_gaussian(a: Tensor, b: Tensor) -> float:
    """CMMD x 1000."""
    return 1000 * mmd(gaussian, a, b)


# ---------------------------------------------------------------- CLIP


def load_clip() -> tuple[Any, Any]:
    """CLIP and its processor, from Hugging Face's folder of models. Raises MissingInput or
    BadInput."""
    again = f"`hf download {CLIP} --force-download`"
    try:
        from transformers import CLIPModel, CLIPProcessor
    except ImportError:
        raise MissingInput(f"they need transformers; {INSTALL}") from None
    try:
        local = {"local_files_only": True}
        model, info = CLIPModel.from_pretrained(
            CLIP, use_safetensors=True, output_loading_info=True, **local
        )
        processor = CLIPProcessor.from_pretrained(CLIP, **local)
    except OSError:
        raise MissingInput(f"CLIP's weights are not here; `hf download {CLIP}`") from None
    except DAMAGED as error:
        raise BadInput(f"CLIP's files are damaged; {again}") from error
    if info["missing_keys"]:  # transformers would draw them at random
        raise BadInput(f"CLIP's files lack {sorted(info['missing_keys'])[0]}; {again}")
    return model, processor


@torch.no_grad()
def embed_pictures(model: Any, processor: Any, pictures: Tensor, device: torch.device) -> Tensor:
    """What CLIP sees in pictures, uint8 (N, 3, P, P): vectors (N, C) of length 1."""
    model, seen = model.to(device).eval(), []
    for part in torch.split(pictures, BATCH):
        inputs = processor(images=list(part), return_tensors="pt").to(device)
        with devices.autocast(device, "fp32"):
            read = model.vision_model(pixel_values=inputs["pixel_values"]).pooler_output
            seen.append(nn.functional.normalize(model.visual_projection(read)).cpu())
    return torch.cat(seen)


@torch.no_grad()
def clip_score(
    model: Any, processor: Any, seen: Tensor, prompts: list[str], device: torch.device
) -> float:
    """100 times the mean cosine, at least 0 each, of pictures, as `embed_pictures` saw them, with
    their prompts (Hessel et al. 2021, arXiv 2104.08718)."""
    # torchmetrics' own (1.9) cannot read what transformers 5 returns
    cosines = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        inputs = processor(text=prompts[part], return_tensors="pt", padding=True, truncation=True)
        with devices.autocast(device, "fp32"):
            read = model.text_model(**inputs.to(device)).pooler_output
            meant = nn.functional.normalize(model.text_projection(read)).cpu()
        cosines.append((seen[part] * meant).sum(-1))
    return 100 * float(torch.cat(cosines).clamp(min=0).mean())
