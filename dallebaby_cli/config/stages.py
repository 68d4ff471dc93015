"""Everything a person can set: one frozen dataclass per stage; `models.py` has the models'.

The string below a field is its help. `settings.py` fills them from presets, files and flags.
Importing this file does not import torch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dallebaby_cli.config.models import ClassifierConfig, DVAEConfig, TransformerConfig, check

DEFAULT_HOME = Path("dallebaby")

CaptionsFrom = Literal["auto", "files", "folders", "both"]


# ---------------------------------------------------------------- fetch and prep


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """How datasets are downloaded."""

    timeout_s: float = 600
    """give up after so many seconds without progress"""
    mirror_after_s: float = 60
    """turn to a mirror after so many seconds in which BitTorrent brought nothing"""
    listen: str = "0.0.0.0:6881,[::]:6881"
    """addresses the BitTorrent client listens on; port 0 lets the system choose one"""
    max_down_mb_s: float = 0
    """download limit in MB/s; 0 is none"""
    max_up_mb_s: float = 0
    """upload limit in MB/s; 0 is none"""
    seed_minutes: float = 0
    """go on giving to others for so long after the download is complete"""
    dht: bool = True
    """find peers through the distributed hash table too"""
    local_discovery: bool = True
    """find peers on the local network too"""

    def __post_init__(self) -> None:
        for name in ("timeout_s", "mirror_after_s"):
            check(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        for name in ("max_down_mb_s", "max_up_mb_s", "seed_minutes"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")


@dataclass(frozen=True, kw_only=True)
class PrepConfig:
    """How raw pictures become shards."""

    image_px: int = 64
    """side of the square pictures in pixels"""
    fit: Literal["crop", "pad"] = "crop"
    """keep the centre of the longer side, or all of it with white around"""
    encoding: Literal["png", "jpeg", "webp"] = "png"
    """how pictures are stored; png is lossless"""
    quality: int = 95
    """of jpeg and webp"""
    holdout_percent: float = 5
    """share of the pictures kept out of training where the dataset has no split of its own"""
    shard_mb: float = 100
    """size of a shard"""
    captions_from: CaptionsFrom = "auto"
    """of pictures of no known dataset: files beside them and lists such as metadata.jsonl, the
    names of their folders, or folders where there are no files; auto is files, or both where less
    than half of the pictures have any"""
    limit: int | None = None
    """take the first so many accepted pictures, in sorted path order; `scenes` draws 20000"""
    workers: int = 0
    """processes that decode; 0 is one a core"""
    where: str = "local"
    """local, or a Ray cluster: ray, ray:auto or ray:HOST:PORT"""
    near_duplicates: bool = True
    """find pictures that are nearly the same (not among drawn ones) and keep them on one side of
    the split"""
    seed: int = 0
    """of the pictures that `scenes` draws"""

    def __post_init__(self) -> None:
        check(8 <= self.image_px <= 1024, "image_px", self.image_px, "must be from 8 to 1024")
        check(1 <= self.quality <= 100, "quality", self.quality, "must be from 1 to 100")
        check(
            0 < self.holdout_percent <= 50,
            "holdout_percent",
            self.holdout_percent,
            "must be above 0 and at most 50",
        )
        check(self.shard_mb > 0, "shard_mb", self.shard_mb, "must be above 0")
        check(self.limit is None or self.limit >= 1, "limit", self.limit, "must be 1 or more")
        check(self.workers >= 0, "workers", self.workers, "must not be negative")


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """How pretrained models write captions."""

    each: int = 2
    """drafts for each picture; those that repeat or lost the label are dropped"""
    temperature: float = 0.8
    """below 1 safer, above 1 wilder; 0 always takes the likeliest word"""
    top_p: float = 0.9
    """choose among the likeliest tokens that hold so much of the probability"""
    max_tokens: int = 32
    """longest draft, in the model's tokens"""
    seed: int = 0
    """of the drafts; each picture has its own from it"""
    batch_size: int = 32
    """drafts written at a time; does not change them"""
    unit_pictures: int = 512
    """pictures captioned in one go: as many as a killed run does again at most"""
    where: str = "local"
    """local, or a Ray cluster: ray, ray:auto or ray:HOST:PORT"""

    def __post_init__(self) -> None:
        for name in ("each", "max_tokens", "batch_size", "unit_pictures"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "must be 1 or more")
        check(0 <= self.temperature <= 10, "temperature", self.temperature, "must be 0 to 10")
        check(0 < self.top_p <= 1, "top_p", self.top_p, "must be above 0 and at most 1")
        check(
            self.each == 1 or self.temperature > 0,
            "temperature",
            self.temperature,
            f"writes {self.each} times the same; take each=1",
        )


