"""Windows and macOS, as far as Linux can show: no module needs what POSIX alone has, and the chain
from scenes to a picture runs without it (elsewhere/sitecustomize.py), in a home with a blank and
letters that cp1252 lacks, with output in cp1252."""

import ast
import errno
import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import draw_folder
from swarm import ALONE, make_torrent, site
from test_rules import TREES, at_import

from dallebaby_cli import files, names
from dallebaby_cli.errors import UsageError
from dallebaby_cli.fetch.file_list import Entry
from dallebaby_cli.prep import archives
from dallebaby_cli.store import manifest
from dallebaby_cli.training import engine

ROOT = Path(__file__).parent.parent
POSIX = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "posix", "syslog", "curses"}


def elsewhere(home: Path, code: str, *arguments: object) -> str:
    """Run a program there; what it printed. It must end well."""
    there = {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests" / "elsewhere", ROOT))),
        "PYTHONIOENCODING": "cp1252",
        "PYTHONWARNDEFAULTENCODING": "1",
        "ELSEWHERE": str(home),
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ran = subprocess.run(command, env=os.environ | there, capture_output=True)
    out, err = (stream.decode("cp1252") for stream in (ran.stdout, ran.stderr))
    assert ran.returncode == 0, f"{out}\n{err}"
    return out


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "Größe und Bäume 木" / "home"


def test_elsewhere_is_elsewhere(home: Path) -> None:
    """The stage set of the tests below stands: each thing that is gone there is missed."""
    home.mkdir(parents=True)
    code = """
import fcntl, os, pathlib
home = pathlib.Path(os.environ["ELSEWHERE"])
(home / "a").write_text("one\\ntwo\\n", encoding="utf-8")
assert (home / "a").read_bytes() == b"one\\r\\ntwo\\r\\n"
def fails(kind, code):
    try:
        exec(code, {"__name__": "dallebaby_cli.x", "home": home})
    except kind as error:
        return
    raise AssertionError(code)
fails(ImportError, "import fcntl")
fails(ImportError, "from resource import getrusage")
fails(ImportError, "from os import pread")
fails(AttributeError, "import os; os.sysconf")
fails(AttributeError, "import signal; signal.SIGKILL")
fails(PermissionError, "import os; os.open(home, os.O_RDONLY)")
fails(PermissionError, "with (home / 'a').open('rb'): (home / 'a').unlink()")
fails(PermissionError, "import numpy; m = numpy.memmap(home / 'a'); (home / 'a').rename('x')")
fails(FileExistsError, "(home / 'c').touch(); (home / 'a').rename(home / 'c')")
fails(EncodingWarning, "(home / 'a').read_text()")
fails(UnicodeEncodeError, "print('木')")
"""
    elsewhere(home, code)


def test_every_module_can_be_imported(home: Path) -> None:
    code = """
import importlib, pkgutil, dallebaby_cli
found = [m.name for m in pkgutil.walk_packages(dallebaby_cli.__path__, "dallebaby_cli.")]
for name in found:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(found))
"""
    assert int(elsewhere(home, code)) == len(TREES) - 1  # all but the package itself


CHAIN = """
import sys
from dallebaby_cli.app import main
from sitecustomize import GONE

def run(*arguments):
    try:
        main(["--home", HOME, *arguments])
    except SystemExit as end:
        assert not end.code, (arguments, end.code)

if __name__ == "__main__":
    HOME, torrent, *alone = sys.argv[1:]
    small = ("--px", "16", "--workers", "2")
    run("fetch", torrent, "--files", "more\\\\*.png", *alone)
    run("prep", "pictures", *small)
    run("prep", "scenes", "--limit", "300", *small)
    run("prep", "scenes", "--limit", "280", *small)  # in place of those
    GONE.discard("resource")  # macOS has it, Windows another way
    run("doctor", "--preset", "tiny", "--set", "model.grid=4")
    GONE.add("resource")
    run("train-vae", "--preset", "tiny", "--steps", "4", "--set", "model.grid=4")
    run("encode")
    run("train", "--preset", "tiny", "--steps", "3", "--run", "r")
    run("train", "--preset", "tiny", "--steps", "4", "--run", "r")  # goes on
    run("generate", "ein blaues Haus → 木", "-n", "2", "--out", HOME + "/ein Bild.png")
    run("status")
"""


def test_the_chain_runs_from_scenes_to_a_picture(home: Path) -> None:
    folder = draw_folder(home.parent / "pictures" / "more", 20).parent
    (folder / "none.txt").write_bytes(b"not asked for")
    with site(home.parent) as server:
        seeds = [f"{server.url}/"]
        torrent = make_torrent(folder, home.parent / "pictures.torrent", web_seeds=seeds)
        out = elsewhere(home, CHAIN, home, torrent.path, *ALONE)
    assert (home / "ein Bild.png").is_file() and "train: learning" in out and "dalle" in out
    assert not (home / "raw" / "pictures" / "none.txt").exists()
    assert not (home / ".doctor" / "scratch").exists()
    texts = [p for p in home.rglob("*") if p.suffix in (".json", ".jsonl", ".yaml", ".txt")]
    assert len(texts) > 8 and not [p for p in texts if b"\r" in p.read_bytes()]
    stored = [p.read_text(encoding="utf-8") for p in texts if p.name != "tokenizer.json"]
    assert not [text for text in stored if "\\\\" in text]


WINDOWS = """
import contextlib, errno, io, os, pathlib, threading
from dallebaby_cli import app, files
home = pathlib.Path(os.environ["ELSEWHERE"])
(home / "nothing").mkdir(parents=True)
said = io.StringIO()
with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
    app.main(["--home", str(home), "prep", str(home / "nothing")])
assert "holds no pictures" in said.getvalue(), said.getvalue()
assert not (home / "images" / "nothing").exists()

path = home / "read"
files.write_text(path, "before")
reader = path.open("rb")
threading.Timer(0.3, reader.close).start()
files.write_text(path, "after")
assert path.read_bytes() == b"after"
files.OTHERS_READ_S = 0.1
with path.open("rb"):
    try:
        files.write_text(path, "never")
    except PermissionError:
        pass
    else:
        raise AssertionError
assert path.read_bytes() == b"after" and [*home.glob(".read*")] == []

assert app._unheard(OSError(errno.EINVAL, "Invalid argument"))
assert not app._unheard(OSError(errno.EINVAL, "Invalid argument", "a file"))
"""


def test_what_windows_does_otherwise(home: Path) -> None:
    """A refused dataset leaves no folder, whose lock was open; a file that somebody reads is
    replaced a little later, or stays; and a reader that leaves gives another error."""
    elsewhere(home, WINDOWS)


def test_torch_starts_one_process_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert engine.processes("auto") == engine.processes("1") == 1
    with pytest.raises(UsageError, match="on Windows torch starts only one; take --processes 1"):
        engine.processes("2")


def test_junctions_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives.stat, "IO_REPARSE_TAG_MOUNT_POINT", 3, raising=False)
    for tag, link, expected in ((0, False, False), (3, False, True), (0, True, True)):
        about = SimpleNamespace(st_reparse_tag=tag)
        entry: Any = SimpleNamespace(
            is_symlink=lambda link=link: link, stat=lambda follow_symlinks, about=about: about
        )
        assert archives._is_link(entry) == expected


