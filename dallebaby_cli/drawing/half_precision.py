"""Linear layers with weights in half precision, for drawing: there few rows meet many weights, and
the machine waits for the weights to come out of memory."""

import torch
from torch import Tensor, nn

from dallebaby_cli.models import device as devices


class HalfLinear(nn.Module):
    """A linear layer without bias, its weights kept in fp16 and multiplied in fp32 (FBGEMM)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.nbytes = 2 * linear.weight.numel()
        self.packed = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), None)

    @property
    def weight(self) -> Tensor:
        """The weights (out, in) in fp32, as a loss reads those of a head."""
        weight: Tensor = torch.ops.quantized.linear_unpack_fp16(self.packed)[0]
        return weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.packed)
        return y


def halve(model: nn.Module, device: torch.device) -> None:
    """Keep the weights of all linear layers in half as many bytes: in those that `autocast` would
    cast them to anyway at every step, or in fp16 on other CPUs that FBGEMM knows."""
    half = devices.HALVES.get(devices.resolve_precision(device, "auto"))
    fp16 = device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and half:
                layer.to(half)
            elif isinstance(layer, nn.Linear) and fp16 and layer.bias is None:
                setattr(parent, name, HalfLinear(layer))
