"""`fetch NAME` for each dataset of the catalogue: true file names and layout, tiny contents."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran
from swarm import ALONE, Site, make_torrent, site

from dallebaby_cli.fetch import catalog
from dallebaby_cli.fetch.catalog import Dataset, File

KNOWN = catalog.load(Path("nowhere"))
Cli = Callable[..., Ran]


def by(transport: str) -> list[Any]:
    return [pytest.param(d, id=d.name) for d in KNOWN.values() if d.transport == transport]


def fill(folder: Path, files: list[File]) -> None:
    """Small contents under the true names; a folder of the catalogue holds two files."""
    for file in files:
        names = [file.path]
        if file.path.endswith("/"):
            names = [f"{file.path}{name}" for name in ("one.tar.gz", "deeper/two.tar.gz")]
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(20_000 + len(name)))


def override(home: Path, dataset: Dataset, server: Site, **fields: Any) -> None:
    """A user's catalogue: the same dataset, served from here, without the real one's sizes."""
    files = []
    for file in dataset.files:
        urls = [f"{server.url}/beside/{file.path}"] if file.urls else []
        unknown = {"size_bytes": None, "sha256": None, "md5": None}
        files.append({**asdict(file), **unknown, "urls": urls})
    entry = {"trackers": [], "torrent_url": None, "web_seeds": [], "files": files, **fields}
    home.mkdir()
    (home / "catalog.yaml").write_text(json.dumps({"datasets": {dataset.name: entry}}))


def brought(folder: Path) -> dict[str, bytes]:
    own = {"manifest.json", ".lock", ".torrent"}
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in own}


@pytest.mark.parametrize("dataset", by("bittorrent"))
def test_a_torrent_of_the_catalogue(cli: Cli, tmp_path: Path, dataset: Dataset) -> None:
    home, www = tmp_path / "home", tmp_path / "www"
    top = www / "the top folder"
    fill(top, [f for f in dataset.files if f.in_torrent])
    fill(www / "beside", [f for f in dataset.files if not f.in_torrent])
    (top / "README.txt").write_text("in no catalogue")
    with site(www) as server:
        torrent = make_torrent(top, www / "it.torrent", web_seeds=[f"{server.url}/"])
        override(
            home,
            dataset,
            server,
            info_hash=torrent.info_hash,
            torrent_url=f"{server.url}/it.torrent",
            web_seeds=[f"{server.url}/"],
        )
        ran = cli("--home", home, "fetch", dataset.name, "--timeout", "20", *ALONE)
        assert ran.code == 0, ran.err
        listed = cli("--home", home, "--json", "fetch", dataset.name, "--list", *ALONE)
    expected = {
        f.path: ((top if f.in_torrent else www / "beside") / f.path).read_bytes()
        for f in dataset.files
        if f.wanted
    }
    assert brought(home / "raw" / dataset.name) == expected
    wanted = {row["path"] for row in json.loads(listed.out)["files"] if row["wanted"]}
    assert wanted == set(expected)
    here = json.loads(cli("--home", home, "--json", "datasets", dataset.name).out)
    assert here["fetched"] and not here["prepared"]


@pytest.mark.parametrize("dataset", by("http"))
def test_a_web_site_of_the_catalogue(cli: Cli, tmp_path: Path, dataset: Dataset) -> None:
    home, www = tmp_path / "home", tmp_path / "www"
    fill(www / "beside", list(dataset.files))
    with site(www) as server:
        override(home, dataset, server)
        ran = cli("--home", home, "fetch", dataset.name)
    assert ran.code == 0, ran.err
    expected = {f.path: (www / "beside" / f.path).read_bytes() for f in dataset.files if f.wanted}
    assert brought(home / "raw" / dataset.name) == expected


def test_labels_alone_need_no_swarm(cli: Cli, tmp_path: Path) -> None:
    home, www, dataset = tmp_path / "home", tmp_path / "www", KNOWN["visual-genome"]
    fill(www / "beside", [f for f in dataset.files if not f.in_torrent])
    with site(www) as server:
        override(home, dataset, server)
        ran = cli("--home", home, "fetch", dataset.name, "--files", "image_data*", *ALONE)
    assert ran.code == 0, ran.err
    assert brought(home / "raw/visual-genome").keys() == {"image_data.json.zip"}


# ---------------------------------------------------------------- Kaggle

ZIP = b"PK\x05\x06" + bytes(18)  # an empty but whole archive
CLIENT = f"""#!{sys.executable}
import pathlib, sys
assert sys.argv[1:5] == ["datasets", "download", "-d", "hsankesara/flickr-image-dataset"], sys.argv
{{action}}
folder = pathlib.Path(sys.argv[sys.argv.index("-p") + 1])
(folder / "flickr-image-dataset.zip").write_bytes({ZIP!r})
"""


def client(folder: Path, monkeypatch: pytest.MonkeyPatch, action: str = "") -> None:
    """A program in place of Kaggle's client, which works only with an account."""
    folder.mkdir(exist_ok=True)
    (folder / "kaggle").write_text(CLIENT.replace("{action}", action))
    (folder / "kaggle").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))  # a client beside it comes first