def test_a_disk_that_cannot_sync_folders_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a network; what its other errors say is heard."""
    sync, code = os.fsync, errno.EINVAL

    def of_a_network(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", of_a_network)
    files.write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "text"
    code = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.write_text(tmp_path / "a", "text")


# ---------------------------------------------------------------- paths


def test_paths_that_are_stored_or_matched_have_slashes_everywhere() -> None:
    folder, file = PureWindowsPath(r"C:\Daten\raw"), PureWindowsPath(r"C:\Daten\raw\a b\ö.png")
    assert names.below(folder, file) == "a b/ö.png"
    assert names.below(folder, folder) == ""


def test_a_torrent_is_told_paths_as_the_system_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Entry(0, "a/b.zip", 1, 0).here == str(Path("a") / "b.zip")
    monkeypatch.setattr("dallebaby_cli.fetch.file_list.PurePath", PureWindowsPath)
    assert Entry(0, "a/b.zip", 1, 0).here == r"a\b.zip"


@pytest.mark.parametrize(
    "name",
    ["con", "NUL.txt", "a/Aux", "com1.tar.gz", "lpt9", "COM¹", "prn .x", "a.", "b ", "a:b", "c/d?"],
)
def test_names_that_windows_refuses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not names.on_windows(name)
    assert not names.unsafe(name) or ":" in name
    monkeypatch.setattr("dallebaby_cli.names.os.name", "nt")
    assert names.unsafe(name)


@pytest.mark.parametrize("name", ["console", "com10", "a.con", "nul-1", ".hidden", "ö b/c", "lpt"])
def test_names_that_windows_takes(name: str) -> None:
    assert names.on_windows(name)


def test_an_artefact_is_not_called_like_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert manifest.artefact(tmp_path, "raw", "aux").name == "aux"
    with monkeypatch.context() as patch:
        patch.setattr("dallebaby_cli.names.os.name", "nt")
        with pytest.raises(UsageError, match="'aux' cannot be a name"):
            manifest.artefact(tmp_path, "raw", "aux")


def test_a_zip_with_backslashes_reads_as_one_with_slashes(tmp_path: Path) -> None:
    """Some programs on Windows write such."""
    plain, odd = tmp_path / "plain", tmp_path / "odd"
    for folder, name in ((plain, "cats/a.jpg"), (odd, r"cats\a.jpg")):
        folder.mkdir()
        with zipfile.ZipFile(folder / "x.zip", "w") as archive:
            archive.writestr(name, b"picture")
    (one,), (other,) = (list(archives.members(folder)) for folder in (plain, odd))
    assert (other.path, other.name, other.folder) == (one.path, one.name, one.folder)
    assert other.content() == other.reader()() == b"picture"


# ---------------------------------------------------------------- rules


def test_nothing_of_posix_is_needed_at_import() -> None:
    assert not [
        f"{name}: {module}"
        for name, tree in TREES.items()
        for module in at_import(tree)
        if module.partition(".")[0] in POSIX
    ]


def test_text_names_its_encoding() -> None:
    """On Windows text is cp1252 unless it is said otherwise."""
    offenders = []
    for name, tree in TREES.items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if _is_text(call) and not {k.arg for k in call.keywords} & {"encoding", None}:
                offenders.append(f"{name}:{call.lineno}")
    assert not offenders


def _is_text(call: ast.Call) -> bool:
    """Whether a call opens, reads or writes a file as text, or a program's output."""
    called = call.func
    if isinstance(called, ast.Name) and called.id == "open":
        return "b" not in _mode(call, 1)
    if not isinstance(called, ast.Attribute):
        return False
    owner = ast.unparse(called.value)
    if called.attr in ("read_text", "write_text"):
        return owner != "files"
    if called.attr == "open" and owner not in (
        "os",
        "opener",
        "tarfile",
        "Image",
        "member",
        "self",
    ):
        return bool(re.fullmatch(r"[rwax]\+?t?\+?", _mode(call, 0)))
    return any(k.arg == "text" and ast.unparse(k.value) == "True" for k in call.keywords)


def _mode(call: ast.Call, place: int) -> str:
    given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[place : place + 1]
    parts = [n.value for node in given for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return "".join(map(str, parts)) or "r"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        *[("open(p)", True), ("open(p, 'wb')", False), ("path.open()", True)],
        *[("x.open('a')", True), ("x.open('rb+')", False), ("member.open()", False)],
        *[("os.open(p, 0)", False), ("p.read_text()", True), ("files.write_text(p, s)", False)],
        *[("run(a, text=True)", False), ("subprocess.run(a, text=True)", True)],
    ],
)
def test_the_rule_knows_text(code: str, text: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call) and _is_text(call) == text


def test_paths_are_built_by_pathlib_alone() -> None:
    """os.path gives backslashes on Windows, which must not get into what is stored or matched."""
    assert not [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("os.path")
    ]
