"""`--from RUN`: what a run takes over from the finished one that it starts from, and what must fit.

Weights of the same shape may still mean something else: codes of another dVAE, tokens of another
tokenizer, another quantizer's levels. So settings are compared, not shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dallebaby_cli.config import (
    DVAEConfig,
    TrainConfig,
    TransformerConfig,
    settings,
    usual_digits,
    usual_numbers,
)
from dallebaby_cli.errors import Mismatch
from dallebaby_cli.models import tokenizers
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.codes_id import codes_id
from dallebaby_cli.training import orders


@dataclass(frozen=True)
class Parent:
    """A finished run whose weights another one starts from."""

    folder: Path
    name: str
    """ "KIND/NAME" """
    id: str
    config: dict[str, Any]
    """its config.json"""

    def require_vae(self, vae_folder: Path, tokens: str) -> None:
        """Raise Mismatch unless the tokens were made by a dVAE whose codes it knows."""
        if codes_id(vae_folder) != codes_id(self.folder):
            raise Mismatch(
                f"{self.name} knows the codes of another dVAE than vae/{vae_folder.name}, which "
                f"made {tokens}, and there each code means something else; encode with the dVAE "
                f"that made its tokens, or leave --from out"
            )

    def require_transformer(self, ours: TransformerConfig) -> None:
        """Raise Mismatch where its weights cannot become those of such a model."""
        theirs = self.config["model"]
        same = ["dim", "depth", "heads", *(["guided"] if theirs["guided"] != 1 else [])]
        self._require({name: theirs[name] for name in same}, ours)
        if theirs["any_order"] != ours.any_order:
            learned, share = "raster order alone", "0"
            if theirs["any_order"]:
                learned, share = "its codes in other orders, too", "0.1 or more"
            raise Mismatch(
                f"{self.name} learned {learned}, for which it has other weights; take --set "
                f"random_order={share}, or leave --from out"
            )

    def require_dvae(self, ours: DVAEConfig) -> None:
        """Raise Mismatch where its weights cannot become those of such a model, which may be of
        larger or smaller pictures, with as many pixels a code."""
        theirs, grid = self._shape(), self.grid_of(ours.image_px)
        same = ["width", "depth", "quantizer"]
        same += ["levels"] if theirs.quantizer == "fsq" else ["codebook", "code_dim"]
        same += ["loss"] if theirs.output_channels != ours.output_channels else []
        wanted = {name: getattr(theirs, name) for name in same}
        self._require({"grid": grid, **wanted}, ours)

    def grid_of(self, image_px: int) -> int:
        """Codes along one side that a dVAE makes of pictures of another size. Raises Mismatch where
        it cannot divide them."""
        theirs = self._shape()
        patch = theirs.image_px // theirs.grid
        if image_px % patch:
            raise Mismatch(
                f"{self.name} has a code for every {patch} x {patch} pixels, which does not divide "
                f"these pictures of {image_px} px; prepare them with another --px, or leave "
                "--from out"
            )
        return image_px // patch

    @property
    def levels(self) -> tuple[int, ...]:
        """Those of a dVAE."""
        return self._shape().levels

    def _shape(self) -> DVAEConfig:
        return tokenizers.config_of(self.config["model"], self.folder / "config.json")

    def _require(self, wanted: Mapping[str, Any], ours: object, at: str = "model.") -> None:
        other = {name: v for name, v in wanted.items() if getattr(ours, name) != v}
        if other:
            found = ", ".join(f"{name}={_spelt(getattr(ours, name))}" for name in other)
            advice = " ".join(f"--set {at}{name}={_spelt(value)}" for name, value in other.items())
            raise Mismatch(
                f"{self.name} is another model than one with {found}; take {advice} (or the preset "
                "that it was trained with), or leave --from out"
            )


def find(home: Path, kind: str, name: str) -> Parent:
    """The finished run of that name, every file of it checked. Raises MissingInput, BadInput or
    Mismatch."""
    folder, found = manifest.find(home, kind, name)
    described = weights.read_model(folder, kind)
    if kind == "dalle":
        path = folder / "config.json"
        shape = weights.shape_of(TransformerConfig, described["model"], path)
        described = {**described, "model": settings.as_dict(shape)}
    return Parent(folder, f"{kind}/{found.name}", found.id, described)


def ways(before: Parent | None, config: TrainConfig, levels: tuple[int, ...]) -> dict[str, Any]:
    """In which ways a transformer reads and predicts codes, as settings of its model: those of its
    parent, or those that a dVAE with such levels is for. Its orders a person may choose."""
    digits, numbers = usual_digits(levels), usual_numbers(levels)
    any_order = orders.any_order(config, digits)
    if before:
        theirs = before.config["model"]
        digits, numbers = tuple(theirs["digits"]), tuple(theirs["numbers"])
        any_order = theirs["any_order"] if config.random_order is None else any_order
    return {"digits": digits, "numbers": numbers, "any_order": any_order}


def _spelt(value: object) -> str:
    """As `--set` reads it in a shell."""
    return f"'[{','.join(map(str, value))}]'" if isinstance(value, tuple) else str(value)
