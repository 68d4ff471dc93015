"""A disk that fills up for real: one sentence, nothing half-written, and a rerun that continues."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import draw_folder, run

from dallebaby_cli.store import manifest

pytestmark = pytest.mark.slow


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own at `folder`, of so many bytes."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def grow(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def full(err: str) -> bool:
    (line,) = (row for row in err.splitlines() if row.startswith("error: "))
    return "the disk is full" in line and "continue" in line and "Traceback" not in err


def test_prep_stops_cleanly_and_continues(tmp_path: Path) -> None:
    pictures = draw_folder(tmp_path / "shapes", 300)
    arguments = ("prep", pictures, "--px", "64", "--workers", "1")
    with small_disk(tmp_path / "disk", "128k") as home:
        assert full(run(home, *arguments, expect=1).err)
        found = manifest.read(home / "images" / "shapes")
        assert found is None or not found.complete
        grow(home, "64m")
        run(home, *arguments)
        assert manifest.find(home, "images", "shapes")[1].counts["accepted"] > 250


def test_train_vae_keeps_its_last_checkpoint_and_continues(prepared: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        home = disk / "home"
        shutil.copytree(prepared, home)
        used = shutil.disk_usage(disk).used
        large = ("--set", "model.width=64")
        arguments = ("train-vae", "--preset", "tiny", "--steps", "4", "--run", "r", *large)
        grow(disk, f"{used // 1024 + 2048}k")  # the first checkpoint does not fit
        assert full(run(home, *arguments, expect=1).err)
        about = manifest.read(home / "vae" / "r")
        assert about is None or not about.complete
        assert not list((home / "vae" / "r").glob(".state*"))
        grow(disk, "128m")
        run(home, *arguments)
        assert manifest.find(home, "vae", "r")[1].complete
