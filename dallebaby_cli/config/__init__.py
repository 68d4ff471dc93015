"""Everything a person can set, and how it is filled. Importing this does not import torch."""

from dallebaby_cli.config.data import CaptionConfig as CaptionConfig
from dallebaby_cli.config.data import CaptionsFrom as CaptionsFrom
from dallebaby_cli.config.data import FetchConfig as FetchConfig
from dallebaby_cli.config.data import PrepConfig as PrepConfig
from dallebaby_cli.config.models import ClassifierConfig as ClassifierConfig
from dallebaby_cli.config.models import DVAEConfig as DVAEConfig
from dallebaby_cli.config.models import JudgeConfig as JudgeConfig
from dallebaby_cli.config.models import PixelLoss as PixelLoss
from dallebaby_cli.config.models import TransformerConfig as TransformerConfig
from dallebaby_cli.config.models import usual_digits as usual_digits
from dallebaby_cli.config.models import usual_grid as usual_grid
from dallebaby_cli.config.models import usual_levels as usual_levels
from dallebaby_cli.config.models import usual_numbers as usual_numbers
from dallebaby_cli.config.stages import DEFAULT_HOME as DEFAULT_HOME
from dallebaby_cli.config.stages import SECTIONS as SECTIONS
from dallebaby_cli.config.stages import DescribeConfig as DescribeConfig
from dallebaby_cli.config.stages import EncodeConfig as EncodeConfig
from dallebaby_cli.config.stages import EvaluateConfig as EvaluateConfig
from dallebaby_cli.config.stages import FinishConfig as FinishConfig
from dallebaby_cli.config.stages import OptimConfig as OptimConfig
from dallebaby_cli.config.stages import RunConfig as RunConfig
from dallebaby_cli.config.stages import SampleConfig as SampleConfig
from dallebaby_cli.config.stages import TrainClassifierConfig as TrainClassifierConfig
from dallebaby_cli.config.stages import TrainConfig as TrainConfig
from dallebaby_cli.config.stages import TrainJudgeConfig as TrainJudgeConfig
from dallebaby_cli.config.stages import TrainVaeConfig as TrainVaeConfig
