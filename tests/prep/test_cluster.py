"""The same bytes from a real Ray cluster of two nodes, one of which is killed in the middle."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from captioning.test_caption import draw_classes, make_gpt2
from conftest import draw_folder, run, start
from swarm import free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
PIECES = 8


@pytest.fixture(scope="module")
def nodes() -> Iterator[subprocess.Popen[str]]:
    """A cluster of a head and a second node; see ray_nodes.py."""
    script = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("ray_nodes.py"))]
    process = subprocess.Popen(
        script,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )
    try:
        yield process
    finally:
        process.communicate(timeout=60)


def content(home: Path, name: str) -> dict[str, bytes]:
    """Every file of images/NAME, the manifest without its time."""
    folder = home / "images" / name
    found = {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }
    manifest = json.loads(found["manifest.json"])
    del manifest["when"]
    return found | {"manifest.json": json.dumps(manifest).encode()}


@pytest.fixture(scope="module")
def place(nodes: subprocess.Popen[str]) -> str:
    """What --where takes."""
    assert nodes.stdout
    return f"ray:{nodes.stdout.readline().strip()}"


def test_captions_from_a_cluster_are_the_same(place: str, tmp_path: Path) -> None:
    home, model = tmp_path / "here", make_gpt2(tmp_path / "gpt2", steps=20)
    run(home, "prep", draw_classes(tmp_path / "classes", 48), "--px", "32", "--workers", "1")
    shutil.copytree(home, tmp_path / "there")
    options = ["caption", "--with", model, "--device", "cpu", "--set", "unit_pictures=16"]
    run(home, *options)
    run(tmp_path / "there", *options, "--where", place)
    wanted = (home / "images/classes/captions.jsonl").read_bytes()
    assert wanted
    assert (tmp_path / "there/images/classes/captions.jsonl").read_bytes() == wanted


def test_a_cluster_that_loses_a_node_makes_the_same_bytes(
    nodes: subprocess.Popen[str], place: str, tmp_path: Path
) -> None:
    pictures = draw_folder(tmp_path / "shapes", 256 * PIECES - 100)
    run(tmp_path / "here", "prep", pictures, "--px", "32", "--workers", "1")
    assert nodes.stdin and nodes.stdout
    process = start(tmp_path / "there", "prep", pictures, "--px", "32", "--where", place)
    work = tmp_path / "there/images/shapes"
    wait_until(lambda: len(list(work.glob(".work-*/*.arrow"))) >= 2, "two pieces are there")
    nodes.stdin.write("kill\n")
    nodes.stdin.flush()
    assert nodes.stdout.readline() == "gone\n"
    done = len(list(work.glob(".work-*/*.arrow")))
    assert 0 < done < PIECES, "the kill was not in the middle"
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert content(tmp_path / "there", "shapes") == content(tmp_path / "here", "shapes")


def test_no_cluster_and_no_such_place_are_sentences(tmp_path: Path) -> None:
    pictures = draw_folder(tmp_path / "shapes", 3)
    home = tmp_path / "home"
    gone = run(home, "prep", pictures, "--where", f"ray:127.0.0.1:{free_port()}", expect=1)
    assert "no Ray cluster can be reached" in gone.err and "ray start --head" in gone.err
    wrong = run(home, "prep", pictures, "--where", "slurm", expect=2)
    assert "--where slurm: must be local, ray or ray:ADDRESS" in wrong.err
