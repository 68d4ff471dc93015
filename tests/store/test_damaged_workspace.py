"""What is damaged in a workspace ends in one sentence and exit code 1, through the command line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran

Cli = Callable[..., Ran]
TRAIN = ("train", "--preset", "tiny", "--steps", "1", "--run", "new")
DRAW = ("generate", "a red circle", "--out", "drawn.png")


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "home")


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def half_zeroed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def without_hashes(path: Path) -> None:
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), "files": {}}), encoding="utf-8"
    )


def unsealed(path: Path) -> None:
    """Do away with the manifest, too: a model that was copied has none."""
    without_hashes(path)
    (path.parent / "manifest.json").unlink()


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


CASES: dict[str, tuple[str, Callable[[Path], None], tuple[str, ...], str]] = {
    "half a shard of zeros": (
        "tokens/*/00000.arrow",
        half_zeroed,
        TRAIN,
        "is not as it was written",
    ),
    "half an index of zeros": ("images/*/index.arrow", half_zeroed, ("encode",), "is damaged ("),
    "a nested manifest": (
        "vae/v/manifest.json",
        lambda path: path.write_bytes(b"[" * 99_999),
        ("encode", "--vae", "v"),
        "nested over 50 levels deep",
    ),
    "no hashes": ("dalle/d/config.json", unsealed, (*DRAW, "--model", "d"), "must name the hashes"),
    "a description without end": (
        "dalle/d/config.json",
        endless,
        (*DRAW, "--model", "d"),
        "is a folder, pipe or device and no file",
    ),
    "another normaliser": (
        "dalle/d/tokenizer.json",
        lambda path: path.write_text(path.read_text().replace("NFKC", "NFD")),
        (*DRAW, "--model", "d"),
        "is not the file that",
    ),
}


@pytest.mark.skipif(os.name == "nt", reason="no /dev/zero there")
@pytest.mark.parametrize("case", CASES)
def test_damage_is_one_sentence(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    where, damage, command, words = CASES[case]
    monkeypatch.chdir(home)
    damage(one(home, where))
    chosen = [str(home / "dalle" / word) if word == "d" else word for word in command]
    ran = cli("--home", home, "--device", "cpu", *chosen)
    assert ran.code == 1 and "Traceback" not in ran.err
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and words in last, ran.err
    assert not (home / "dalle" / "new").exists() and not (home / "drawn.png").exists()
