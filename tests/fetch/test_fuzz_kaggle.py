"""What Kaggle's client says and leaves, damaged: an archive, or one sentence."""

import io
import os
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import strategies as st
from mutations import fuzz, mutated

from dallebaby_cli.config import FetchConfig
from dallebaby_cli.errors import BadInput, FetchFailed
from dallebaby_cli.fetch import kaggle
from dallebaby_cli.fetch.catalog import Dataset, File
from dallebaby_cli.fetch.transfer import Job
from dallebaby_cli.progress import ignore


def zipped() -> bytes:
    with io.BytesIO() as out:
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a.jpg", b"x" * 500)
            archive.writestr("results.csv", b"a|b\n")
        return out.getvalue()


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A client that says and leaves what it finds in a folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kaggle").write_text(
        "#!/bin/sh\n"
        f'cat "{folder}/said"; cp "{folder}/zip" "$6/data.zip"; exit $(cat "{folder}/code")\n'
    )
    (folder / "kaggle").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(kaggle, "REPORT_EVERY_S", 0.005)
    return folder


@fuzz(
    examples=40,
    said=mutated(b"Downloading data.zip\r 50%\n", b"401 - Unauthorized", b'{"code": 403}'),
    archive=mutated(zipped()),
    code=st.sampled_from(["0", "0", "1"]),
)
def test_what_kaggles_client_may_say_and_leave(
    tmp_path: Path, client: Path, said: bytes, archive: bytes, code: str
) -> None:
    (client / "said").write_bytes(said)
    (client / "zip").write_bytes(archive)
    (client / "code").write_text(code)
    file = File(path="mine.zip")
    job = Job(
        dataset=Dataset(name="mine", kaggle="me/data", files=(file,)),
        folder=tmp_path / "raw",
        wanted=("*",),
        config=FetchConfig(),
        timeout_s=5,
        report=ignore,
    )
    job.folder.mkdir(exist_ok=True)
    (job.folder / "mine.zip").unlink(missing_ok=True)
    try:
        brought = kaggle.download(job, [file])
        assert code == "0" and brought.files["mine.zip"].size_bytes == len(archive)
        assert (job.folder / "mine.zip").read_bytes() == archive
    except (BadInput, FetchFailed) as error:
        assert "\x1b" not in str(error) and "\n" not in str(error)
