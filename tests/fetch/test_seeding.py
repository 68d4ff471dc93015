"""Giving to others after a download: aria2c takes it from us alone."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import start
from swarm import (
    ALONE,
    aria2,
    make_torrent,
    needs_aria2,
    tracker,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@needs_aria2
def test_what_was_fetched_is_given_on_until_it_is_stopped(tmp_path: Path) -> None:
    content = tmp_path / "seed" / "data"
    content.mkdir(parents=True)
    for name in ("a.bin", "b.bin"):
        (content / name).write_bytes(os.urandom(300_001))
    home = tmp_path / "home"
    with tracker() as known:
        torrent = make_torrent(content, tmp_path / "data.torrent", trackers=[known.url])
        with aria2(torrent):
            process = start(home, "fetch", torrent.path, *ALONE, "--set", "seed_minutes=5")
            manifest = home / "raw/data/manifest.json"
            wait_until(
                lambda: manifest.exists() and json.loads(manifest.read_text())["complete"],
                "the download is complete while it is given on",
            )
        taken = tmp_path / "taken"
        taken.mkdir()
        options = ["--no-conf", "--seed-time=0", "--enable-dht=false", "--interface=127.0.0.1"]
        leech = ["aria2c", f"--dir={taken}", *options, "--disable-ipv6", torrent.path]
        subprocess.run(leech, check=True, stdout=subprocess.DEVNULL, timeout=60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    for name in ("a.bin", "b.bin"):
        assert (tmp_path / "taken/data" / name).read_bytes() == (content / name).read_bytes()
    assert {p.name for p in (home / "raw/data").iterdir()} == {
        *("a.bin", "b.bin", "manifest.json", ".lock", ".torrent")
    }