# ---------------------------------------------------------------- training


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer; warm-up and cosine are fractions of the planned run."""

    lr: float = 3e-4
    """peak learning rate, exactly as typed: nothing scales it"""
    muon: bool = True
    """Muon instead of AdamW for convolutions and the matrices inside a transformer's blocks"""
    betas: tuple[float, ...] = (0.9, 0.99)
    """AdamW's averaging factors"""
    weight_decay: float = 0.05
    """of matrices and convolution kernels; nothing else decays"""
    warmup_fraction: float = 0.03
    """of the planned steps, from 0 up to lr"""
    final_lr_fraction: float = 0.02
    """of lr, where the cosine ends"""
    clip_norm: float = 1.0
    """largest norm of the whole gradient"""

    def __post_init__(self) -> None:
        check(self.lr > 0, "optim.lr", self.lr, "must be above 0")
        check(len(self.betas) == 2, "optim.betas", self.betas, "needs two numbers")
        check(all(0 <= b < 1 for b in self.betas), "optim.betas", self.betas, "must be in [0, 1)")
        check(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "is negative")
        check(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "must be above 0")
        for name in ("warmup_fraction", "final_lr_fraction"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"optim.{name}", value, "must be from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every training run has, whichever model it trains."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """the optimizer and its schedule"""
    steps: int | None = None
    """optimizer steps of the whole run; wins over minutes"""
    minutes: float = 60
    """plan the run to take so long, from the step time measured at its first start"""
    batch_size: int = 128
    """pictures a step"""
    accumulate: int = 1
    """parts that a batch is split into, to save memory; the result is the same"""
    ema_decay: float = 0.999
    """of the averaged weights, which are the ones that are kept"""
    eval_every: int = 500
    """steps between evaluations on the hold-out pictures"""
    eval_images: int = 2000
    """most hold-out pictures that an evaluation reads; the last one of a run reads all"""
    shard: bool = False
    """split the model among the processes of a run (FSDP2), where it does not fit one device"""
    save_every_s: float = 15
    """seconds of training between checkpoints"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 where the device has it natively, else fp32"""
    seed: int = 0
    """of initial weights, order of the pictures and dropout"""

    def __post_init__(self) -> None:
        check(self.steps is None or self.steps >= 1, "steps", self.steps, "must be 1 or more")
        check(0 < self.minutes <= 1e6, "minutes", self.minutes, "must be above 0, at most 1e6")
        check(0 <= self.seed < 2**63, "seed", self.seed, "must be from 0 to below 2**63")
        check(self.batch_size >= 1, "batch_size", self.batch_size, "must be 1 or more")
        check(
            self.accumulate >= 1 and self.batch_size % self.accumulate == 0,
            "accumulate",
            self.accumulate,
            f"must divide batch_size={self.batch_size}",
        )
        check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "must be from 0 to below 1")
        check(self.eval_every >= 1, "eval_every", self.eval_every, "must be 1 or more")
        check(self.eval_images >= 1, "eval_images", self.eval_images, "must be 1 or more")
        check(self.save_every_s >= 0, "save_every_s", self.save_every_s, "must not be negative")


@dataclass(frozen=True, kw_only=True)
class TrainVaeConfig(RunConfig):
    """How `train-vae` trains."""

    model: DVAEConfig = field(default_factory=DVAEConfig)
    """the dVAE"""
    edge_weight: float = 0.0
    """of the error along edges, beside that of pixels"""
    crop: float = 1.0
    """smallest share of a picture's area that a random crop keeps; 1 crops nothing"""
    flip: bool = False
    """mirror half of the pictures; not where there is writing, or left and right matter"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.edge_weight >= 0, "edge_weight", self.edge_weight, "must not be negative")
        check(0.05 <= self.crop <= 1, "crop", self.crop, "must be from 0.05 to 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """How `train` trains."""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    """the transformer"""
    compile: bool = True
    """torch.compile, in runs of 5 minutes and more, if that makes their steps faster"""
    text_weight: float = 0.125
    """share of the caption's loss beside the picture's (1/8 in the DALL-E paper)"""
    caption_drop: float = 0.1
    """share of the captions left out, so that guidance has something to guide against"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.text_weight < 1, "text_weight", self.text_weight, "must be in [0, 1)")
        check(0 <= self.caption_drop < 1, "caption_drop", self.caption_drop, "must be in [0, 1)")


