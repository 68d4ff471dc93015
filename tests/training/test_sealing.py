"""SIGKILL at every change of a name while something that many files make up is replaced: what is
there afterwards is whole or said to be unfinished, and the same command ends as if nothing had
happened."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import dying
import pytest
import torch
from conftest import Ran

from dallebaby_cli.config import settings
from dallebaby_cli.errors import DallebabyError
from dallebaby_cli.progress import ignore
from dallebaby_cli.stages import train
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.codes_id import codes_id
from dallebaby_cli.store.shards import Shards, content_id
from dallebaby_cli.store.tokens import Tokens

pytestmark = pytest.mark.slow

Cli = Callable[..., Ran]
LAST = {"vae": 5, "dalle": 3, "tokens": 99, "images": 8}  # changes that are tried; all with SOAK
TINY = ("--preset", "tiny")
COMMANDS = {
    "vae/v": ("train-vae", *TINY, "--steps", 6, "--run", "v"),
    "dalle/d": ("train", *TINY, "--steps", 6, "--run", "d"),
    "tokens/shapes@v": ("encode", "--set", "views=2", "--set", "shard_pictures=200"),
    "images/shapes": ("prep", "{}/shapes", "--px", 16, "--workers", 1, "--limit", 40),
}
ADVICE = {
    "vae/v": "run `dallebaby train-vae shapes --run v` again with its settings to continue it",
    "dalle/d": "run `dallebaby train shapes@v --run d` again with its settings to continue it",
    "tokens/shapes@v": "run `dallebaby encode shapes --vae v` again",
    "images/shapes": "shapes` again with its settings",
}


def kept_files(folder: Path) -> dict[str, bytes]:
    """The files that must be the same however often the work was broken off."""
    wanted = {".safetensors", ".arrow", ".tar"}
    kept = [p for p in folder.iterdir() if p.suffix in wanted or p.name == "config.json"]
    return {path.name: path.read_bytes() for path in kept}


def load(home: Path, name: str) -> None:
    """Load an artefact as other commands do. Raises a DallebabyError."""
    kind, _, own = name.partition("/")
    folder, found = manifest.find(home, kind, own)
    if kind == "images":
        assert content_id(sorted(folder.glob("*.tar"))) == found.id and len(Shards(folder))
    elif kind == "tokens":
        assert len(Tokens(folder)) == found.counts["pictures"]
    else:
        weights.read_model(folder, kind)
        assert weights.model_id(folder) == found.id


def begin(home: Path) -> None:
    """What `train` would begin with: the very dVAE that made the codes. Raises a DallebabyError."""
    cpu = torch.device("cpu")
    config = settings.load("train", preset="tiny")
    _, _, (vae,) = train.prepare(home, config, ["shapes"], device=cpu, report=ignore)
    codes = manifest.find(home, "tokens", "shapes@v")[1]
    assert codes.parents["vae/v"] == codes_id(vae)


def sentence(error: DallebabyError) -> str:
    assert "\n" not in str(error) and "`dallebaby " in str(error)
    return str(error)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_moment_leaves_nothing_that_is_half(
    prepared: Path, trained: Path, tmp_path: Path, cli: Cli, name: str
) -> None:
    command = [str(word).format(prepared.parent) for word in COMMANDS[name]]
    whole = shutil.copytree(trained, tmp_path / "whole")
    before = kept_files(whole / name)
    code, changes, err = dying.run(whole, *command)
    assert code == 0, err
    wanted = kept_files(whole / name)
    assert wanted != before
    tried = changes if os.environ.get("SOAK") else LAST[name.partition("/")[0]]
    found = set()
    for moment in range(max(changes - tried, 0) + 1, changes + 1):
        home = shutil.copytree(trained, tmp_path / str(moment))
        assert dying.run(home, *command, until=moment)[0] == -9
        listed = cli("--home", home, "status", "--json")
        assert listed.code == 0
        for other in COMMANDS:
            try:
                load(home, other)
            except DallebabyError as error:
                assert other == name and ADVICE[name] in sentence(error)
                found.add("refused")
            else:
                found.add("new" if kept_files(home / name) == wanted else "old")
        try:
            begin(home)
        except DallebabyError as error:
            assert re.search(r"is not finished|trained further|lacks shards|gone", sentence(error))
        code, _, err = dying.run(home, *command)
        assert code == 0, err
        assert kept_files(home / name) == wanted
        load(home, name)
        shutil.rmtree(home)
    assert found >= {"refused", "old"}
