"""Downloads over HTTP from real web servers on loopback, with the faults that real ones have."""

import hashlib
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, start
from swarm import Site, site, wait_until

CONTENT = os.urandom(300_000)


@pytest.fixture
def www(tmp_path: Path) -> Path:
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "data.zip").write_bytes(CONTENT)
    return folder


def catalogue(home: Path, *urls: str, **facts: Any) -> None:
    """A user's catalogue with one dataset, `mine`, of one file."""
    file = {"path": "data.zip", "urls": list(urls), **facts}
    home.mkdir(exist_ok=True)
    content = {"datasets": {"mine": {"title": "Mine", "files": [file]}}}
    (home / "catalog.yaml").write_text(json.dumps(content))


def fetched(home: Path) -> bytes:
    return (home / "raw/mine/data.zip").read_bytes()


def leftovers(home: Path) -> list[str]:
    own = {"manifest.json", ".lock", "data.zip"}
    return [p.name for p in (home / "raw/mine").iterdir() if p.name not in own]


Cli = Callable[..., Ran]


def test_a_file_comes_whole_and_is_not_asked_for_again(cli: Cli, tmp_path: Path, www: Path) -> None:
    home = tmp_path / "home"
    digest = hashlib.sha256(CONTENT).hexdigest()
    with site(www) as server:
        catalogue(home, f"{server.url}/data.zip", size_bytes=len(CONTENT), sha256=digest)
        ran = cli("--home", home, "--json", "fetch", "mine")
        assert ran.code == 0 and fetched(home) == CONTENT and not leftovers(home)
        assert json.loads(ran.out)["fresh"] is True
        manifest = json.loads((home / "raw/mine/manifest.json").read_text())
        assert manifest["complete"] and manifest["counts"]["files"]["data.zip"]["sha256"] == digest
        assert cli("--home", home, "fetch", "mine").code == 0
        assert len(server.requests) == 1
    ran = cli("--home", home, "fetch", "mine")
    assert ran.code == 0 and "already complete" in ran.out


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_is_taken_up_again(
    cli: Cli, tmp_path: Path, www: Path, ranges: bool
) -> None:
    home = tmp_path / "home"
    with site(www, ranges=ranges, break_after=120_000) as server:
        catalogue(home, f"{server.url}/data.zip")
        if not ranges:  # a server that always starts again and always breaks off never gets there
            wait = ["--timeout", "3"]
            ran = cli("--home", home, "fetch", "mine", *wait)
            assert ran.code == 1 and "broke off after" in ran.err
            server.break_after = None
        ran = cli("--home", home, "fetch", "mine")
        assert ran.code == 0 and fetched(home) == CONTENT and not leftovers(home)
        if ranges:
            asked = [header for _, header in server.requests]
            assert asked == ["", "bytes=120000-", "bytes=240000-"]
            assert server.sent == len(CONTENT)


def test_the_next_mirror_is_asked_when_one_fails(cli: Cli, tmp_path: Path, www: Path) -> None:
    home, empty, other = tmp_path / "home", tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    (other / "data.zip").write_bytes(CONTENT[:1000])
    with site(empty) as gone, site(other) as wrong, site(www) as good:
        urls = [f"{s.url}/data.zip" for s in (gone, wrong, good)]
        catalogue(home, "http://127.0.0.1:9/data.zip", *urls, size_bytes=len(CONTENT))
        ran = cli("--home", home, "fetch", "mine")
    assert ran.code == 0 and fetched(home) == CONTENT
    assert "Connection refused" in ran.err and "404" in ran.err and "another file" in ran.err


def test_a_wrong_checksum_is_an_error_and_leaves_no_file(
    cli: Cli, tmp_path: Path, www: Path
) -> None:
    home = tmp_path / "home"
    with site(www) as server:
        catalogue(home, f"{server.url}/data.zip", sha256="0" * 64)
        ran = cli("--home", home, "fetch", "mine")
    assert ran.code == 1 and "checksum is wrong" in ran.err
    assert not (home / "raw/mine/data.zip").exists() and not leftovers(home)


def test_md5_is_checked_where_nothing_better_is_known(cli: Cli, tmp_path: Path, www: Path) -> None:
    home = tmp_path / "home"
    with site(www) as server:
        catalogue(home, f"{server.url}/data.zip", md5="0" * 32)
        assert cli("--home", home, "fetch", "mine").code == 1
        catalogue(home, f"{server.url}/data.zip", md5=hashlib.md5(CONTENT).hexdigest())
        assert cli("--home", home, "fetch", "mine").code == 0