def test_flickr30k_comes_through_kaggles_client(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path / "bin", monkeypatch)
    ran = cli("--home", tmp_path / "home", "fetch", "flickr30k")
    assert ran.code == 0, ran.err
    assert brought(tmp_path / "home/raw/flickr30k") == {"flickr-image-dataset.zip": ZIP}


def test_without_a_token_the_way_to_one_is_told(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path / "bin", monkeypatch, "sys.exit('401 - Unauthorized')")
    ran = cli("--home", tmp_path / "home", "fetch", "flickr30k")
    assert ran.code == 1 and "401 - Unauthorized" in ran.err
    assert "kaggle.com/settings" in ran.err and "in a browser" in ran.err
    assert not (tmp_path / "home/raw/flickr30k/manifest.json").exists()


def test_without_a_client_the_way_to_one_is_told(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    ran = cli("--home", tmp_path / "home", "fetch", "flickr30k")
    assert ran.code == 1 and "pip install kaggle" in ran.err


@pytest.mark.parametrize("name", ["flickr-image-dataset.zip", "archive.zip"])
def test_a_zip_from_a_browser_is_taken(cli: Cli, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "home/raw/flickr30k"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"half of it")
    ran = cli("--home", tmp_path / "home", "fetch", "flickr30k")
    assert ran.code == 1 and "is not a whole zip" in ran.err
    (folder / "flickr-image-dataset.zip").unlink()
    (folder / name).write_bytes(ZIP)
    ran = cli("--home", tmp_path / "home", "fetch", "flickr30k")
    assert ran.code == 0 and brought(folder) == {"flickr-image-dataset.zip": ZIP}


def test_a_client_that_hangs_is_stopped(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path / "bin", monkeypatch, "import time; time.sleep(60)")
    ran = cli("--home", tmp_path / "home", "fetch", "flickr30k", "--timeout", "1")
    assert ran.code == 1 and "Kaggle sent nothing for 1 s" in ran.err


# ---------------------------------------------------------------- patterns


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Site]]:
    """A workspace whose catalogue has one dataset a transport, each with the same two files, and
    the site that serves them."""
    www, home = tmp_path / "www", tmp_path / "home"
    (www / "d").mkdir(parents=True)
    for name in ("one.zip", "two.csv"):
        (www / "d" / name).write_bytes(ZIP if name == "one.zip" else b"a,b\n")
    client(tmp_path / "bin", monkeypatch)
    with site(www) as server:
        torrent = make_torrent(www / "d", www / "d.torrent", web_seeds=[f"{server.url}/"])
        found = [{"path": n, "urls": [f"{server.url}/d/{n}"]} for n in ("one.zip", "two.csv")]
        kaggle = "hsankesara/flickr-image-dataset"
        entries = {
            "web": {"files": found},
            "kaggle": {"kaggle": kaggle, "files": [{"path": "one.zip", "also": ["archive.zip"]}]},
            "swarm": {
                "info_hash": torrent.info_hash,
                "torrent_url": f"{server.url}/d.torrent",
                "web_seeds": [f"{server.url}/"],
                "files": [{"path": n} for n in ("one.zip", "two.csv")],
            },
        }
        home.mkdir()
        (home / "catalog.yaml").write_text(json.dumps({"datasets": entries}))
        yield home, server


