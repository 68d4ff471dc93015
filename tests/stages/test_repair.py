"""Files that were lost, damaged or swapped: every command looks at them, and what it advises
works."""

import dataclasses
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran

from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.tokens import Tokens

Cli = Callable[..., Ran]
TINY = ("--preset", "tiny", "--steps", 4)
COMMANDS = {
    "vae/v": ("train-vae", *TINY, "--run", "v"),
    "dalle/d": ("train", *TINY, "--run", "d"),
    "tokens/shapes@v": ("encode",),
}


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "home")


def error(ran: Ran, *words: str) -> str:
    """The one sentence that a command failed with."""
    (line,) = (row for row in ran.err.splitlines() if row.startswith("error: "))
    assert ran.code == 1 and "Traceback" not in ran.err
    assert all(word in line for word in words), line
    return line


def states(cli: Cli, home: Path) -> dict[str, str]:
    ran = cli("--home", home, "status", "--json")
    assert ran.code == 0, ran.err
    return {
        f"{row['kind']}/{row['name']}": row["state"] for row in json.loads(ran.out)["artefacts"]
    }


def gone(path: Path) -> None:
    path.unlink()


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path: Path) -> None:
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(200) + content[half + 200 :])


@pytest.mark.parametrize("spoil", [gone, halved, zeroed])
@pytest.mark.parametrize(
    ("name", "file", "fails"),
    [
        ("vae/v", "model.safetensors", ("encode",)),
        ("dalle/d", "vae.safetensors", ("generate", "a")),
        ("tokens/shapes@v", "00000.arrow", ("train", *TINY, "--run", "other")),
    ],
)
def test_what_is_damaged_is_named_and_the_same_command_mends_it(
    cli: Cli, home: Path, name: str, file: str, fails: tuple, spoil: Callable[[Path], None]
) -> None:
    path = home / name / file
    identity, before = manifest.read(home / name).id, path.read_bytes()
    spoil(path)
    error(cli("--home", home, *fails), file, COMMANDS[name][0])
    if spoil is gone:
        assert states(cli, home)[name].startswith(f"(damaged) {file} gone; run `dallebaby ")
    said = cli("--home", home, "--json", *COMMANDS[name])
    assert said.code == 0, said.err
    facts = json.loads(said.out)
    (facts,) = facts.get("tokens", [facts])
    assert facts["fresh"] is True and facts["id"] == identity
    assert path.read_bytes() == before
    assert "made again" in said.err
    assert states(cli, home)[name] == "complete"
    assert json.loads(cli("--home", home, "--json", "encode").out)["tokens"][0]["fresh"] is False


def test_a_shard_too_many_is_removed(cli: Cli, home: Path) -> None:
    folder = home / "tokens" / "shapes@v"
    shutil.copyfile(folder / "00000.arrow", folder / "00001.arrow")
    assert cli("--home", home, "encode").code == 0
    assert [path.name for path in folder.glob("*.arrow")] == ["00000.arrow"]
    assert len(Tokens(folder)) == manifest.read(folder).counts["pictures"]


def test_a_half_shard_of_a_broken_off_run_is_not_taken_for_a_whole_one(
    cli: Cli, home: Path
) -> None:
    encode = ("--home", home, "encode", "--set", "shard_pictures=100")
    folder = home / "tokens" / "shapes@v"
    assert cli(*encode).code == 0
    before = {path: path.read_bytes() for path in folder.glob("*.arrow")}
    about = manifest.read(folder)
    manifest.write(folder, dataclasses.replace(about, complete=False, id="", counts={}, hashes={}))
    first, second, third, fourth = sorted(before)
    halved(first)
    shutil.copyfile(third, second)  # whole, and of other pictures
    kept = third.stat().st_mtime_ns, fourth.stat().st_mtime_ns
    assert cli(*encode).code == 0
    assert {path: path.read_bytes() for path in folder.glob("*.arrow")} == before
    assert (third.stat().st_mtime_ns, fourth.stat().st_mtime_ns) == kept
    assert manifest.read(folder).id == about.id


def test_a_tokenizer_that_its_weights_do_not_know_is_refused(cli: Cli, home: Path) -> None:
    path = home / "dalle" / "d" / "tokenizer.json"
    path.unlink()
    advice = f"remove {path.parent}"
    error(cli("--home", home, "generate", "a"), "tokenizer.json is missing", advice)
    error(cli("--home", home, *COMMANDS["dalle/d"]), "tokenizer.json is missing or not the", advice)
    shutil.rmtree(path.parent)
    assert cli("--home", home, *COMMANDS["dalle/d"]).code == 0
    assert cli("--home", home, "generate", "a", "-n", 1).code == 0


def test_another_model_under_the_same_manifest_is_refused(cli: Cli, home: Path) -> None:
    """As a kill between config.json and manifest.json left it before: new weights, old id."""
    shutil.copytree(home / "vae" / "v", home / "vae" / "longer")
    longer = manifest.read(home / "vae" / "v")
    manifest.write(home / "vae" / "longer", dataclasses.replace(longer, name="longer"))
    more = ("train-vae", "--preset", "tiny", "--steps", 6, "--run", "longer")
    assert cli("--home", home, *more).code == 0
    for name in ("model.safetensors", "config.json"):
        shutil.copyfile(home / "vae" / "longer" / name, home / "vae" / "v" / name)
    ran = cli("--home", home, "train", *TINY, "--run", "other")
    error(ran, "v/config.json is not the one that the manifest.json beside it was written for")
    assert not (home / "dalle" / "other").exists()
    error(cli("--home", home, "encode", "--vae", "v"), "v/config.json is not the one")
    # its own state makes it again as it was
    assert cli("--home", home, *COMMANDS["vae/v"]).code == 0
    assert weights.model_id(home / "vae" / "v") == longer.id


def test_one_damaged_manifest_does_not_stop_the_others(cli: Cli, home: Path) -> None:
    broken = home / "images" / "shapes" / "manifest.json"
    whole = broken.read_bytes()
    for content in (b"", whole[:100], b"\0" * len(whole), b"[]", b'{"format": 1}'):
        broken.write_bytes(content)
        found = states(cli, home)
        assert found["images/shapes"].startswith(f"(damaged) {broken} ")
        assert found["dalle/d"] == found["vae/v"] == "complete"
        assert "images/shapes (damaged)" in cli("--home", home, "status").out
        assert cli("--home", home, "generate", "a", "-n", 1).code == 0
        assert cli("--home", home, "datasets").code == 0
    line = error(cli("--home", home, "train-vae", "shapes"), str(broken), "remove ")
    assert f"remove {broken.parent} and make it again" in line


def test_the_advised_command_is_the_one_that_made_it(cli: Cli, home: Path, prepared: Path) -> None:
    """With a name and a folder that only the manifest knows."""
    small = ("--px", 16, "--workers", 1, "--limit", 30)
    made = cli("--home", home, "prep", prepared.parent / "shapes", "--name", "small", *small)
    assert made.code == 0, made.err
    index = home / "images" / "small" / "index.arrow"
    index.unlink()
    line = error(cli("--home", home, "train-vae", "small"), "index.arrow is missing")
    (advised,) = re.findall("`dallebaby (.*)`", line)
    again = cli("--home", home, *shlex.split(advised), *small)
    assert again.code == 0 and index.exists(), again.err
