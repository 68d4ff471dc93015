"""Files are whole or not there; locks die with their process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, Busy, DiskFull


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file.txt"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    files.write_text(path, "old")
    code = (
        "import os, signal, pathlib; from dallebaby_cli import files\n"
        f"with files.atomic_path(pathlib.Path({str(path)!r})) as t:\n"
        "    t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_two_processes_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    code = (
        "import pathlib; from dallebaby_cli import files\n"
        f"with files.atomic_path(pathlib.Path({str(path)!r})) as t:\n"
        "    print(t.write_text('theirs'), flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "6\n"
        files.write_text(path, "ours")
        assert path.read_text() == "ours"
        other.communicate("\n")
    assert other.returncode == 0 and path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_working_files_are_not_written_through_links(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_text("precious")
    with files.atomic_path(folder / "a") as temporary:
        temporary.write_text("new")
        name = temporary.name
    for link in (name, ".a.tmp", ".lock", ".part"):
        (folder / link).symlink_to(outside)
    with files.lock(folder, "it"):
        files.write_text(folder / "a", "newer")
    files.own(folder / ".part").write_text("mine")
    assert outside.read_text() == "precious" and (folder / "a").read_text() == "newer"
    assert {p.name for p in folder.iterdir()} == {"a", ".lock", ".part"}
    os.mkfifo(folder / "pipe")
    assert not files.own(folder / "pipe").exists()


def test_the_second_process_is_told_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import pathlib, time; from dallebaby_cli import files\n"
        f"with files.lock(pathlib.Path({str(tmp_path)!r}), 'x'): print('held', flush=True); "
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(Busy, match="already working on the run x"),
        files.lock(tmp_path, "the run x"),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with files.lock(tmp_path, "x"):
        pass


def test_too_little_room_is_said_before_the_work(tmp_path: Path) -> None:
    files.require_space(tmp_path / "not" / "yet", 1, "a crumb")
    with pytest.raises(DiskFull, match=r"coco needs 1000\.0 TB and .* free; make room"):
        files.require_space(tmp_path / "not" / "yet", 10**15, "coco")


def test_a_drive_that_is_not_there_is_an_error_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows not even the root of a path need exist."""
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files.free_bytes(Path("/nowhere/below"))


def test_disk_space_of_a_file_with_holes(tmp_path: Path) -> None:
    path = tmp_path / "holes"
    with path.open("wb") as out:
        out.truncate(10_000_000)
    assert files.allocated_bytes(path) < 10_000
    path.write_bytes(bytes(9000))
    assert 9000 <= files.allocated_bytes(tmp_path) < 50_000


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1536, "1.5 KB"), (20405354669, "20.4 GB")]
)
def test_sizes_read_as_people_write_them(count: int, text: str) -> None:
    assert files.human_bytes(count) == text


def test_a_small_file_is_read_and_what_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    with pytest.raises(FileNotFoundError):
        files.read_small(path)
    path.write_bytes(b"12345")
    assert files.read_small(path, 5) == b"12345"
    with pytest.raises(FileNotFoundError):
        files.read_small(path / "below a file")
    with pytest.raises(BadInput, match=r"small\.json has over 4 B, more than a file of its kind"):
        files.read_small(path, 4)
    with pytest.raises(BadInput, match="is a folder, pipe or device"):
        files.read_small(tmp_path)
    with pytest.raises(BadInput, match="cannot be read: embedded null"):
        files.read_small(tmp_path / "a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_devices_and_links_keep_nobody_waiting(tmp_path: Path) -> None:
    pipe, link, endless = tmp_path / "pipe", tmp_path / "link", tmp_path / "endless"
    os.mkfifo(pipe)
    link.symlink_to("small.json")
    endless.symlink_to("/dev/zero")
    (tmp_path / "small.json").write_text("{}", encoding="utf-8")
    for path in (pipe, endless, Path("/dev/zero")):
        for read in (files.read_small, files.sha256_file, lambda p: list(files.read_lines(p))):
            with pytest.raises(BadInput, match=f"{path} is a folder, pipe or device and no file"):
                read(path)
    assert files.read_small(link) == b"{}"
    with pytest.raises(BadInput, match="link cannot be read"):
        files.read_small(link, follow=False)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[1, 2]", "it holds no JSON object"),
        (b'{"a": ' + b"[" * 60 + b"]" * 60 + b"}", "it is nested over 50 levels deep"),
        (b"[" * 100_000, "it is nested over 50 levels deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number in it has 5000 digits"),
        (b'{"a": 1.' + b"9" * 5000 + b"}", "a number in it has 5002 digits"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b"\0" * 100, "Expecting value"),
        (b"", "Expecting value"),
    ],
)
def test_json_that_is_none_is_one_sentence(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"x\.json is damaged \(.*{why}.*\); make it again"):
        files.read_json(path, "make it again")


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    content = {"a": [1, 2.5, None, True, "é 猫 🦊", "\udcff", {"b": {}}], "": "", "big": 10**300}
    files.write_text(path, json.dumps(content))
    assert files.read_json(path, "") == content
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())  # as Windows' Notepad saves it
    assert files.read_json(path, "") == content


def test_lines_without_end_come_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{}\n" + b"\0" * (files.LINE + 5) + b"\n{}")
    assert [len(line) for line in files.read_lines(path)] == [3, files.LINE, 6, 2]