def test_all_mirrors_gone_is_one_sentence_with_each(cli: Cli, tmp_path: Path, www: Path) -> None:
    home = tmp_path / "home"
    with site(www, refuse=403) as refuses, site(www / "nowhere") as lost:
        catalogue(home, f"{refuses.url}/data.zip", f"{lost.url}/data.zip")
        ran = cli("--home", home, "fetch", "mine", "--timeout", "5")
    assert ran.code == 1 and "403" in ran.err and "404" in ran.err
    assert len(ran.err.strip().splitlines()[-1]) < 400
    assert not (home / "raw/mine/manifest.json").exists()


def test_a_silent_server_ends_in_the_timeout(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # listens, accepts nothing, says nothing
        port = silent.getsockname()[1]
        catalogue(home, f"http://127.0.0.1:{port}/data.zip")
        ran = cli("--home", home, "fetch", "mine", "--timeout", "2")
    assert ran.code == 1 and "nothing came for 2 s" in ran.err and "silent" in ran.err


def test_a_changed_file_is_not_glued_to_the_old_one(cli: Cli, tmp_path: Path, www: Path) -> None:
    home = tmp_path / "home"
    with site(www, break_after=100_000) as server:
        catalogue(home, f"{server.url}/data.zip")
        assert cli("--home", home, "fetch", "mine", "--timeout", "1").code in (0, 1)
    other = os.urandom(300_000)
    with site(www, break_after=100_000) as server:
        catalogue(home, f"{server.url}/data.zip")
        (home / "raw/mine/data.zip").unlink(missing_ok=True)
        (www / "data.zip").write_bytes(other)
        assert cli("--home", home, "fetch", "mine").code == 0
    assert fetched(home) == other


def test_a_file_put_there_by_hand_is_taken_if_it_is_right(
    cli: Cli, tmp_path: Path, www: Path
) -> None:
    home = tmp_path / "home"
    (home / "raw/mine").mkdir(parents=True)
    digest = hashlib.sha256(CONTENT).hexdigest()
    with site(www) as server:
        catalogue(home, f"{server.url}/data.zip", sha256=digest)
        (home / "raw/mine/data.zip").write_bytes(CONTENT)
        assert cli("--home", home, "fetch", "mine").code == 0
        assert server.requests == []
        (home / "raw/mine/data.zip").write_bytes(CONTENT[:-1] + b"?")
        ran = cli("--home", home, "fetch", "mine", "--verify")
        assert ran.code == 0 and "not as it was fetched" in ran.err
        assert fetched(home) == CONTENT and len(server.requests) == 1


def test_verify_finds_a_byte_that_changed_behind_the_back(
    cli: Cli, tmp_path: Path, www: Path
) -> None:
    home = tmp_path / "home"
    with site(www) as server:
        catalogue(home, f"{server.url}/data.zip")
        assert cli("--home", home, "fetch", "mine").code == 0
        path = home / "raw/mine/data.zip"
        before = path.stat()
        path.write_bytes(b"?" + CONTENT[1:])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert "already complete" in cli("--home", home, "fetch", "mine").out
        ran = cli("--home", home, "fetch", "mine", "--verify")
        assert ran.code == 0 and "not as it was fetched" in ran.err and fetched(home) == CONTENT


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path: Path, www: Path) -> None:
    home = tmp_path / "home"
    content = os.urandom(3_000_000)
    (www / "data.zip").write_bytes(content)

    def begun(server: Site, share: float) -> bool:
        return server.sent > share * len(content)

    with site(www, bytes_a_second=1_000_000) as server:
        catalogue(home, f"{server.url}/data.zip")
        for number in (signal.SIGTERM, signal.SIGINT):
            already = server.sent / len(content)
            process = start(home, "fetch", "mine")
            wait_until(lambda a=already: begun(server, a + 0.2), "some of it came")
            process.send_signal(number)
            _, err = process.communicate(timeout=20)
            assert process.returncode == 128 + number and "the same command continues" in err
        server.bytes_a_second = None
        process = start(home, "fetch", "mine")
        process.communicate(timeout=60)
    assert process.returncode == 0 and fetched(home) == content
    assert server.sent < 1.5 * len(content)
    assert all(header for _, header in server.requests[1:])


def test_the_rate_limit_holds(cli: Cli, tmp_path: Path, www: Path) -> None:
    home = tmp_path / "home"
    with site(www) as server:
        catalogue(home, f"{server.url}/data.zip")
        ran = cli("--home", home, "--json", "--set", "max_down_mb_s=0.2", "fetch", "mine")
    rates = [json.loads(line)["rate"] for line in ran.err.splitlines()]
    assert ran.code == 0 and 0 < max(rates) < 400_000
