"""Ideas for the transformer that are not decided: none is in use unless it is asked for.

`benchmarks/ladder.py` compares them. One that wins becomes the default and leaves this file, one
that loses leaves it with the lines that it took, and models that were trained with it are not read
any more. The string below a field is its help.
"""

from dataclasses import dataclass, replace
from typing import Literal

from dallebaby_cli.config.bounds import Bounded, bounded, check

NEAREST = 3  # neighbours of a code in the row above it
MOST_NEAR = 11  # all that are known of 5 x 5 codes around one, but for the one before it


@dataclass(frozen=True, kw_only=True)
class Trials(Bounded):
    """What is tried, as it is off."""

    section = "model.trials."

    noise: float = bounded(0.0, ge=0, le=1)
    """largest share of a picture's codes that is replaced at random in what the model reads while
    it learns, as its own slips will be; falls to 0 over three quarters of the run (reAR, arXiv
    2510.04450)"""
    foresight: float = bounded(0.0, ge=0, le=1000)
    """weight of a further loss: the stream before the last quarter of the blocks tells the numbers
    of the next code, as the dVAE writes it (after reAR)"""
    inputs: Literal["codes", "levels", "both"] = "codes"
    """what of a code has an embedding: itself, each number that the dVAE writes it in, or both
    (MaskBit, arXiv 2409.16211)"""
    outputs: Literal["codes", "both"] = "codes"
    """what of a code has a vector that its logit is made with: itself, or beside it each number
    that the dVAE writes it in, so that codes that are alike share what is learned (not where codes
    are predicted in digits, which share it anyway)"""
    levels: tuple[int, ...] = bounded((), ge=2, le=65536)
    """how many values each of these numbers has; always taken from the dVAE, where they are of use
    here"""
    neighbours: int = bounded(NEAREST, ge=NEAREST, le=MOST_NEAR)
    """known codes around the one to be predicted that it is told, beside the one before it: 3 in
    the row above, 4 with the one two to the left, 5 with the one two above, 11 with all of 5 x 5;
    where random_order is set, those opposite to these and to the one before it, too"""
    values: bool = False
    """embeddings with a second half that attention adds to its values (modded-nanogpt)"""
    shortcut: bool = False
    """add the embeddings again before each block, with a learned weight (modded-nanogpt)"""
    skips: bool = False
    """add what entered each block of the first half before its mirror in the second, with a
    learned weight (a U-net, modded-nanogpt)"""
    gates: bool = False
    """each attention head has a gate that the position opens or closes (arXiv 2505.06708)"""
    mlp: Literal["relu2", "swiglu"] = "relu2"
    """squared ReLU, or SwiGLU (arXiv 2002.05202) with as many weights"""

    @property
    def of_weights(self) -> dict[str, object]:
        """What says which weights there are, by name."""
        return {name: v for name, v in vars(self).items() if name not in ("noise", "levels")}

    def told(self, levels: tuple[int, ...]) -> "Trials":
        """With the levels of an image tokenizer, where they are of use. Raises UsageError where it
        has none."""
        wanting = {"inputs": self.inputs != "codes", "outputs": self.outputs != "codes"}
        wanting["foresight"] = self.foresight > 0
        name = next((name for name, wants in wanting.items() if wants), None)
        if name is None:
            return replace(self, levels=())
        why = "needs codes that are made of several numbers, as those of model.quantizer=fsq are"
        check(len(levels) > 1, f"model.trials.{name}", getattr(self, name), why)
        return replace(self, levels=levels)