TRANSPORTS = pytest.mark.parametrize("name", ["web", "kaggle", "swarm"])


def fetch(cli: Cli, home: Path, name: str, *patterns: str) -> Ran:
    asked = [part for pattern in patterns for part in ("--files", pattern)]
    return cli("--home", home, "fetch", name, "--timeout", "20", *asked, *ALONE)


@TRANSPORTS
@pytest.mark.parametrize("pattern", ["*.zip", "one.zip", "o*", "**.zip", "[o]ne.zip"])
def test_a_glob_brings_what_it_names(
    cli: Cli, datasets: tuple[Path, Site], name: str, pattern: str
) -> None:
    home, _ = datasets
    ran = fetch(cli, home, name, pattern)
    assert ran.code == 0, ran.err
    assert brought(home / "raw" / name) == {"one.zip": ZIP}
    assert "already complete" in fetch(cli, home, name, "*.zip").out


@TRANSPORTS
def test_a_pattern_that_names_nothing_is_refused(
    cli: Cli, datasets: tuple[Path, Site], name: str
) -> None:
    home, _ = datasets
    ran = fetch(cli, home, name, "*.zip", "one.zp")
    assert ran.code == 2
    (line,) = (row for row in ran.err.splitlines() if row.startswith("error: "))
    assert f"--files one.zp: nothing in {name} has such a path; did you mean 'one.zip'?" in line
    assert not (home / "raw" / name / "manifest.json").exists()
    assert fetch(cli, home, name, "*.zip").code == 0
    before = (home / "raw" / name / "manifest.json").read_bytes()
    ran = fetch(cli, home, name, "*.tar")  # nor when something is here
    assert ran.code == 2 and "--files *.tar: nothing in" in ran.err
    assert (home / "raw" / name / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["web", "kaggle"])
def test_what_was_called_complete_with_no_files_is_fetched_now(
    cli: Cli, datasets: tuple[Path, Site], name: str
) -> None:
    """A glob once left such manifests."""
    home, _ = datasets
    assert fetch(cli, home, name, "*.zip").code == 0
    (home / "raw" / name / "one.zip").unlink()
    path = home / "raw" / name / "manifest.json"
    content = json.loads(path.read_text())
    content["counts"] |= {"files": {}, "bytes": 0}
    path.write_text(json.dumps(content))
    assert fetch(cli, home, name, "*.zip").code == 0
    assert brought(home / "raw" / name) == {"one.zip": ZIP}


@TRANSPORTS
def test_a_further_pattern_adds_to_what_is_here(
    cli: Cli, datasets: tuple[Path, Site], name: str
) -> None:
    home, _ = datasets
    assert fetch(cli, home, name, "*.zip").code == 0
    ran = fetch(cli, home, name, "*")
    assert ran.code == 0, ran.err
    expected = {"one.zip"} if name == "kaggle" else {"one.zip", "two.csv"}
    assert brought(home / "raw" / name).keys() == expected


def test_a_pattern_may_be_typed_as_windows_writes_paths(cli: Cli, tmp_path: Path) -> None:
    home, www = tmp_path / "home", tmp_path / "www"
    for path in ("deep/er/a.zip", "deep/b.zip"):
        (www / "d" / path).parent.mkdir(parents=True, exist_ok=True)
        (www / "d" / path).write_bytes(path.encode())
    with site(www) as server:
        torrent = make_torrent(www / "d", www / "d.torrent", web_seeds=[f"{server.url}/"])
        ran = fetch(cli, home, str(torrent.path), r"er\*.zip")
    assert ran.code == 0, ran.err
    assert brought(home / "raw" / "d").keys() == {"deep/er/a.zip"}


