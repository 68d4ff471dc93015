"""Pretrained models that write captions, through Hugging Face transformers (extra `caption`).

A language model (GPT-2, say) puts into other words what a picture shows; a captioner (BLIP, say)
looks at it. Drafts are sampled by adding Gumbel noise to the logits and taking the largest: each
draft has noise of its own, so it does not matter which others are written beside it. Weights are
safetensors only, and no model brings its own code.
"""

import errno
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dallebaby_cli import files
from dallebaby_cli.config import CaptionConfig
from dallebaby_cli.errors import BadInput, Interrupted, MissingInput
from dallebaby_cli.models import device as devices
from dallebaby_cli.text import one_line

FILES = ("*.safetensors", "*.json", "*.txt", "*.model")  # all that a model may consist of
LOOKING = ("blip", "blip-2", "git", "vision-encoder-decoder")  # kinds that need no instruction
EXAMPLES = """\
What a photo shows, and a caption for it that says the same in a fuller sentence.
a dog: a brown dog runs across the wet grass of a park
two buses: two red buses wait at the corner of a busy street
an apple pie: a slice of an apple pie lies on a white plate
"""


@dataclass(frozen=True)
class Pretrained:
    """A model that was found, and can be loaded."""

    name: str
    folder: Path
    id: str
    """hash of its files"""
    looks: bool
    """whether it captions pictures; else it rewrites"""


@dataclass(frozen=True)
class Captioner:
    """A model with what turns words and pictures into its inputs and back."""

    model: Any
    tokenizer: Any
    images: Any
    """None if the model does not look at pictures"""

    @torch.no_grad()
    def look(
        self, pictures: Sequence[np.ndarray], seeds: Sequence[str], config: CaptionConfig
    ) -> list[str]:
        """A draft for each picture, uint8 RGB (H, W, 3), and seed."""
        copies = [picture.copy() for picture in pictures]  # writable, as torch wants them
        inputs = self.images(images=copies, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device)
        written = self.model.generate(pixel_values=pixels, **_choosing(seeds, config))
        return [text.strip() for text in self._words(written)]

    @torch.no_grad()
    def rewrite(
        self, subjects: Sequence[str], seeds: Sequence[str], config: CaptionConfig
    ) -> list[str]:
        """A draft for each subject, such as "a red car", and seed."""
        prompts = [f"{EXAMPLES}{subject}:" for subject in subjects]
        inputs = self.tokenizer(prompts, padding=True, return_tensors="pt").to(self.model.device)
        length = inputs["input_ids"].shape[1]
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and length + config.max_tokens > most:
            raise BadInput(
                f"the model reads {most} tokens at most, and a prompt of {length} with "
                f"max_tokens={config.max_tokens} is longer; take a model with a longer context"
            )
        written = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],  # the padding is on the left
            eos_token_id=self._ends(),
            pad_token_id=self.tokenizer.pad_token_id,
            **_choosing(seeds, config),
        )
        return [text.split("\n")[0].strip() for text in self._words(written[:, length:])]

    def _words(self, ids: Tensor) -> list[str]:
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _ends(self) -> list[int]:
        """Tokens that end a draft: the model's own, and the end of the line."""
        own = self.model.generation_config.eos_token_id
        own = own if isinstance(own, list) else [own]
        line = self.tokenizer.encode("\n", add_special_tokens=False)[-1:]
        return [token for token in (*own, *line) if token is not None]


class _Noise:
    """Gumbel noise for logits (B, V), a row for each seed: the largest sum is a fair draw."""

    def __init__(self, seeds: Sequence[str]) -> None:
        self.generators = [torch.Generator().manual_seed(_number(seed)) for seed in seeds]

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        size = logits.shape[-1]
        drawn = [torch.empty(size).exponential_(generator=g) for g in self.generators]
        return logits - torch.stack(drawn).clamp_min(1e-20).log().to(logits.device)


def _number(seed: str) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") >> 1


def _choosing(seeds: Sequence[str], config: CaptionConfig) -> dict[str, Any]:
    """How `generate` chooses tokens, whatever the model's own folder says."""
    transformers = _transformers()
    steps: list[Any] = []
    if config.temperature:
        steps = [
            transformers.TemperatureLogitsWarper(config.temperature),
            transformers.TopPLogitsWarper(config.top_p),
            _Noise(seeds),
        ]
    return {
        "max_new_tokens": config.max_tokens,
        "do_sample": False,
        "num_beams": 1,
        "logits_processor": transformers.LogitsProcessorList(steps),
    }


