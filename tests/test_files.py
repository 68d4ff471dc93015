"""Files are whole or not there; locks die with their process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dallebaby_cli import files
from dallebaby_cli.errors import Busy, DiskFull


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