def test_a_glob_that_names_files_beside_the_torrent_asks_the_torrent_too(
    cli: Cli, tmp_path: Path
) -> None:
    home, www, dataset = tmp_path / "home", tmp_path / "www", KNOWN["visual-genome"]
    top = www / "top"
    fill(top, [f for f in dataset.files if f.in_torrent])
    fill(www / "beside", [f for f in dataset.files if not f.in_torrent])
    with site(www) as server:
        torrent = make_torrent(top, www / "it.torrent", web_seeds=[f"{server.url}/"])
        address = {"torrent_url": f"{server.url}/it.torrent", "web_seeds": [f"{server.url}/"]}
        override(home, dataset, server, info_hash=torrent.info_hash, **address)
        ran = fetch(cli, home, dataset.name, "*.zip")
    assert ran.code == 0, ran.err
    here = brought(home / "raw" / dataset.name).keys()
    assert here == {f.path for f in dataset.files if f.path.endswith(".zip")}


def test_mirrors_do_not_stand_in_for_a_torrent_that_holds_more(cli: Cli, tmp_path: Path) -> None:
    """What the catalogue does not list is in the torrent alone: nothing is left out silently."""
    home, www = tmp_path / "home", tmp_path / "www"
    top = www / "top"
    fill(top, [File(path="known.zip"), File(path="more.txt")])
    with site(www) as server:
        torrent = make_torrent(top, www / "it.torrent")  # nobody seeds it
        entry = {
            "info_hash": torrent.info_hash,
            "torrent_url": f"{server.url}/it.torrent",
            "files": [{"path": "known.zip", "urls": [f"{server.url}/top/known.zip"]}],
        }
        home.mkdir()
        (home / "catalog.yaml").write_text(json.dumps({"datasets": {"mine": entry}}))
        arguments = ["fetch", "mine", "--timeout", "4", *ALONE]
        both = ["--files", "known.zip", "--files", "more.txt"]
        ran = cli("--home", home, *arguments, *both)
        assert ran.code == 1 and "nothing came" in ran.err
        ran = cli("--home", home, *arguments, "--files", "known.zip")
    assert ran.code == 0, ran.err


def test_a_kaggle_client_that_only_talks_is_stopped(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says, and though it does not listen: what counts is what it brings."""
    talk = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True: print('still waiting \\x1b[2J' * 99, flush=True); time.sleep(0.1)"
    )
    client(tmp_path / "bin", monkeypatch, talk)
    monkeypatch.setattr("dallebaby_cli.fetch.kaggle.PATIENCE_S", 0.2)
    ran = cli("--home", tmp_path / "home", "fetch", "flickr30k", "--timeout", "1")
    assert ran.code == 1 and "Kaggle sent nothing for 1 s" in ran.err and "\x1b" not in ran.err


def test_an_archive_from_kaggle_is_the_one_that_the_catalogue_knows(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path / "bin", monkeypatch)
    home, outside = tmp_path / "home", tmp_path / "outside"
    outside.mkdir()
    (home / "raw/mine").mkdir(parents=True)
    (home / "raw/mine/.kaggle.part").symlink_to(outside)
    for facts, code in (
        ({"size_bytes": 23}, 1),
        ({"sha256": "0" * 64}, 1),
        ({"size_bytes": 22}, 0),
    ):
        entry = {"kaggle": "hsankesara/flickr-image-dataset", "files": [{"path": "a.zip", **facts}]}
        (home / "catalog.yaml").write_text(json.dumps({"datasets": {"mine": entry}}))
        ran = cli("--home", home, "fetch", "mine")
        assert ran.code == code and ("archive that the catalogue knows" in ran.err) is bool(code)
    assert list(outside.iterdir()) == []