# ---------------------------------------------------------------- encode and generate


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """How pictures become codes."""

    batch_size: int = 256
    """pictures at a time; does not change the codes"""
    shard_pictures: int = 8192
    """pictures in a token shard: as many as a killed run does again at most"""
    views: int = 1
    """of each picture: as it is, then random crops of it; `train` draws one each time"""
    crop: float = 0.7
    """smallest share of a picture's area that a further view keeps; 1 crops nothing"""
    flip: bool = False
    """mirror half of the further views; not where there is writing, or left and right matter"""
    seed: int = 0
    """of the further views; each picture has its own from it"""

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard_pictures", "views"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "must be 1 or more")
        check(0.05 <= self.crop <= 1, "crop", self.crop, "must be from 0.05 to 1")
        check(
            self.views == 1 or self.crop < 1 or self.flip,
            "views",
            self.views,
            "would all be the same; take crop below 1, or flip=true",
        )


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How pictures are drawn."""

    guidance: float = 3.0
    """how hard the caption pulls; 1 is none"""
    guidance_ramp: float = 0.0
    """share of the picture over which guidance rises from 1 to its value; 0 is constant"""
    temperature: float = 1.0
    """below 1 safer, above 1 wilder; 0 always takes the likeliest code"""
    top_k: int = 0
    """choose among the k likeliest codes; 0 is all"""
    top_p: float = 1.0
    """choose among the likeliest codes that hold so much of the probability"""
    batch_size: int = 32
    """pictures drawn at a time; does not change them"""

    def __post_init__(self) -> None:
        check(0 <= self.guidance <= 100, "guidance", self.guidance, "must be from 0 to 100")
        check(0 <= self.guidance_ramp <= 1, "guidance_ramp", self.guidance_ramp, "must be 0 to 1")
        check(0 <= self.temperature <= 10, "temperature", self.temperature, "must be 0 to 10")
        check(self.top_k >= 0, "top_k", self.top_k, "must not be negative")
        check(0 < self.top_p <= 1, "top_p", self.top_p, "must be above 0 and at most 1")
        check(self.batch_size >= 1, "batch_size", self.batch_size, "must be 1 or more")


# ---------------------------------------------------------------- evaluate


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig(RunConfig):
    """How `evaluate` trains the classifier that reads drawn scenes. Its length is in steps, so
    that the judge is the same on a slow machine."""

    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    """the classifier"""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-3))
    """the optimizer and its schedule"""
    steps: int | None = 1000
    """optimizer steps of the whole run"""
    batch_size: int = 64
    """pictures a step"""
    ema_decay: float = 0.99
    """of the averaged weights, which are the ones that are kept"""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How a finished transformer is judged."""

    pictures: int = 500
    """drawn for each row of a table: hold-out captions, seen pairs, held-out pairs, two things"""
    holdout_pictures: int = 2000
    """most hold-out pictures that are read"""
    seed: int = 0
    """of the pictures that are drawn, and of what is asked for"""
    sampling: SampleConfig = field(default_factory=SampleConfig)
    """how they are drawn"""
    classifier: TrainClassifierConfig = field(default_factory=TrainClassifierConfig)
    """how the classifier that reads drawn scenes is trained"""

    def __post_init__(self) -> None:
        for name in ("pictures", "holdout_pictures"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "must be 1 or more")


SECTIONS: dict[str, type] = {
    "fetch": FetchConfig,
    "prep": PrepConfig,
    "caption": CaptionConfig,
    "train-vae": TrainVaeConfig,
    "encode": EncodeConfig,
    "train": TrainConfig,
    "generate": SampleConfig,
    "evaluate": EvaluateConfig,
}
"""The section of a YAML file that each command reads."""
