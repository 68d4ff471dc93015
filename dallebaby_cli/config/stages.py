"""Everything a person can set: one frozen dataclass per stage; `data.py` has those of the stages
before the first training, `models.py` the models'.

The string below a field is its help. `settings.py` fills them from presets, files and flags.
Importing this file does not import torch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dallebaby_cli.config.bounds import (
    COUNT,
    LONGEST_S,
    SEED,
    Bounded,
    bounded,
    check,
    check_temperature,
)
from dallebaby_cli.config.data import CaptionConfig, FetchConfig, PrepConfig
from dallebaby_cli.config.models import ClassifierConfig, DVAEConfig, JudgeConfig, TransformerConfig

DEFAULT_HOME = Path("dallebaby")
MOST_STEPS = 1_000_000_000


# ---------------------------------------------------------------- training


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Bounded):
    """The optimizer; warm-up and cosine are fractions of the planned run."""

    section = "optim."

    lr: float = bounded(3e-4, gt=0, le=1_000_000_000)
    """peak learning rate, exactly as typed: nothing scales it"""
    muon: bool = True
    """Muon instead of AdamW for convolutions and the matrices inside a transformer's blocks"""
    betas: tuple[float, ...] = bounded((0.9, 0.99), ge=0, lt=1)
    """AdamW's averaging factors"""
    weight_decay: float = bounded(0.05, ge=0, le=1_000_000)
    """of matrices and convolution kernels; nothing else decays"""
    warmup_fraction: float = bounded(0.03, ge=0, le=1)
    """of the planned steps, from 0 up to lr"""
    final_lr_fraction: float = bounded(0.02, ge=0, le=1)
    """of lr, where the cosine ends"""
    clip_norm: float = bounded(1.0, gt=0)
    """largest norm of the whole gradient"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.betas) == 2, "optim.betas", self.betas, "needs two numbers")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Bounded):
    """What every training run has, whichever model it trains."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """the optimizer and its schedule"""
    steps: int | None = bounded(None, ge=1, le=MOST_STEPS)
    """optimizer steps of the whole run; wins over minutes"""
    minutes: float = bounded(60, gt=0, le=1_000_000)
    """plan the run to take so long, from the step time measured at its first start"""
    batch_size: int = bounded(128, ge=1, le=COUNT)
    """pictures a step"""
    accumulate: int = bounded(1, ge=1, le=COUNT)
    """parts that a batch is split into, to save memory; the result is the same"""
    ema_decay: float = bounded(0.999, ge=0, lt=1)
    """of the averaged weights, which are the ones that are kept"""
    eval_every: int = bounded(500, ge=1, le=COUNT)
    """steps between evaluations on the hold-out pictures"""
    eval_images: int = bounded(2000, ge=1, le=COUNT)
    """most hold-out pictures that an evaluation reads; the last one of a run reads all"""
    shard: bool = False
    """split the model among the processes of a run (FSDP2), where it does not fit one device"""
    save_every_s: float = bounded(15, ge=0, le=LONGEST_S)
    """seconds of training between checkpoints, at least: they take no more than 2 % of it; 0 saves
    after every step"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto is bf16 where the device has it natively, fp16 on GPUs with only that, else fp32"""
    seed: int = bounded(0, ge=0, le=SEED)
    """of initial weights, order of the pictures and dropout"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.batch_size % self.accumulate == 0,
            "accumulate",
            self.accumulate,
            f"must divide batch_size={self.batch_size}",
        )


@dataclass(frozen=True, kw_only=True)
class FinishConfig(Bounded):
    """The end of `train-vae`: the codes stay as they are, and the decoder learns to draw sharply
    from a discriminator that tells its pictures from real ones."""

    section = "finish."

    share: float | None = bounded(None, ge=0, le=1)
    """of the run's minutes; 0 leaves the decoder as pixels have taught it, null is 0.4 for
    photographs and 0 for drawings, whose flat areas pixels teach best"""
    matching: float = bounded(1.0, ge=0, le=1000)
    """how hard what the discriminator sees in real pictures pulls, beside 1 of the pixels"""
    weight: float = bounded(0.0, ge=0, le=1000)
    """how hard its judgement pulls (adversarial): crisper pictures, and grain in them"""
    perceptual: str | None = None
    """a pretrained network whose features pull, too: efficientnet-lite0, vgg16, timm:NAME …"""
    perceptual_weight: float = bounded(0.5, ge=0, le=1000)
    """how hard that network pulls, beside 1 of the pixels"""
    lr: float = bounded(2e-3, gt=0, le=1_000_000_000)
    """peak learning rate of the decoder"""
    discriminator_lr: float = bounded(2e-3, gt=0, le=1_000_000_000)
    """peak learning rate of the discriminator"""
    width: int = bounded(64, ge=8, le=16384)
    """channels of the discriminator's finest layer"""
    warmup: float = bounded(0.1, ge=0, lt=1)
    """share of the finish in which the discriminator learns and does not pull yet"""
    replaced: float = bounded(0.0, ge=0, lt=1)
    """largest share of a picture's codes that are replaced at random while the decoder learns, as
    a transformer's slips would"""
    most_db: float = bounded(1.5, ge=0, le=100)
    """PSNR that sharpness may cost; the decoder stays as it was where it costs more"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.width % 8 == 0, "finish.width", self.width, "must be a multiple of 8")


@dataclass(frozen=True, kw_only=True)
class TrainVaeConfig(RunConfig):
    """How `train-vae` trains."""

    model: DVAEConfig = field(default_factory=DVAEConfig)
    """the dVAE"""
    finish: FinishConfig = field(default_factory=FinishConfig)
    """how its decoder becomes sharp"""
    edge_weight: float = bounded(0.0, ge=0, le=1_000_000)
    """of the error along edges, beside that of pixels"""
    crop: float = bounded(1.0, ge=0.05, le=1)
    """smallest share of a picture's area that a random crop keeps; 1 crops nothing"""
    flip: bool = False
    """mirror half of the pictures; not where there is writing, or left and right matter"""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """How `train` trains."""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    """the transformer"""
    compile: bool = True
    """torch.compile, in runs of 5 minutes and more, if that makes their steps faster"""
    recompute: bool = False
    """compute each block twice, so that a step needs a part of the memory and about a third
    more time (activation checkpointing); the result is the same"""
    text_weight: float = bounded(0.125, ge=0, lt=1)
    """share of the caption's loss beside the picture's (1/8 in the DALL-E paper)"""
    caption_drop: float = bounded(0.1, ge=0, lt=1)
    """share of the captions left out, so that guidance has something to guide against"""
    random_order: float | None = bounded(None, ge=0, le=1)
    """share of the pictures that are learned in other orders of their codes through the first half
    of the run, each in its own, so that the model draws several at a time and around others; it
    falls to random_floor over the next quarter (RAR, arXiv 2411.00776). 0 is raster order alone;
    null is 0.25 for photographs (codes of several digits) and wherever --from knows other orders,
    and 0 for drawings"""
    random_floor: float = bounded(0.1, ge=0, le=1)
    """share of them that stays to the end of the run; no more than random_order"""
    early_stop: bool = True
    """where few pictures are seen again and again, keep the weights that did best on the hold-out
    ones, and end when those say that it memorises"""

    def __post_init__(self) -> None:
        super().__post_init__()
        learns = self.model.guided == 1 or self.caption_drop > 0
        check(learns, "caption_drop", 0, "must be above 0 where model.guided is not 1")


