"""Fetching from real swarms on loopback: the peers are aria2c and transmission-daemon."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, run, start
from swarm import (
    ALONE,
    PIECE,
    Quiet,
    Torrent,
    aria2,
    free_port,
    make_torrent,
    needs_aria2,
    needs_transmission,
    serving,
    site,
    tracker,
    transmission,
    wait_until,
    write_torrent,
)

from dallebaby_cli.fetch.torrent import Swarm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
Cli = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """Files of many sizes, none a multiple of the piece, one of them empty."""
    folder = tmp_path / "seed" / "Some Data"
    sizes = {"a.zip": 2_000_001, "b/c.zip": 700_001, "b/d.txt": 5, "e.bin": 300_001, "empty": 0}
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return folder


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """One file that takes a while at the rates of these tests."""
    path = tmp_path / "seed" / "big.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(os.urandom(8_000_000))
    return path


def same(folder: Path, content: Path) -> bool:
    """Whether the folder holds exactly the files of `content`, and our own."""
    own = {"manifest.json", ".lock", ".torrent"}
    return held(folder) - own == held(content) and all(
        (folder / name).read_bytes() == (content / name).read_bytes() for name in held(content)
    )


def held(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


def events(err: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in err.splitlines() if line.startswith("{")]


# ---------------------------------------------------------------- one seed, many seeds


@needs_aria2
def test_one_seed_and_a_torrent_file(cli: Cli, home: Path, content: Path, tmp_path: Path) -> None:
    torrent = make_torrent(content, tmp_path / "some-data.torrent")
    with aria2(torrent) as seed:
        ran = cli("--home", home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
    assert ran.code == 0, ran.err
    assert same(home / "raw/some-data", content)
    manifest = json.loads((home / "raw/some-data/manifest.json").read_text())
    assert manifest["complete"] and manifest["id"] == torrent.info_hash
    again = cli("--home", home, "--json", "fetch", torrent.path, *ALONE)
    assert json.loads(again.out)["fresh"] is False


@needs_transmission
def test_one_seed_and_a_magnet_link_encrypted(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(content, tmp_path / "x.torrent")
    with transmission(torrent, tmp_path / "daemon", encrypted=True) as seed:
        ran = cli("--home", home, "fetch", torrent.magnet, "--peer", seed.address, *ALONE)
    assert ran.code == 0, ran.err
    assert same(home / "raw/Some-Data", content)


@needs_aria2
@needs_transmission
def test_many_seeds_found_through_a_tracker(
    cli: Cli, home: Path, big: Path, tmp_path: Path
) -> None:
    with tracker() as known, ExitStack() as seeds:
        torrent = make_torrent(big, tmp_path / "big.torrent", trackers=[known.url])
        for _ in range(3):
            seeds.enter_context(aria2(torrent, up_kb_s=1000))
        seeds.enter_context(transmission(torrent, tmp_path / "daemon"))
        wait_until(lambda: sum(map(len, known.peers.values())) >= 4, "four seeds announce")
        ran = cli("--home", home, "--json", "fetch", torrent.path, *ALONE)
    assert ran.code == 0 and (home / "raw/big/big.bin").read_bytes() == big.read_bytes()
    assert max(e.get("seeds") or 0 for e in events(ran.err)) >= 3


@needs_aria2
def test_the_seed_dies_and_another_takes_over(home: Path, big: Path, tmp_path: Path) -> None:
    with tracker() as known:
        torrent = make_torrent(big, tmp_path / "big.torrent", trackers=[known.url])
        with aria2(torrent, up_kb_s=2000) as first:
            process = start(home, "--json", "fetch", torrent.path, *ALONE)
            wait_until(lambda: first.uploaded() > 0.4 * 8_000_000, "40 % came from the first")
            assert first.uploaded() < 0.9 * 8_000_000
        with aria2(torrent) as second:
            _, err = process.communicate(timeout=60)
            given = second.uploaded()
    assert process.returncode == 0, err
    assert (home / "raw/big/big.bin").read_bytes() == big.read_bytes()
    assert 0 < given < 0.65 * 8_000_000


@needs_aria2
def test_a_seed_that_comes_back_is_found_at_once(home: Path, big: Path, tmp_path: Path) -> None:
    torrent = make_torrent(big, tmp_path / "big.torrent")
    port = free_port()
    with aria2(torrent, port=port, up_kb_s=2000) as seed:
        process = start(home, "--json", "fetch", torrent.path, "--peer", seed.address, *ALONE)
        wait_until(lambda: seed.uploaded() > 2_000_000, "some of it came")
    time.sleep(7)
    assert process.poll() is None
    began = time.monotonic()
    with aria2(torrent, port=port):
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert time.monotonic() - began < 45  # libtorrent's own settings wait for minutes
    assert any("no peer is connected" in e.get("waiting_for", "") for e in events(err))


@needs_aria2
def test_a_peer_that_lies_does_no_harm(cli: Cli, home: Path, big: Path, tmp_path: Path) -> None:
    torrent = make_torrent(big, tmp_path / "big.torrent")
    liar_folder = tmp_path / "liar"
    liar_folder.mkdir()
    damaged = bytearray(big.read_bytes())
    damaged[:: 16384 * 3] = bytes(b ^ 255 for b in damaged[:: 16384 * 3])
    (liar_folder / "big.bin").write_bytes(damaged)
    lying = Torrent(torrent.path, liar_folder / "big.bin", torrent.info_hash, torrent.name)
    with aria2(lying, unverified=True) as liar, aria2(torrent, up_kb_s=3000) as honest:
        peers = ["--peer", liar.address, "--peer", honest.address]
        ran = cli("--home", home, "fetch", torrent.path, *peers, *ALONE)
        assert liar.uploaded() > 0
    assert ran.code == 0, ran.err
    assert (home / "raw/big/big.bin").read_bytes() == big.read_bytes()


# ---------------------------------------------------------------- web seeds and mirrors


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
@pytest.mark.parametrize("single", [True, False], ids=["one-file", "folder"])
def test_only_a_web_seed(
    cli: Cli, home: Path, content: Path, tmp_path: Path, ranges: bool, single: bool
) -> None:
    with site(content.parent, ranges=ranges) as server:
        if single:
            seed = f"{server.url}/Some%20Data/a.zip"
            torrent = make_torrent(content / "a.zip", tmp_path / "x.torrent", web_seeds=[seed])
        else:
            torrent = make_torrent(content, tmp_path / "x.torrent", web_seeds=[f"{server.url}/"])
        ran = cli("--home", home, "fetch", torrent.path, "--timeout", "40", *ALONE)
    assert ran.code == 0, ran.err
    if single:
        assert (home / "raw/x/a.zip").read_bytes() == (content / "a.zip").read_bytes()
    else:
        assert same(home / "raw/x", content)


def own_catalogue(home: Path, name: str, **fields: Any) -> None:
    home.mkdir(exist_ok=True)
    content = {"datasets": {name: fields}}
    (home / "catalog.yaml").write_text(json.dumps(content))


def test_without_peers_the_mirror_is_taken(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(content, tmp_path / "x.torrent")
    with site(content) as server:
        own_catalogue(
            home,
            "mine",
            info_hash=torrent.info_hash,
            files=[
                {"path": "a.zip", "urls": [f"{server.url}/a.zip"]},
                {"path": "e.bin", "wanted": False},
            ],
        )
        ran = cli("--home", home, "--set", "mirror_after_s=2", "fetch", "mine", *ALONE)
    assert ran.code == 0, ran.err
    assert "going over to the mirrors" in ran.err and "no peer is connected" in ran.err
    assert held(home / "raw/mine") == {"a.zip", "manifest.json", ".lock"}
    assert (home / "raw/mine/a.zip").read_bytes() == (content / "a.zip").read_bytes()


# ---------------------------------------------------------------- trackers and peers that fail


@needs_aria2
def test_a_dead_tracker_does_not_matter_with_a_peer(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    dead = [f"http://127.0.0.1:{free_port()}/announce", f"udp://127.0.0.1:{free_port()}"]
    torrent = make_torrent(content, tmp_path / "x.torrent", trackers=dead)
    with aria2(torrent) as seed:
        ran = cli("--home", home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
    assert ran.code == 0 and same(home / "raw/x", content)


def test_a_magnet_link_without_peers_ends_in_a_sentence(cli: Cli, home: Path) -> None:
    dead = f"http://127.0.0.1:{free_port()}/announce"
    magnet = f"magnet:?xt=urn:btih:{'ab' * 20}&dn=lost&tr={dead}"
    began = time.monotonic()
    ran = cli("--home", home, "fetch", magnet, "--timeout", "6", *ALONE)
    assert ran.code == 1 and time.monotonic() - began < 25
    last = ran.err.strip().splitlines()[-1]
    assert "nothing came for 6 s" in last and "the list of files comes from a peer" in last
    assert "tracker 127.0.0.1 (" in last and "the same command continues" in last
    assert not (home / "raw/lost/manifest.json").exists()


@needs_aria2
def test_news_beside_the_awaited_is_not_lost(
    cli: Cli, home: Path, content: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the files were checked may be told in one breath with the saved list of them: a download
    that missed it stood at 100 % for ever."""
    wait = Swarm._wait_for

    def late(swarm: Swarm, kind: type) -> object:
        time.sleep(0.5)
        return wait(swarm, kind)

    monkeypatch.setattr(Swarm, "_wait_for", late)
    made = make_torrent(content, tmp_path / "x.torrent")
    with aria2(made) as seed:
        peer = ["--peer", seed.address, "--timeout", "10", *ALONE]
        ran = cli("--home", home, "fetch", made.magnet, "--name", "x", *peer)
    assert ran.code == 0 and same(home / "raw/x", content), ran.err


