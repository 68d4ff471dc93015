"""Torrents, magnet links and folders as other programs make them and leave them."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libtorrent
import pytest
from conftest import Ran, start
from swarm import (
    ALONE,
    Torrent,
    make_new_torrent,
    make_torrent,
    session,
    site,
    tracker,
    wait_until,
)

from dallebaby_cli import files, names
from dallebaby_cli.errors import UsageError
from dallebaby_cli.fetch import bittorrent, magnet
from dallebaby_cli.fetch.file_list import Contents, Entry, edges
from dallebaby_cli.fetch.torrent_file import contents

pytestmark = pytest.mark.timeout(120)
Cli = Callable[..., Ran]
OWN = {"manifest.json", ".lock", ".torrent"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """Files of less than a piece, of several, and of none."""
    return fill(tmp_path, {"a.jpg": 9000, "b/c.zip": 200_001, "b/d.jpg": 21_221, "empty": 0})


def fill(folder: Path, sizes: dict[str, int]) -> Path:
    top = folder / "seed" / "Some Data"
    for name, size in sizes.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return top


def held(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if not p.is_dir()}
    return {name: path.read_bytes() for name, path in found.items() if name not in OWN}


def fetch(cli: Cli, home: Path, what: object, *arguments: object) -> Ran:
    return cli("--home", home, "fetch", what, "--name", "x", "--timeout", "15", *ALONE, *arguments)


# ---------------------------------------------------------------- version 2


@pytest.fixture(params=["hybrid", "version-2"])
def padded(request: pytest.FixtureRequest, content: Path, tmp_path: Path) -> Torrent:
    return make_new_torrent(content, tmp_path / "x.torrent", hybrid=request.param == "hybrid")


def link(torrent: Torrent) -> str:
    made: str = libtorrent.make_magnet_uri(
        libtorrent.load_torrent_buffer(torrent.path.read_bytes())
    )
    return made


def test_a_magnet_link_of_version_2_brings_all(
    cli: Cli, home: Path, content: Path, padded: Torrent
) -> None:
    """Its peers give the list of files without the piece layers, which come later."""
    with session(padded, content.parent) as (peer, _):
        ran = fetch(cli, home, link(padded), "--peer", peer)
        assert ran.code == 0, ran.err
        assert held(home / "raw/x") == held(content)
        path = home / "raw/x/b/c.zip"
        before = path.stat()
        path.write_bytes(b"?" + path.read_bytes()[1:])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        ran = fetch(cli, home, link(padded), "--verify", "--peer", peer)
    assert ran.code == 0 and "b/c.zip is not as it was fetched" in ran.err
    assert held(home / "raw/x") == held(content)
    assert "already complete" in fetch(cli, home, link(padded), "--verify").out


def test_a_magnet_link_may_select_files_by_number(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(content, tmp_path / "x.torrent")
    with session(torrent, content.parent) as (peer, _):
        ran = fetch(cli, home, f"{torrent.magnet}&so=0,2-3", "--peer", peer)
        assert ran.code == 0, ran.err
        assert held(home / "raw/x").keys() == {"a.jpg", "b/d.jpg", "empty"}
        part = json.loads((home / "raw/x/manifest.json").read_text())["id"]
        assert "already complete" in fetch(cli, home, f"{torrent.magnet}&so=2").out
        ran = fetch(cli, home, torrent.magnet, "--peer", peer)
    assert ran.code == 0 and held(home / "raw/x") == held(content)
    assert json.loads((home / "raw/x/manifest.json").read_text())["id"] != part
    ran = fetch(
        cli, home, f"{torrent.magnet}&so=9", "--name", "y", "--files", "b/", "--timeout", "1"
    )
    assert ran.code == 1  # what is typed wins over the link: nobody gives it now


def test_of_a_padded_torrent_every_piece_is_offered(
    home: Path, content: Path, padded: Torrent, tmp_path: Path
) -> None:
    found = contents(padded.path.read_bytes(), "x", tmp_path)
    assert found.whole_pieces(found.entries) == [True] * (1 + 13 + 2)
    assert edges(found, list(found.entries), content) == {}
    assert list(edges(found, [e for e in found.entries if e.path != "a.jpg"], content)) == []
    with session(padded, content.parent) as (peer, _):
        more = ["--peer", peer, "--set", "seed_minutes=5", *ALONE]
        process = start(home, "fetch", padded.path, *more)
        complete = '"complete": true'
        path = home / "raw/x/manifest.json"
        wait_until(lambda: path.exists() and complete in path.read_text(), "it is all there")
    port = None
    with session(padded, tmp_path / "leech", seed=False) as (_, handle):

        def ports() -> Any:
            import psutil

            mine = psutil.Process(process.pid).net_connections("tcp4")
            return [c.laddr.port for c in mine if c.status == "LISTEN"]

        port = wait_until(ports, "it listens")[0]
        handle.connect_peer(("127.0.0.1", port))
        wait_until(lambda: handle.status().is_seeding, "all of it was given", 20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert held(tmp_path / "leech/Some Data") == held(content)


# ---------------------------------------------------------------- whom to ask, now and before


@pytest.mark.parametrize("kind", ["x.pe", "tr", "ws", "web seed of a file"])
def test_whom_a_later_command_names_is_asked(
    cli: Cli, home: Path, content: Path, tmp_path: Path, kind: str
) -> None:
    dead = "http://127.0.0.1:9/announce"
    torrent = make_torrent(content, tmp_path / "x.torrent", trackers=[dead])
    ran = fetch(cli, home, torrent.path, "--timeout", "1")
    assert ran.code == 1 and (home / "raw/x/.resume").exists()
    with (
        session(torrent, content.parent) as (peer, handle),
        tracker() as known,
        site(content.parent) as server,
    ):
        if kind == "tr":
            handle.add_tracker({"url": known.url})
            wait_until(lambda: any(known.peers.values()), "the seed announces")
        new = {"x.pe": peer, "tr": known.url, "ws": f"{server.url}/"}.get(kind)
        what: object = f"{torrent.magnet}&{kind}={new}"
        if new is None:
            what = make_torrent(content, torrent.path, web_seeds=[f"{server.url}/"]).path
        ran = fetch(cli, home, what)
    assert ran.code == 0, ran.err
    assert held(home / "raw/x") == held(content)


def test_a_saved_list_of_files_that_is_damaged_is_asked_for_again(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(content, tmp_path / "x.torrent")
    (home / "raw/x").mkdir(parents=True)
    (home / "raw/x/.torrent").write_bytes(torrent.path.read_bytes()[:-9])
    with session(torrent, content.parent) as (peer, _):
        ran = fetch(cli, home, torrent.magnet, "--peer", peer)
    assert ran.code == 0 and "getting it again" in ran.err
    assert held(home / "raw/x") == held(content)


@pytest.mark.parametrize("private", [True, False])
def test_a_private_torrent_does_not_ask_the_hash_table(
    cli: Cli, home: Path, content: Path, tmp_path: Path, private: bool
) -> None:
    torrent = make_torrent(content, tmp_path / "x.torrent")
    whole = libtorrent.bdecode(torrent.path.read_bytes())
    whole[b"info"] |= {b"private": 1} if private else {}
    torrent.path.write_bytes(libtorrent.bencode(whole))
    ran = fetch(cli, home, torrent.path, "--set", "dht=true", "--timeout", "1")
    assert ran.code == 1 and ("hash table" in ran.err) is not private


def test_peers_may_be_named_by_a_host_and_not_by_nonsense(cli: Cli, home: Path) -> None:
    ran = fetch(
        cli, home, f"magnet:?xt=urn:btih:{'a' * 40}", "--peer", "localhost:9", "--timeout", "1"
    )
    assert ran.code == 1 and "1 peer(s) given with --peer" in ran.err
    for peer in ("no.such.host.invalid:9", "..:9", "host:\u0663"):
        ran = fetch(cli, home, f"magnet:?xt=urn:btih:{'a' * 40}", "--peer", peer)
        assert ran.code == 2 and f"--peer {peer}" in ran.err


# ---------------------------------------------------------------- names


ALIKE = {"A.jpg": 30_000, "a.jpg": 31_000, "Cat/1.jpg": 32_000, "cat/1.jpg": 33_000, "a.1.jpg": 5}


@pytest.mark.parametrize("ignores_case", [False, True])
def test_names_that_differ_in_case_are_two_files(
    cli: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignores_case: bool
) -> None:
    content = fill(tmp_path, ALIKE)
    monkeypatch.setattr(files, "ignores_case", lambda folder: ignores_case)
    torrent = make_torrent(content, tmp_path / "x.torrent")
    with session(torrent, content.parent) as (peer, _):
        ran = fetch(cli, home, torrent.path, "--peer", peer)
    assert ran.code == 0, ran.err
    called = {"a.jpg": "a.2.jpg", "cat/1.jpg": "cat/1.1.jpg"} if ignores_case else {}
    expected = {called.get(name, name): data for name, data in held(content).items()}
    assert held(home / "raw/x") == expected
    for old, new in called.items():
        assert f"{old} is called {new} here" in ran.err
    assert "already complete" in fetch(cli, home, torrent.path, "--verify").out


def test_names_that_were_cut_to_the_same_are_two_files(
    cli: Cli, home: Path, tmp_path: Path
) -> None:
    content = fill(tmp_path, {"a.jpg": 20_000, "b.jpg": 20_999})
    torrent = make_torrent(content, tmp_path / "x.torrent")
    whole = libtorrent.bdecode(torrent.path.read_bytes())
    for number, file in enumerate(whole[b"info"][b"files"]):
        file[b"path"] = ["\u732b".encode() * 100 + b"%d.jpg" % number]
    torrent.path.write_bytes(libtorrent.bencode(whole))
    with session(torrent, tmp_path / "leech", seed=False) as (peer, handle):
        for number, name in enumerate(("a.jpg", "b.jpg")):
            path = tmp_path / "leech" / f"{number}"
            path.parent.mkdir(exist_ok=True)
            shutil.copy(content / name, path)
            handle.rename_file(number, f"{number}")
        handle.force_recheck()
        wait_until(lambda: handle.status().is_seeding, "the seed has it")
        ran = fetch(cli, home, torrent.path, "--peer", peer)
    assert ran.code == 0, ran.err
    found = held(home / "raw/x")
    first, second = sorted(found, key=lambda name: len(found[name]))
    assert second == re.sub(r"\.jpg$", ".1.jpg", first) and f"is called {second} here" in ran.err
    assert [found[first], found[second]] == [(content / n).read_bytes() for n in ("a.jpg", "b.jpg")]


def test_a_case_that_a_disk_ignores_is_found_out(tmp_path: Path) -> None:
    assert files.ignores_case(tmp_path / "not" / "yet") is (tmp_path / "UPPER").exists()
    (tmp_path / "upper").touch()
    assert files.ignores_case(tmp_path) is (tmp_path / "UPPER").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["upper"]


@pytest.mark.parametrize(
    ("paths", "plain", "folded"),
    [
        (["a", "a", "a"], ["a", "a.1", "a.2"], ["a", "a.1", "a.2"]),
        (["a.x", "A.x", "a.1.x"], ["a.x", "A.x", "a.1.x"], ["a.x", "A.2.x", "a.1.x"]),
        (["a", "a/b"], ["a.1", "a/b"], ["a.1", "a/b"]),
        (["a/b", "A"], ["a/b", "A"], ["a/b", "A.1"]),
        (["caf\u00e9", "cafe\u0301"], ["caf\u00e9", "cafe\u0301"], ["caf\u00e9", "cafe\u0301.1"]),
    ],
)
def test_the_same_names_get_the_same_numbers(
    paths: list[str], plain: list[str], folded: list[str]
) -> None:
    assert names.distinct(paths, fold=False) == plain
    assert names.distinct(paths, fold=True) == folded
    (_, long) = names.distinct(["\u732b" * 83 + ".jpg"] * 2, fold=True)
    assert long.endswith("\u732b.1.jpg") and 250 < len(long.encode()) <= 255


def test_a_file_called_like_a_pattern_is_named_by_its_name(
    cli: Cli, home: Path, tmp_path: Path
) -> None:
    content = fill(tmp_path, {"data [v2].zip": 30_000, "data v.zip": 20_000, "a[": 5})
    torrent = make_torrent(content, tmp_path / "x.torrent")
    home.mkdir()
    entry = {"info_hash": torrent.info_hash, "files": [{"path": "data [v2].zip", "note": "[b]"}]}
    (home / "catalog.yaml").write_text(json.dumps({"datasets": {"x": entry}}))
    with session(torrent, content.parent) as (peer, _):
        ran = fetch(cli, home, "x", "--peer", peer)
        assert ran.code == 0 and held(home / "raw/x").keys() == {"data [v2].zip"}, ran.err
        ran = fetch(
            cli, home, torrent.path, "--peer", peer, "--files", "data [v2].zip", "--name", "y"
        )
        assert ran.code == 0 and held(home / "raw/y").keys() == {"data [v2].zip"}, ran.err
        ran = fetch(cli, home, torrent.path, "--peer", peer, "--files", "a[", "--name", "z")
    assert ran.code == 0 and held(home / "raw/z").keys() == {"a["}, ran.err
    listed = fetch(cli, home, "x", "--list")
    assert re.search(r"^ *data \[v2\]\.zip +30\.0 KB +yes +\[b\]", listed.out, re.M), listed.out


# ---------------------------------------------------------------- what others left in the folder


def test_a_folder_that_another_program_filled_is_taken(
    cli: Cli, home: Path, content: Path, tmp_path: Path
) -> None:
    torrent = make_torrent(content, tmp_path / "x.torrent")
    for folder in ("x", "y"):
        shutil.copytree(content, home / "raw" / folder / "Some Data")
    ran = fetch(cli, home, torrent.path)  # nobody gives it
    assert ran.code == 0 and "took 3 file(s)" in ran.err, ran.err
    assert held(home / "raw/x") == held(content)
    with session(torrent, content.parent) as (peer, seed):  # gives the list of files
        ran = fetch(cli, home, torrent.magnet, "--peer", peer, "--name", "y")
        assert seed.status().total_payload_upload == 0
    assert ran.code == 0 and held(home / "raw/y") == held(content), ran.err


@pytest.mark.parametrize("own", ["a.jpg", "b", ".resume", ".torrent", ".lock", "parts"])
def test_nothing_is_written_through_links(
    cli: Cli, home: Path, content: Path, tmp_path: Path, own: str
) -> None:
    torrent = make_torrent(content, tmp_path / "x.torrent")
    outside = tmp_path / "outside"
    if own == "b":
        outside.mkdir()
    else:
        outside.write_bytes(b"precious")
    (home / "raw/x").mkdir(parents=True)
    own = f".{torrent.info_hash}.parts" if own == "parts" else own
    (home / "raw/x" / own).symlink_to(outside)
    with session(torrent, content.parent) as (peer, _):
        ran = fetch(cli, home, torrent.path, "--peer", peer, "--files", "*.jpg")
    assert ran.code == 0, ran.err
    assert held(home / "raw/x").keys() == {"a.jpg", "b/d.jpg"}
    assert list(outside.iterdir()) == [] if own == "b" else outside.read_bytes() == b"precious"


# ---------------------------------------------------------------- magnet links

HEX = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("link", "info_hash", "made"),
    [
        (f"MAGNET:?xt=urn:btih:{HEX}", HEX, f"xt=urn:btih:{HEX}"),
        (f"magnet:?XT=URN:BTIH:{HEX.upper()}&DN=a%20b", HEX, f"xt=urn:btih:{HEX}&dn=a%20b"),
        ("magnet:?xt=urn:btih:" + "a" * 32, "0" * 40, f"xt=urn:btih:{'0' * 40}"),
        (f"magnet:?xt.1=urn:sha1:{'b' * 32}&xt.2=urn:btih:{HEX}", HEX, f"xt=urn:btih:{HEX}"),
        (
            f"magnet:?xt=urn:btmh:1220{'c' * 64}&xt=urn:btih:{HEX}&tr=http://a/%3Fx%26y",
            HEX,
            f"xt=urn:btih:{HEX}&xt=urn:btmh:1220{'c' * 64}&tr=http:%2F%2Fa%2F%3Fx%26y",
        ),
    ],
)
def test_magnet_links_as_people_paste_them(link: str, info_hash: str, made: str) -> None:
    found = magnet.parse(link)
    assert (found.info_hash, found.link) == (info_hash, f"magnet:?{made}")
    assert magnet.is_one(link)
    hashes = libtorrent.parse_magnet_uri(found.link).info_hashes
    assert info_hash in (str(hashes.v1), str(hashes.v2))


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("magnet:?xt=urn:btih:" + "1" * 32, "is no info-hash"),
        ("magnet:?xt=urn:btih:", "is no info-hash"),
        ("magnet:?xt=urn:btih", "has no xt="),
        ("magnet:?xt=urn:btmh:1220" + "c" * 63, "is no info-hash"),
        ("magnet:", "has no xt="),
        ("magnet:?xt=urn:ed2k:abc", "has no xt="),
        (f"magnet:?xt=urn:btih:{HEX}&so=3-", "write it as so=0,2,5-7"),
        (f"magnet:?xt=urn:btih:{HEX}&so=\u0663", "write it as so="),
        ("magnet://[oops", "has no xt="),
    ],
)
def test_a_wrong_magnet_link_is_a_sentence(cli: Cli, home: Path, link: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        magnet.parse(link)
    ran = fetch(cli, home, link)
    assert ran.code == 2 and says in ran.err and not (home / "raw").exists()


def test_only_what_another_program_left_is_taken(tmp_path: Path) -> None:
    def adopted(*paths: str) -> dict[str, bytes]:
        entries = tuple(Entry(n, path, 1, n) for n, path in enumerate(paths))
        job = SimpleNamespace(folder=tmp_path / "here", report=lambda event: None)
        found = Contents("0" * 40, "x", entries, 16384, len(paths), len(paths))
        bittorrent._adopt(job, found, [*entries])  # type: ignore[arg-type]
        return held(tmp_path / "here")

    (tmp_path / "here/x").mkdir(parents=True)
    (tmp_path / "here/x/a").write_bytes(b"a")
    assert adopted("x/a", "a") == {"x/a": b"a"}  # it is where it belongs
    (tmp_path / "there").mkdir()
    (tmp_path / "there/b").write_bytes(b"b")
    (tmp_path / "here/x/y").symlink_to(tmp_path / "there")
    adopted("y/b")
    assert (tmp_path / "there/b").read_bytes() == b"b"
    assert adopted("a") == {"a": b"a"}
