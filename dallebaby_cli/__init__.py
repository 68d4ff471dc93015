"""dallebaby: from an empty machine to a picture drawn from a sentence by your own model."""

from typing import Any

__version__ = "0.1.0"

# name → module, imported on first use
_PUBLIC = {"from_pretrained": "dallebaby_cli.drawing.pretrained"}
__all__ = ["__version__", "from_pretrained"]  # noqa: F822, which knows no __getattr__


def __getattr__(name: str) -> Any:
    """Resolve public names lazily, so that importing the package does not import torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