def test_coco_without_a_network_says_what_was_tried(cli: Cli, home: Path) -> None:
    """The catalogue's own entry, with its tracker and its mirrors out of reach."""
    dead = f"http://127.0.0.1:{free_port()}"
    names = ["train2017.zip", "val2017.zip", "annotations_trainval2017.zip"]
    files = [{"path": n, "urls": [f"{dead}/{n}"]} for n in names]
    own_catalogue(
        home, "coco", trackers=[f"{dead}/announce"], torrent_url=None, web_seeds=[], files=files
    )
    began = time.monotonic()
    ran = cli("--home", home, "fetch", "coco", "--timeout", "10", *ALONE)
    assert ran.code == 1 and time.monotonic() - began < 30
    last = ran.err.strip().splitlines()[-1]
    assert last.startswith("error: BitTorrent: nothing came") and "HTTP: nothing came" in last
    assert "Connection refused" in last and "the same command continues" in last


# ---------------------------------------------------------------- choosing files


@needs_aria2
def test_files_chosen_by_glob_and_nothing_else(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(content, tmp_path / "x.torrent")
    with aria2(torrent) as seed:
        peer = ["--peer", seed.address, *ALONE]
        ran = cli("--home", home, "fetch", torrent.magnet, "--files", "b/", "--name", "x", *peer)
        assert ran.code == 0, ran.err
        ours = {"manifest.json", ".lock", ".torrent"}
        assert held(home / "raw/x") == {"b/c.zip", "b/d.txt", *ours}
        assert (home / "raw/x/b/c.zip").read_bytes() == (content / "b/c.zip").read_bytes()
        first = json.loads((home / "raw/x/manifest.json").read_text())["id"]
        taken = seed.uploaded()
        assert taken < 700_001 + 5 + 4 * 16384

        ran = cli("--home", home, "fetch", torrent.magnet, "--files", "e.bin", "--name", "x", *peer)
        assert ran.code == 0, ran.err
        assert held(home / "raw/x") == {"b/c.zip", "b/d.txt", "e.bin", *ours}
        assert seed.uploaded() - taken < 300_001 + 6 * 16384
        assert json.loads((home / "raw/x/manifest.json").read_text())["id"] != first

        ran = cli(
            "--home", home, "fetch", torrent.magnet, "--files", "c.zip", "--name", "x", *ALONE
        )
        assert ran.code == 0 and "already complete" in ran.out
    ran = cli("--home", home, "fetch", torrent.path, "--files", "*.gif", *ALONE)
    assert ran.code == 2 and "--files *.gif: nothing" in ran.err


@needs_aria2
def test_list_shows_the_files_and_fetches_nothing(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(content, tmp_path / "x.torrent")
    with aria2(torrent) as seed:
        arguments = ["--list", "--files", "*.zip", "--peer", seed.address, *ALONE]
        ran = cli("--home", home, "--json", "fetch", torrent.magnet, *arguments)
    assert ran.code == 0, ran.err
    listed = json.loads(ran.out.splitlines()[-1])["files"]
    rows = {r["path"]: (r["size_bytes"], r["wanted"]) for r in listed}
    assert rows["a.zip"] == (2_000_001, True) and rows["b/d.txt"] == (5, False)
    assert not (home / "raw").exists()


# ---------------------------------------------------------------- hostile torrents


TRAVERSAL = {
    (b"..", b"..", b"..", b"evil0"): b"evil0",
    (b"/etc/evil1",): b"evil1",
    (b"sub", b"..", b"..", b"..", b"evil2"): b"evil2",
    (b"manifest.json",): b"manifest",
    (b".lock",): b"lock",
    (b".resume",): b"resume",
    (b"a\x00b\x1b[2J\\evil3",): b"evil3",
}


def hostile(path: Path, folder: Path, files: list[dict[bytes, Any]], web_seed: str) -> Torrent:
    """A torrent of 1,000-byte files, the bytes of file N being N."""
    data = b"".join(bytes([i]) * f[b"length"] for i, f in enumerate(files))
    pieces = [data[i : i + PIECE] for i in range(0, len(data), PIECE)]
    info = {
        b"name": b"../../top",
        b"piece length": PIECE,
        b"pieces": b"".join(hashlib.sha1(p).digest() for p in pieces),
        b"files": files,
    }
    return write_torrent(info, path, folder, web_seeds=[web_seed])


def test_hostile_names_stay_in_the_folder(cli: Cli, home: Path, tmp_path: Path) -> None:
    class Obliging(Quiet):
        """Sends what the torrent says, however its client spells the names."""

        def do_GET(self) -> None:
            marks = [mark.decode() for mark in TRAVERSAL.values()]
            body = bytes([next(i for i, mark in enumerate(marks) if mark in self.path)]) * 1000
            self.send_response(206)
            self.send_header("Content-Range", "bytes 0-999/1000")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(body)

    files: list[dict[bytes, Any]] = [{b"length": 1000, b"path": list(p)} for p in TRAVERSAL]
    with serving(Obliging) as port:
        torrent = hostile(tmp_path / "x.torrent", tmp_path, files, f"http://127.0.0.1:{port}/")
        ran = cli("--home", home, "fetch", torrent.path, "--timeout", "15", *ALONE)
    assert ran.code == 0, ran.err
    brought = held(home / "raw/x") - {"manifest.json", ".lock", ".torrent"}
    assert len(brought) == len(TRAVERSAL) and "_manifest.json" in brought and "_.lock" in brought
    assert {(home / "raw/x" / b).read_bytes() for b in brought} == {
        bytes([i]) * 1000 for i in range(len(TRAVERSAL))
    }
    assert json.loads((home / "raw/x/manifest.json").read_text())["complete"]
    assert held(tmp_path) == {"x.torrent", *(f"home/raw/x/{p}" for p in held(home / "raw/x"))}
    assert not Path("/etc/evil1").exists()


def test_links_in_a_torrent_are_never_made(cli: Cli, home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = {b"length": 0, b"path": [b"link"], b"attr": b"l", b"symlink path": [b"..", b"outside"]}
    honest: dict[bytes, Any] = {b"length": 1000, b"path": [b"data"]}
    behind: dict[bytes, Any] = {b"length": 1000, b"path": [b"link", b"evil"]}
    torrent = hostile(tmp_path / "x.torrent", tmp_path, [link, behind], "http://127.0.0.1:9/")
    ran = cli("--home", home, "fetch", torrent.path, "--timeout", "5", *ALONE)
    assert ran.code == 1 and "'link/evil' lies below a file" in ran.err
    (tmp_path / "www/top").mkdir(parents=True)
    (tmp_path / "www/top/data").write_bytes(b"\1" * 1000)

    class Obliging(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"\1" * 1000)

    with serving(Obliging) as port:
        seed = f"http://127.0.0.1:{port}/"
        torrent = hostile(tmp_path / "x.torrent", tmp_path, [link, honest], seed)
        ran = cli("--home", home, "fetch", torrent.path, "--timeout", "15", *ALONE)
    assert ran.code == 0, ran.err
    assert held(home / "raw/x") == {"data", "manifest.json", ".lock", ".torrent"}
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"<html>no</html>", b"d4:infod4:name1:xee", b"i1e"])
def test_what_is_no_torrent_is_refused(
    cli: Cli, home: Path, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bad.torrent"
    path.write_bytes(content)
    ran = cli("--home", home, "fetch", path)
    assert ran.code == 1 and f"{path} is not a torrent" in ran.err
    assert not (home / "raw").exists()


# ---------------------------------------------------------------- broken off and continued


@needs_aria2
def test_killed_three_times_little_is_fetched_again(home: Path, tmp_path: Path) -> None:
    size, rate = 32_000_000, 2_000_000
    path = tmp_path / "seed" / "big.bin"
    path.parent.mkdir()
    path.write_bytes(os.urandom(size))
    torrent = make_torrent(path, tmp_path / "big.torrent")
    with aria2(torrent, up_kb_s=rate // 1000) as seed:
        for share in (0.2, 0.45, 0.7):
            process = start(home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
            wait_until(lambda s=share: seed.uploaded() > s * size, f"{share:.0%} came")
            time.sleep(1.5)  # aria2c sends its first megabytes at once, whatever its limit
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL and seed.uploaded() < 0.95 * size
            assert not json.loads((home / "raw/big/manifest.json").read_text())["complete"]
        ran = run(home, "--json", "fetch", torrent.path, "--peer", seed.address, *ALONE)
        again = seed.uploaded() - size
    assert (home / "raw/big/big.bin").read_bytes() == path.read_bytes()
    print(f"bytes fetched again after three kills: {again:,} of {size:,}")
    assert again < 3 * 2 * rate  # at most two seconds' worth each
    assert not any(e.get("state") == "checking" for e in events(ran.err))


@needs_aria2
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_it_continues(
    home: Path, big: Path, tmp_path: Path, number: signal.Signals
) -> None:
    torrent = make_torrent(big, tmp_path / "big.torrent")
    with aria2(torrent, up_kb_s=2000) as seed:
        process = start(home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
        wait_until(lambda: seed.uploaded() > 3_000_000, "some of it came")
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 128 + number
        assert "error: stopped; what came is kept" in err and "Traceback" not in err
        run(home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
        assert seed.uploaded() < 8_000_000 + 500_000
    assert (home / "raw/big/big.bin").read_bytes() == big.read_bytes()


@needs_aria2
def test_damaged_state_means_a_check_and_not_an_error(
    cli: Cli, home: Path, big: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(big, tmp_path / "big.torrent")
    with aria2(torrent, up_kb_s=2000) as seed:
        process = start(home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
        wait_until(lambda: (home / "raw/big/.resume").exists(), "state is saved")
        wait_until(lambda: seed.uploaded() > 4_000_000, "half of it came")
        process.send_signal(signal.SIGTERM)
        process.communicate()
        state = bytearray((home / "raw/big/.resume").read_bytes())
        state[len(state) // 2] ^= 1
        (home / "raw/big/.resume").write_bytes(state)
        ran = cli("--home", home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
        assert ran.code == 0 and "saved state is damaged" in ran.err
        assert seed.uploaded() < 8_000_000 + 500_000
    assert same(home / "raw/big", big.parent)


@needs_aria2
def test_files_that_changed_under_the_saved_state_are_noticed(
    cli: Cli, home: Path, big: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(big, tmp_path / "big.torrent")
    with aria2(torrent, up_kb_s=2000) as seed:
        process = start(home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
        wait_until(lambda: seed.uploaded() > 4_000_000, "half of it came")
        process.send_signal(signal.SIGTERM)
        process.communicate()
        os.truncate(home / "raw/big/big.bin", 1_000_000)
        ran = cli("--home", home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
    assert ran.code == 0, ran.err
    assert same(home / "raw/big", big.parent)


@needs_aria2
def test_verify_mends_what_changed_and_believes_what_did_not(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(content, tmp_path / "x.torrent")
    asked = ["--home", home, "fetch", torrent.path, "--files", "*.zip", *ALONE]
    with aria2(torrent) as seed:
        assert cli(*asked, "--peer", seed.address).code == 0
    ran = cli(*asked, "--verify", "--timeout", "10")
    assert ran.code == 0 and "already complete" in ran.out, ran.err
    path = home / "raw/x/a.zip"
    for at in (1_000_000, 2_000_000):  # inside, and in a piece that an unwanted file shares
        before = path.stat()
        with path.open("r+b") as handle:
            handle.seek(at)
            byte = handle.read(1)
            handle.seek(at)
            handle.write(bytes([byte[0] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert "already complete" in cli(*asked).out
        with aria2(torrent) as seed:
            ran = cli(*asked, "--verify", "--peer", seed.address)
            assert ran.code == 0 and "not as it was fetched" in ran.err
            assert path.read_bytes() == (content / "a.zip").read_bytes()


def test_a_file_that_is_gone_is_missed_without_a_re_read(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    with site(content.parent) as server:
        torrent = make_torrent(content, tmp_path / "x.torrent", web_seeds=[f"{server.url}/"])
        assert cli("--home", home, "fetch", torrent.path, *ALONE).code == 0
        (home / "raw/x/e.bin").unlink()
        ran = cli("--home", home, "fetch", torrent.path, *ALONE)
        assert ran.code == 0 and "e.bin is not as it was fetched" in ran.err
        assert same(home / "raw/x", content)


# ---------------------------------------------------------------- disks and neighbours


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@needs_aria2
def test_a_disk_that_is_too_small_is_known_before(
    cli: Cli, small_disk: Path, tmp_path: Path
) -> None:
    path = tmp_path / "seed" / "big.bin"
    path.parent.mkdir()
    path.write_bytes(bytes(20_000_000))
    torrent = make_torrent(path, tmp_path / "big.torrent")
    with aria2(torrent) as seed:
        home = small_disk / "home"
        ran = cli("--home", home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
        assert seed.uploaded() == 0
    assert ran.code == 1 and "the rest of big needs 20.0 MB" in ran.err


@needs_aria2
def test_a_disk_that_fills_up_midway_is_a_sentence_and_continues(
    small_disk: Path, big: Path, tmp_path: Path
) -> None:
    home, ballast = small_disk / "home", small_disk / "ballast"
    torrent = make_torrent(big, tmp_path / "big.torrent")
    with aria2(torrent, up_kb_s=2000) as seed:
        process = start(home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
        wait_until(lambda: seed.uploaded() > 2_000_000, "some of it came")
        free = shutil.disk_usage(small_disk).free
        ballast.write_bytes(bytes(max(0, free - 1_500_000)))
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1 and "the disk is full" in err, err
        assert "make room" in err and "continue" in err and "Traceback" not in err
        ballast.unlink()
        run(home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
    assert (home / "raw/big/big.bin").read_bytes() == big.read_bytes()


@needs_aria2
def test_two_fetches_of_one_dataset_at_once(
    cli: Cli, home: Path, big: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(big, tmp_path / "big.torrent")
    with aria2(torrent, up_kb_s=2000) as seed:
        first = start(home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
        wait_until(lambda: seed.uploaded() > 500_000, "the first has begun")
        ran = cli("--home", home, "fetch", torrent.path, "--peer", seed.address, *ALONE)
        assert ran.code == 1 and "another dallebaby is already working on raw/big" in ran.err
        first.communicate(timeout=60)
    assert first.returncode == 0 and (home / "raw/big/big.bin").read_bytes() == big.read_bytes()


def test_another_torrent_of_the_same_name_is_refused(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    with site(content.parent) as server:
        seeds = [f"{server.url}/"]
        torrent = make_torrent(content, tmp_path / "x.torrent", web_seeds=seeds)
        assert cli("--home", home, "fetch", torrent.path, *ALONE).code == 0
        (content / "e.bin").write_bytes(b"other")
        torrent = make_torrent(content, tmp_path / "x.torrent", web_seeds=seeds)
        ran = cli("--home", home, "fetch", torrent.path, *ALONE)
    assert ran.code == 1 and "holds something else of that name" in ran.err and "--name" in ran.err


# ---------------------------------------------------------------- what people see


@needs_aria2
def test_plain_lines_when_piped_and_events_as_json(home: Path, big: Path, tmp_path: Path) -> None:
    torrent = make_torrent(big, tmp_path / "big.torrent")
    with aria2(torrent, up_kb_s=3000) as seed:
        ran = run(home, "--json", "fetch", torrent.path, "--peer", seed.address, *ALONE)
    told = [e for e in events(ran.err) if e["event"] == "transfer"]
    assert len(told) >= 3 and {e["total"] for e in told} == {8_000_000}
    assert [e["done"] for e in told] == sorted(e["done"] for e in told)
    assert told[-1]["done"] == 8_000_000
    middle = next(e for e in told if e["files"])
    assert middle["files"][0][0] == "big.bin" and middle["seeds"] == 1
    assert json.loads(ran.out)["bytes"] == 8_000_000


def test_a_wrong_name_a_wrong_peer_and_no_file(cli: Cli, home: Path) -> None:
    ran = cli("--home", home, "fetch", "cocco")
    assert ran.code == 2 and "did you mean 'coco'" in ran.err
    ran = cli("--home", home, "fetch", "coco", "--peer", "somewhere")
    assert ran.code == 2 and "HOST:PORT" in ran.err
    ran = cli("--home", home, "fetch", "gone.torrent")
    assert ran.code == 1 and "no file gone.torrent" in ran.err
    ran = cli("--home", home, "fetch", "magnet:?dn=x")
    assert ran.code == 2 and "no magnet link of a torrent" in ran.err
    ran = cli("--home", home, "fetch", "scenes")
    assert ran.code == 2 and "dallebaby prep scenes" in ran.err
    assert not (home / "raw").exists()