def find(model: str) -> Pretrained:
    """The model of a local folder, or of a hub id, which is downloaded unless it is here already.

    Raises MissingInput or BadInput.
    """
    local = Path(model).expanduser()
    folder = local if local.is_dir() else _download(model)
    name = folder.resolve().name if local.is_dir() else model
    found = [path for pattern in FILES for path in folder.glob(pattern)]
    if not any(path.suffix == ".safetensors" for path in found):
        raise BadInput(
            f"{model} holds no .safetensors weights (others are pickles, which could run any "
            "program, and are not opened); take a model that does, or convert it"
        )
    digest = files.hash_of(f"{path.name} {files.sha256_file(path)}" for path in sorted(found))
    _check_depth(model, folder)
    return Pretrained(name, folder, digest, _looks(model, folder))


def _check_depth(model: str, folder: Path) -> None:
    """Raise BadInput if config.json asks for more layers than there are weights for: whoever builds
    them runs out of memory before that shows."""
    try:
        described = files.read_json(folder / "config.json", "get that model again")
        tensors = 0
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as opened:
                tensors += len(opened.keys())
    except (FileNotFoundError, SafetensorError, OSError) as error:
        raise _unusable(model, error) from error
    layers = max(_layers(described))
    if layers > tensors:
        raise BadInput(
            f"{model} cannot be loaded: its config.json asks for {layers:,} layers, and its "
            f"weights are {tensors:,} tensors; get it again"
        )


def _layers(described: dict[str, Any]) -> Iterator[float]:
    """Every number of layers in a description and in those inside it, and 0."""
    yield 0
    for name, value in described.items():
        if isinstance(value, dict):
            yield from _layers(value)
        elif "layer" in name or "depth" in name:
            numbers = value if isinstance(value, list) else [value]
            yield from (number for number in numbers if type(number) in (int, float))


def load(found: Pretrained, device: str) -> Captioner:
    """Load a model in fp32. Raises BadInput if its files do not make one."""
    transformers = _transformers()
    auto = transformers.AutoModelForCausalLM
    if found.looks:
        auto = transformers.AutoModelForImageTextToText
    target = devices.resolve(device)
    here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, info = auto.from_pretrained(
            found.folder,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **here,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(found.folder, **here)
        images = None
        if found.looks:
            images = transformers.AutoImageProcessor.from_pretrained(found.folder, **here)
    except (KeyboardInterrupt, SystemExit, Interrupted):
        raise
    except BaseException as error:  # damaged folders fail in many ways; tokenizers panic
        raise _unusable(str(found.folder), error) from error
    if missing := [key for key in info["missing_keys"] if ".pooler." not in key]:  # never used
        raise BadInput(f"{found.folder} lacks weights, {sorted(missing)[0]} among them")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Captioner(model.to(target).eval(), tokenizer, images)


def _looks(model: str, folder: Path) -> bool:
    transformers = _transformers()
    try:
        kind = type(transformers.AutoConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # as in `load`
        raise _unusable(model, error) from error
    if kind.model_type in LOOKING or kind in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return kind.model_type in LOOKING
    raise BadInput(
        f"{model} is neither a causal language model nor a captioner ({', '.join(LOOKING)}), but "
        f"{kind.model_type}"
    )


def _unusable(model: str, error: BaseException) -> BadInput:
    why = one_line(str(error).strip().split("\n")[0])
    return BadInput(f"{model} cannot be loaded ({type(error).__name__}: {why}); get it again")


def _download(model: str) -> Path:
    """A hub model's files. Raises MissingInput with a sentence."""
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model):
        raise MissingInput(f"there is no folder {model}, and no hub id looks like that")
    _transformers()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=[*FILES], ignore_patterns=["*/*"]))
    except RepositoryNotFoundError as error:
        raise MissingInput(
            f"there is no folder {model}, and the hub knows no such model (or not for you)"
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise MissingInput(
            f"there is no folder {model}, and the Hugging Face hub cannot be reached; download the "
            "model where it can be, and give its folder to --with"
        ) from error


def _transformers() -> Any:
    """The library, silenced. Raises MissingInput if the extra is not installed."""
    try:
        import transformers
    except ImportError:
        raise MissingInput(
            "captions by models need transformers; install it: pip install 'dallebaby[caption]'"
        ) from None
    transformers.utils.logging.set_verbosity(transformers.utils.logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    return transformers
