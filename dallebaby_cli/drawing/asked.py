"""What a drawing is made of, as its files say it, and which files belong to another one."""

import re
from dataclasses import dataclass
from pathlib import Path

from dallebaby_cli.store.pictures import read_metadata


@dataclass(frozen=True)
class Asked:
    """What a drawing is made of, as its files say it."""

    prompts: list[str]
    n: int
    each: int
    """pictures that are kept of each prompt"""
    seed: int
    made: dict[str, str]
    """with what, the same for all pictures"""
    ranked: bool = False
    """whether those of a prompt stand by how well they fit it, and not by their seeds"""

    @property
    def columns(self) -> int | None:
        """Pictures in a row of the grid; None makes it about square."""
        return self.each if len(self.prompts) > 1 else None

    @property
    def grid(self) -> dict[str, str]:
        """What the grid and the animation say."""
        numbers = {"seed": str(self.seed), "n": str(self.n), "best": str(self.each)}
        if self.ranked and self.each == self.n:
            numbers["order"] = "best first"
        return {"prompt": "\n".join(self.prompts), **numbers, **self.made}

    def single(self, index: int, seed: object) -> dict[str, str]:
        """What a single picture says."""
        return {"prompt": self.prompts[index // self.each], "seed": str(seed), **self.made}

    def in_the_way(self, path: Path) -> Path | None:
        """The first of the files that belong to a grid or animation at `path` which is there and
        from another drawing: that file itself, or a single picture beside it."""
        if path.exists() and read_metadata(path) != self.grid:
            return path
        name = re.compile(rf"{re.escape(path.stem)}-(\d{{2,}})\.png")
        beside = sorted(path.parent.glob("*.png")) if path.suffix.lower() == ".png" else []
        for other in beside:
            if numbered := name.fullmatch(other.name):
                if not self._is_single(int(numbered[1]), read_metadata(other)):
                    return other
        return None

    def _is_single(self, index: int, says: dict[str, str]) -> bool:
        if index >= self.each * len(self.prompts):
            return False
        first = self.seed + index // self.each * self.n
        seeds = range(first, first + self.n) if self.ranked else [self.seed + index]
        said = says.get("seed", "")
        return says == self.single(index, said) and said.isdecimal() and int(said) in seeds
