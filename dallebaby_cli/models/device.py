"""Where tensors live and how precisely they are computed."""

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import Tensor, nn

from dallebaby_cli.errors import UsageError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FP16_FROM = (7, 0)  # compute capability: V100 and T4 have units for it, older GPUs are slow in it

GROUP = Path("/sys/fs/cgroup")
LIMITS = (GROUP / "memory.max", GROUP / "memory" / "memory.limit_in_bytes")  # Linux, new and old


def resolve(name: str) -> torch.device:
    """The device called `name`; auto is cuda, then mps, then cpu. Raises UsageError. From then on
    fp32 is fp32 there: cuDNN's own choice is TF32, whose codes would differ from a CPU's."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, here in available.items() if here)
    kind = name.partition(":")[0]
    if kind not in available:
        raise UsageError(f"--device {name}: must be auto, cuda, mps or cpu")
    if not available[kind]:
        raise UsageError(f"--device {name}: this machine (or its torch) has none; use --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"--device {name}: no such device; cpu, cuda, cuda:1 and mps are"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: torch finds {torch.cuda.device_count()} such here")
    return device


def default_preset(name: str) -> str:
    """The preset for people who name none: small enough to train where there is no GPU."""
    return "scenes" if resolve(name).type == "cpu" else "baby-64"


def native_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is fast there; emulated, it is many times slower than fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def native_fp16(device: torch.device) -> bool:
    """Whether fp16 arithmetic is fast there, for want of bf16."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP16_FROM


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """A context in which matrix products and convolutions run in the wanted precision, whatever
    they do around it."""
    half = HALVES.get(resolve_precision(device, precision))
    return torch.autocast(device.type, dtype=half, enabled=half is not None)


def resolve_precision(device: torch.device, precision: Precision) -> Precision:
    """What `autocast` makes of it: fp32, bf16, or fp16 where a GPU is fast in that alone."""
    if precision == "auto":
        return "bf16" if native_bf16(device) else "fp16" if native_fp16(device) else "fp32"
    return precision


def runs_ahead(device: torch.device) -> bool:
    """Whether it works through what it is given while the host goes on."""
    return device.type == "cuda"


def fetch(numbers: Tensor) -> Callable[[], list[float]]:
    """Begin to bring numbers (N,) to the host. What is returned waits for them, and not for what
    the device has been given to do since."""
    there = numbers.to("cpu", non_blocking=numbers.is_cuda)
    if not numbers.is_cuda:
        return there.tolist
    arrived = torch.cuda.current_stream(numbers.device).record_event()

    def read() -> list[float]:
        arrived.synchronize()
        return there.tolist()

    return read


@contextmanager
def tf32() -> Iterator[None]:
    """Let a GPU multiply fp32 matrices with 10 bits of each number, many times as fast, while the
    block runs; elsewhere nothing changes."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def compile(model: nn.Module) -> None:
    """torch.compile a model that is only ever given batches of one shape: in this process alone, so
    that nothing is left behind when it is killed, and without talking. Where there is no compiler,
    the first forward or backward pass raises RuntimeError."""
    from torch._inductor import config  # takes a second

    config.compile_threads = 1
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    model.compile(dynamic=False)


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile works there, by trying it: it takes seconds."""
    model = nn.Identity().to(device)
    model.forward = lambda input: input.sin() + 1  # type: ignore[method-assign]
    logging.getLogger("torch._dynamo").setLevel(logging.CRITICAL)
    logging.getLogger("torch._inductor").setLevel(logging.CRITICAL)
    try:
        compile(model)
        model(torch.ones(8, device=device))
    except (RuntimeError, ImportError, OSError):
        return False
    return True


def describe(device: torch.device) -> str:
    """What it is, in a few words."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else "mps"


def memory_bytes(device: torch.device) -> int:
    """All the memory that it has, or that this process may have of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return min([psutil.virtual_memory().total, *_limits()])


def _limits() -> Iterator[int]:
    """What a container, in which this may run, lets it have of the machine's memory."""
    for file in LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it says "max"
            yield int(file.read_text(encoding="ascii"))


def free_bytes(device: torch.device) -> int:
    """The part of its memory that is free now."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    there = psutil.virtual_memory().available
    return min(there, memory_bytes(device))


def free_cached() -> None:
    """Give memory of GPUs back that torch keeps for later."""
    gc.collect()  # what an error's traceback held on to
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_bytes(device: torch.device) -> int:
    """Most of its memory that this process has had in use at a time."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