# ---------------------------------------------------------------- encode and generate


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(Bounded):
    """How pictures become codes."""

    batch_size: int = bounded(256, ge=1, le=COUNT)
    """views of pictures at a time; does not change the codes"""
    shard_pictures: int = bounded(8192, ge=1, le=COUNT)
    """pictures in a token shard: as many as a killed run does again at most"""
    views: int = bounded(0, ge=0, le=1000)
    """of each picture: as it is, its mirror, then random crops of it; `train` draws one each time.
    0 takes two, or where few pictures are to train on as many as make up to 24,000 of them, at most
    8; of drawn scenes one"""
    crop: float = bounded(0.7, ge=0.05, le=1)
    """smallest share of a picture's area that a crop keeps; 1 crops nothing"""
    flip: bool | None = None
    """mirror every second view, but for captions that speak of left, right or writing; null does so
    where views=0 takes several"""
    seed: int = bounded(0, ge=0, le=SEED)
    """of the further views; each picture has its own from it"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.views in (0, 1) or self.crop < 1 or (self.flip is True and self.views == 2),
            "views",
            self.views,
            "would be the same; take crop below 1, or views=2 flip=true",
        )


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Bounded):
    """How pictures are drawn."""

    guidance: float = bounded(3.0, ge=0, le=100)
    """how hard the caption pulls; 1 is none"""
    guidance_ramp: float = bounded(0.0, ge=0, le=1)
    """share of the picture over which guidance rises from 1 to its value; 0 is constant"""
    guidance_power: float = bounded(0.0, ge=0, le=100)
    """guidance rises from 1 along half a cosine over the whole picture, the later the higher this
    is; 0 is constant, or as guidance_ramp says"""
    guidance_interval: tuple[float, ...] = bounded((0.0, 1.0), ge=0, le=1)
    """shares of the picture between which the caption pulls; outside guidance is 1"""
    temperature: float = bounded(1.0, ge=0, le=10)
    """below 1 safer, above 1 wilder; 0 always takes the likeliest code"""
    top_k: int = bounded(0, ge=0, le=COUNT)
    """choose among the k likeliest codes; 0 is all. Of codes in digits, for each digit, as top_p"""
    top_p: float = bounded(1.0, gt=0, le=1)
    """choose among the likeliest codes that hold so much of the probability"""
    steps: int | None = bounded(None, ge=1, le=COUNT)
    """passes that draw a picture, several codes each, of models that learned with random_order;
    null is raster order, a code a pass"""
    order: Literal["auto", "diagonal", "halton", "confidence", "raster"] = "auto"
    """in which order such passes draw codes: in all rows at once, each behind the one above, from
    two corners where passes are few; far apart; of these the surest; row by row. auto is diagonal,
    but halton where there are fewer passes than rows"""
    batch_size: int | None = bounded(None, ge=1, le=COUNT)
    """pictures drawn at a time, which does not change them; null is as many as pay and fit"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)
        both = self.guidance_ramp and self.guidance_power
        check(not both, "guidance_power", self.guidance_power, "is one rise, guidance_ramp another")
        between = self.guidance_interval
        ordered = len(between) == 2 and between[0] < between[1]
        check(ordered, "guidance_interval", between, "needs two numbers, the lower one first")


