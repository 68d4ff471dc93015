"""Kaggle: datasets that only Kaggle's own client may download, with a person's own token."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryFile

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, FetchFailed, Interrupted
from dallebaby_cli.fetch.catalog import File
from dallebaby_cli.fetch.transfer import Brought, Fetched, Job, Stalled
from dallebaby_cli.progress import Transfer
from dallebaby_cli.text import one_line

INCOMING = ".kaggle.part"  # a folder: the client leaves its own marks beside what it downloads
REPORT_EVERY_S = 0.5
PATIENCE_S = 5.0  # with a client that is asked to end
LAST_WORDS = 4096  # bytes of what the client said


def download(job: Job, wanted: list[File]) -> Brought:
    """Bring the dataset's archive, or take the one that a person has put there; see transfer.py."""
    brought = {}
    for file in wanted:
        path = job.folder / file.path
        if not path.is_file() and not _by_hand(job, file):
            _by_client(job, file)
        if not zipfile.is_zipfile(path):
            raise BadInput(f"{path} is not a whole zip archive; remove it and run this again")
        fetched = Fetched(size_bytes=path.stat().st_size, sha256=files.sha256_file(path))
        if (file.size_bytes or fetched.size_bytes, file.sha256 or fetched.sha256) != (
            fetched.size_bytes,
            fetched.sha256,
        ):
            raise BadInput(
                f"{path} is not the archive that the catalogue knows; remove it and run this again"
            )
        brought[file.path] = fetched
    shutil.rmtree(job.folder / INCOMING, ignore_errors=True)
    return Brought(files=brought)


def _by_hand(job: Job, file: File) -> bool:
    """Take a file that a browser saved under one of its other names."""
    for name in file.also:
        if (job.folder / name).is_file():
            (job.folder / name).rename(job.folder / file.path)
            return True
    return False


def _by_client(job: Job, file: File) -> None:
    """Let Kaggle's client download the archive; it continues what it had begun."""
    slug = str(job.dataset.kaggle)
    beside = str(Path(sys.executable).parent)
    client = shutil.which("kaggle", path=beside) or shutil.which("kaggle")
    if client is None:
        raise FetchFailed(f"Kaggle's client is not installed; {_how(job, file)}")
    incoming = job.folder / INCOMING
    if not incoming.is_dir() or incoming.is_symlink():
        incoming.unlink(missing_ok=True)
        incoming.mkdir()
    arguments = [client, "datasets", "download", "-d", slug, "-p", str(incoming)]
    with TemporaryFile() as log:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _watch(job, process, incoming)
        finally:
            _end(process)
        log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS))
        said = log.read(LAST_WORDS).decode("utf-8", "replace").strip()
    arrived = incoming / f"{slug.partition('/')[2]}.zip"
    if process.returncode != 0 or not arrived.is_file():
        if not any(incoming.glob("*.zip")):
            shutil.rmtree(incoming, ignore_errors=True)
        last = said.splitlines()[-1] if said else f"exit code {process.returncode}"
        raise FetchFailed(f"Kaggle's client failed ({one_line(last)[:300]}); {_how(job, file)}")
    files.replace(arrived, job.folder / file.path)


def _watch(job: Job, process: subprocess.Popen[bytes], incoming: Path) -> None:
    """Report until the client ends; stop it for a signal or when nothing grows."""
    pulse = job.pulse()
    total = job.dataset.download_bytes
    while process.poll() is None:
        done = files.folder_bytes(incoming)
        pulse.beat(done)
        eta_s = pulse.eta_s(total - done) if total else None
        name = job.dataset.name
        job.report(Transfer(name, "downloading", done, total, pulse.rate, eta_s))
        if number := job.signal():
            raise Interrupted(f"stopped; {job.how_to_continue}", number)
        if pulse.idle_s > job.timeout_s:
            raise Stalled(f"Kaggle sent nothing for {job.timeout_s:.0f} s; {job.how_to_continue}")
        time.sleep(REPORT_EVERY_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the client, whether it listens or not."""
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _how(job: Job, file: File) -> str:
    """What a person can do, with the client or without."""
    return (
        "install it with `pip install kaggle`, make a token at kaggle.com/settings (API, Create "
        "New Token) and save it as ~/.kaggle/kaggle.json; or download the archive from "
        f"{job.dataset.homepage} in a browser, save it as {job.folder / file.path}, "
        "and run this again"
    )
