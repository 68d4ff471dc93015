"""The classifier that says of which class a picture is: a small ResNet after He et al. 2015 (arXiv
1512.03385), whose first convolution sees every pixel.

Shapes: B pictures, P pixels along a side, D features, C classes.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from dallebaby_cli.config import JudgeConfig
from dallebaby_cli.models.pictures import to_float

LAST = 4  # about so many places along a side at the end
STEM = 16  # channels before the first width


class LabelClassifier(nn.Module):
    """uint8 (B, 3, P, P) → logits (B, C)

    Weights begin as torch's layers do. It halves the picture until a side has 4 to 7 places, the
    last times where the channels become more.
    """

    def __init__(self, config: JudgeConfig, classes: int) -> None:
        super().__init__()
        self.config, widths = config, config.widths
        halvings = max(config.image_px // LAST, 1).bit_length() - 1
        layers: list[nn.Module] = [nn.Conv2d(3, STEM, 3, padding=1)]
        for _ in range(halvings - len(widths)):
            layers += [nn.ReLU(), _conv(STEM, STEM, 2)]
        for place, (before, here) in enumerate(zip((STEM, *widths), widths, strict=False)):
            stride = 2 if len(widths) - place <= halvings else 1
            layers += [nn.ReLU(), _conv(before, here, stride), nn.BatchNorm2d(here)]
            layers += [Residual(here) for _ in range(config.depth)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Read pictures; refuses anything but uint8 (B, 3, P, P) with a sentence."""
        return self.head(self.features(pictures))

    def features(self, pictures: Tensor) -> Tensor:
        """What it sees in pictures, uint8 (B, 3, P, P) → (B, D)."""
        x = to_float(pictures, self.config.image_px) / 64 - 2
        return self.body(x)


class Residual(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x))))))"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def _conv(before: int, after: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)
