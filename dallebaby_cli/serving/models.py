"""The models that can draw here: found in the workspace, loaded when they are first asked for."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from dallebaby_cli.drawing.pretrained import BABY, from_pretrained, model_folder
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import MissingInput
from dallebaby_cli.progress import Report
from dallebaby_cli.quality import report
from dallebaby_cli.serving.refused import Refused
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.text import one_line

EXAMPLES = 8
LOADED = 2  # models that are kept in memory
OTHERS = ("dall-e-", "gpt-image-", "chatgpt-image-")  # OpenAI's, in whose place the default draws


@dataclass(frozen=True)
class Known:
    """A finished model."""

    name: str
    folder: Path
    id: str
    grid: int
    """rows and columns of codes"""
    image_px: int | None
    """side of its pictures, as far as its description says that"""
    any_order: bool
    """whether it can draw several codes at a time, and around others"""

    @property
    def examples(self) -> list[str]:
        """A few captions of what it learned, if its run has kept some."""
        return [one_line(prompt) for prompt in report.prompts(self.folder)[:EXAMPLES]]


class Models:
    """Those of a workspace; several threads may ask."""

    def __init__(self, home: Path, chosen: Path | None, device: str) -> None:
        """The one in the folder `chosen` is the default, else the one that was trained last."""
        self.home, self.chosen, self.device = home, chosen, device
        self._loaded: OrderedDict[str, Sampler] = OrderedDict()
        self._lock, self._loading = threading.Lock(), threading.Lock()

    def listed(self) -> list[Known]:
        """All of them, the default first, the baby last. Raises MissingInput if there are none."""
        if found := self._found():
            return found
        raise MissingInput("no model can draw here; run `dallebaby train` first")

    def begin(self, tell: Report) -> Known:
        """Load the default, so that what is wrong with it is said before anybody asks. Raises
        MissingInput, BadInput or Mismatch."""
        weights.read_model(model_folder(self.home, self.chosen, tell), "dalle")
        known = self.find(None)
        self.load(known)
        return known

    def names(self) -> dict[str, str]:
        """What each model is called, by its id."""
        return {known.id: known.name for known in self._found()}

    def find(self, name: str | None) -> Known:
        """The one of that name, or the default. Raises Refused."""
        listed = self.listed()
        if name is None or name.startswith(OTHERS):
            return listed[0]
        for known in listed:
            if known.name == name:
                return known
        names = ", ".join(known.name for known in listed[:8])
        raise Refused(404, f"there is no model of that name; there are {names}", "model")

    def _found(self) -> list[Known]:
        folders = [self.chosen] if self.chosen else []
        folders += [
            folder for folder, about in manifest.every(self.home, "dalle") if about.complete
        ]
        found: dict[str, Known] = {}
        for name, folder in [*((f.resolve().name, f) for f in folders), ("baby", BABY)]:
            if name not in found and (known := _known(name, folder)):
                found[name] = known
        return [*found.values()]

    def load(self, known: Known) -> Sampler:
        """What draws with it. Raises MissingInput, BadInput or Mismatch."""
        if sampler := self._ready(known):
            return sampler
        with self._loading:  # one at a time; those that are there already need not wait for it
            if sampler := self._ready(known):
                return sampler
            with _one_thread():
                sampler = from_pretrained(known.folder, self.device)
            with self._lock:
                self._loaded[known.id] = sampler
                if len(self._loaded) > LOADED:
                    self._loaded.popitem(last=False)
            return sampler

    def _ready(self, known: Known) -> Sampler | None:
        """What draws with it, if it is loaded; now it is the one that was asked for last."""
        with self._lock:
            if known.id in self._loaded:
                self._loaded.move_to_end(known.id)
            return self._loaded.get(known.id)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute without helpers meanwhile: those that torch starts for this thread would stay, and
    where helpers of several threads are more than the cores, OpenMP lets none of them wait awake,
    which makes each picture take twice as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _known(name: str, folder: Path) -> Known | None:
    """What its description says, if there is one; it is checked when it is loaded."""
    described = weights.described(folder)
    model, vae = described.get("model"), described.get("vae")
    grid = model.get("grid") if isinstance(model, dict) else None
    px = vae.get("image_px") if isinstance(vae, dict) else None
    if not isinstance(model, dict) or type(grid) is not int:
        return None
    with suppress(OSError):
        id = weights.model_id(folder)
        any_order = model.get("any_order") is True
        return Known(name, folder, id, grid, px if type(px) is int else None, any_order)
    return None