# ---------------------------------------------------------------- evaluate


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig(RunConfig):
    """How `evaluate` trains the classifier that reads drawn scenes. Its length is in steps, so
    that the judge is the same on a slow machine."""

    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    """the classifier"""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-3))
    """the optimizer and its schedule"""
    steps: int | None = bounded(1000, ge=1, le=MOST_STEPS)
    """optimizer steps of the whole run"""
    batch_size: int = bounded(64, ge=1, le=COUNT)
    """pictures a step"""
    ema_decay: float = bounded(0.99, ge=0, lt=1)
    """of the averaged weights, which are the ones that are kept"""


@dataclass(frozen=True, kw_only=True)
class TrainJudgeConfig(RunConfig):
    """How `evaluate` trains the classifier that reads classes, once for a dataset with labels. Its
    length is in steps, so that the judge is the same on a slow machine."""

    model: JudgeConfig = field(default_factory=JudgeConfig)
    """the classifier"""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-3))
    """the optimizer and its schedule"""
    steps: int | None = bounded(1000, ge=1, le=MOST_STEPS)
    """optimizer steps of the whole run: at 32 px two minutes of one core"""
    batch_size: int = bounded(64, ge=1, le=COUNT)
    """pictures a step"""
    ema_decay: float = bounded(0.98, ge=0, lt=1)
    """of the averaged weights, which are the ones that are kept"""
    crop: float = bounded(0.7, ge=0.05, le=1)
    """smallest share of a picture's area that it is shown; 1 crops nothing"""
    flip: bool = True
    """mirror half of the pictures, but of classes whose names speak of left, right or writing; not
    where others differ in left and right"""
    softened: float = bounded(0.5, ge=0, le=1)
    """share of the pictures that are blurred and made noisy, as those are that a dVAE paints"""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Bounded):
    """How a finished transformer is judged."""

    pictures: int = bounded(500, ge=1, le=COUNT)
    """drawn for each row of a table: hold-out captions, classes; of scenes seen pairs, held-out
    pairs, two things"""
    holdout_pictures: int = bounded(2000, ge=1, le=COUNT)
    """most hold-out pictures that are read"""
    near_pictures: int = bounded(1000, ge=1, le=COUNT)
    """training pictures that a network looks at, to find those nearest to what is drawn, beside
    those nearest by their codes; by codes all are compared"""
    seed: int = bounded(0, ge=0, le=SEED)
    """of the pictures that are drawn, and of what is asked for"""
    kid_network: str = "auto"
    """network that KID sees with: inception, efficientnet-lite0, vgg16 or another of torchvision,
    timm:NAME; auto is inception where its weights are, else efficientnet-lite0"""
    sampling: SampleConfig = field(default_factory=SampleConfig)
    """how they are drawn"""
    classifier: TrainClassifierConfig = field(default_factory=TrainClassifierConfig)
    """how the classifier that reads drawn scenes is trained"""
    judge: TrainJudgeConfig = field(default_factory=TrainJudgeConfig)
    """how the classifier is trained that reads the classes of a dataset with labels"""
    retrieved: int = bounded(32, ge=0, le=COUNT)
    """drawn pictures, and as many real ones, for which the model looks for their caption among 100;
    0 leaves it out"""


@dataclass(frozen=True, kw_only=True)
class DescribeConfig(Bounded):
    """How captions are found for pictures."""

    captions: int = bounded(500, ge=2, le=COUNT)
    """captions that are tried: of those that the model learned from, the most frequent ones"""
    batch_size: int | None = bounded(None, ge=1, le=COUNT)
    """pairs of a picture and a caption that are scored at a time; null is as many as pay and fit"""


SECTIONS: dict[str, type] = {
    "fetch": FetchConfig,
    "prep": PrepConfig,
    "caption": CaptionConfig,
    "train-vae": TrainVaeConfig,
    "encode": EncodeConfig,
    "train": TrainConfig,
    "generate": SampleConfig,
    "evaluate": EvaluateConfig,
    "describe": DescribeConfig,
}
"""The section of a YAML file that each command reads."""
