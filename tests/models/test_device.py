"""Which device, and how precisely it computes."""

import torch

from dallebaby_cli.models import device


def test_fp32_is_fp32_from_the_moment_a_device_is_chosen() -> None:
    """cuDNN's own choice is TF32, which has 10 bits where fp32 has 23."""
    kinds = torch.backends.cudnn, torch.backends.cuda.matmul
    for kind in kinds:
        kind.allow_tf32 = True
    device.resolve("cpu")
    assert not any(kind.allow_tf32 for kind in kinds)
