"""HTTP(S): files from web sites, with several mirrors, resume by Range, retries and checksums."""

import errno
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections import deque
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from dallebaby_cli import __version__, files
from dallebaby_cli.errors import FetchFailed, Interrupted
from dallebaby_cli.fetch.catalog import File
from dallebaby_cli.fetch.transfer import Brought, Fetched, Job, Pulse, Stalled
from dallebaby_cli.progress import Note, Transfer

SOCKET_TIMEOUT_S = 10.0
CHUNK_BYTES = 1 << 18
SYNC_EVERY_S = 3.0  # a power cut costs no more than this
REPORT_EVERY_S = 0.5
LONGEST_WAIT_S = 30.0  # between two attempts
LARGEST_PAGE = 1 << 26
FOR_GOOD = (400, 401, 403, 404, 410, 451)  # answers that will not get better
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # ours, not the network's


class Useless(FetchFailed):
    """A mirror that will not get better: it is not asked again."""


def read_small(url: str) -> bytes:
    """A small file as bytes. Raises OSError or FetchFailed when it cannot be had quickly."""
    with _open(url, {}) as response:
        content: bytes = response.read(LARGEST_PAGE)
    return content


def _open(url: str, headers: dict[str, str], timeout_s: float = SOCKET_TIMEOUT_S) -> Any:
    if urlsplit(url).scheme not in ("http", "https"):
        raise Useless(f"{url} is not an HTTP address")
    headers = {"User-Agent": f"dallebaby/{__version__}", **headers}
    request = urllib.request.Request(url, headers=headers)
    return urllib.request.urlopen(request, timeout=min(SOCKET_TIMEOUT_S, timeout_s))


def download(job: Job, wanted: list[File]) -> Brought:
    """Bring files from their `urls`, one after the other; see transfer.py."""
    here = sum(p.stat().st_size for f in wanted for p in _places(job, f) if p.exists())
    needed = sum(f.size_bytes or 0 for f in wanted) - here
    files.require_space(job.folder, needed, f"the rest of {job.dataset.name}")
    brought: dict[str, Fetched] = {}
    for file in wanted:
        brought[file.path] = _Download(job, file, wanted, brought).run()
    return Brought(files=brought)


def _places(job: Job, file: File) -> tuple[Path, Path]:
    """Where the file will be, and where it grows until then."""
    path = job.folder / file.path
    return path, path.with_name(f".{path.name}.part")


class _Download:
    """One file on its way."""

    def __init__(
        self, job: Job, file: File, wanted: list[File], before: dict[str, Fetched]
    ) -> None:
        self.job, self.file = job, file
        self.path, self.part = _places(job, file)
        self.state = self.part.with_name(f"{self.part.name}.json")
        self.before = sum(f.size_bytes for f in before.values())
        sizes = [f.size_bytes for f in wanted]
        self.total = sum(s for s in sizes if s) if all(sizes) else None
        self.alone = len(wanted) == 1
        self.size = file.size_bytes
        self.pulse = Pulse()
        self.reported = self.synced = 0.0
        self.problems: dict[str, str] = {}
        self.digest = hashlib.sha256()
        self.old_digest = hashlib.md5(usedforsecurity=False)

    def run(self) -> Fetched:
        """Try the mirrors in turn until the file is whole."""
        if self.path.exists() and (fetched := self._already_here()):
            return fetched
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mirrors, in_vain = deque(self.file.urls), 0
        while mirrors:
            url, before = mirrors[0], self._grown()
            try:
                self._stream(url)
                return self._finish()
            except Useless as error:
                self._note(url, str(error))
                mirrors.popleft()
                continue
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and (error.filename or error.errno in DISK):
                    raise
                self._note(url, _plain(error))
            if self._grown() > before:
                in_vain = 0  # a mirror that breaks off but sends is asked for the rest at once
                continue
            mirrors.rotate(-1)
            in_vain += 1
            if mirrors and in_vain >= len(mirrors):
                self._wait(min(LONGEST_WAIT_S, 2 ** (in_vain // len(mirrors) - 1)))
        raise FetchFailed(
            f"{self.file.path} cannot be had: {self._tried()}; {self.job.how_to_continue}"
        )

    def _note(self, url: str, problem: str) -> None:
        host = urlsplit(url).netloc or url
        if self.problems.get(host) != problem:
            self.problems[host] = problem
            self.job.report(Note(f"{host}: {problem}", "warning"))

    def _tried(self) -> str:
        return ", ".join(f"{host} ({problem})" for host, problem in self.problems.items())

    def _wait(self, seconds: float) -> None:
        """Wait before the next attempt, awake to signals and to the timeout."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._alive(self._grown(), f"waiting before another attempt: {self._tried()}")
            time.sleep(0.1)

    def _alive(self, done: int, waiting_for: str = "") -> None:
        """Report, and stop if a signal or the timeout says so."""
        self.pulse.beat(done)
        if time.monotonic() - self.reported >= REPORT_EVERY_S:
            self.reported = time.monotonic()
            total = self.total or (self.before + self.size if self.size and self.alone else None)
            self.job.report(
                Transfer(
                    task=self.job.dataset.name,
                    state="downloading",
                    done=self.before + done,
                    total=total,
                    rate=self.pulse.rate,
                    eta_s=self.pulse.eta_s(total - self.before - done) if total else None,
                    waiting_for=waiting_for,
                    files=((self.file.path, done, self.size or 0),),
                )
            )
        if number := self.job.signal():
            raise Interrupted(f"stopped; {self.job.how_to_continue}", number)
        if self.pulse.idle_s > self.job.timeout_s:
            raise Stalled(
                f"nothing came for {self.job.timeout_s:.0f} s; tried: {self._tried()}; "
                f"{self.job.how_to_continue}"
            )

    # ---------------------------------------------------------------- one attempt

    def _stream(self, url: str) -> None:
        """Ask one mirror for what is missing, and take all that it sends."""
        begun, validator = self._begun(url)
        headers = {"Range": f"bytes={begun}-"} if begun else {}
        if begun and validator:
            headers["If-Range"] = validator
        try:
            response = _open(url, headers, self.job.timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416 and begun:  # the mirror's file is shorter than what we have
                    self.part.unlink(missing_ok=True)
                    raise ConnectionError("has less than was here; starting again") from error
                said = f"HTTP {error.code} {error.reason}"
                raise (Useless if error.code in FOR_GOOD else ConnectionError)(said) from error
        with response:
            continued = response.status == 206
            start = begun if continued else 0
            length = response.headers.get("Content-Length")
            size = start + int(length) if length else None
            expected = self.file.size_bytes
            self.size = size or expected
            if size is not None and expected is not None and size != expected:
                raise Useless(f"holds another file, of {size:,} and not of {expected:,} bytes")
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            with self.part.open("r+b" if continued else "wb") as out:
                self._hash_begun(out, start)
                done = self._copy(response, out, start, url, validator)
            if size is not None and done < size:
                raise ConnectionError(f"broke off after {files.human_bytes(done)}")

    def _copy(self, response: Any, out: IO[bytes], done: int, url: str, tag: str | None) -> int:
        """Write what comes, and every few seconds note how much of it is safely on disk."""
        limit = self.job.config.max_down_mb_s * 1e6
        most = min(CHUNK_BYTES, int(limit / 4) or CHUNK_BYTES)
        began, start = time.monotonic(), done
        try:
            while chunk := response.read1(most):
                out.write(chunk)
                self.digest.update(chunk)
                self.old_digest.update(chunk)
                done += len(chunk)
                self._alive(done)
                if time.monotonic() - self.synced >= SYNC_EVERY_S:
                    self._sync(out, done, url, tag)
                if limit and (ahead := (done - start) / limit - (time.monotonic() - began)) > 0:
                    time.sleep(min(ahead, 1.0))
        finally:
            self._sync(out, done, url, tag)
        return done

    def _sync(self, out: IO[bytes], done: int, url: str, validator: str | None) -> None:
        out.flush()
        os.fsync(out.fileno())
        state = {"url": url, "validator": validator, "bytes": done}
        files.write_text(self.state, json.dumps(state))
        self.synced = time.monotonic()

    def _begun(self, url: str) -> tuple[int, str | None]:
        """How many bytes are here already, and what shows that the mirror's file is the same."""
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            begun = min(int(state["bytes"]), self.part.stat().st_size)
            same_mirror, validator = state["url"] == url, state["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0, None
        if same_mirror and validator and not str(validator).startswith("W/"):
            return begun, str(validator)
        checked = self.file.sha256 or self.file.md5  # the end will show whether it was the same
        return (begun, None) if checked else (0, None)

    def _hash_begun(self, out: IO[bytes], start: int) -> None:
        """Take in what an earlier attempt wrote, and stand at its end."""
        self.digest = hashlib.sha256()
        self.old_digest = hashlib.md5(usedforsecurity=False)
        left = start
        while left and (chunk := out.read(min(left, 1 << 22))):
            self.digest.update(chunk)
            self.old_digest.update(chunk)
            left -= len(chunk)
        out.truncate(start)
        out.seek(start)

    # ---------------------------------------------------------------- the whole file

    def _finish(self) -> Fetched:
        """Check the whole file and give it its name."""
        if not self._right(self.digest.hexdigest(), self.old_digest.hexdigest()):
            self.part.unlink()
            self.state.unlink(missing_ok=True)
            raise Useless("sent a file whose checksum is wrong")
        self.part.replace(self.path)
        files.sync_folder(self.path.parent)
        self.state.unlink(missing_ok=True)
        size = self.size = self.path.stat().st_size
        self.reported = 0.0
        self._alive(size)
        return Fetched(size_bytes=size, sha256=self.digest.hexdigest())

    def _right(self, sha256: str, md5: str) -> bool:
        return (self.file.sha256 or sha256) == sha256 and (self.file.md5 or md5) == md5

    def _already_here(self) -> Fetched | None:
        """A file that was fetched before, or put here by hand, if it is the right one."""
        with self.path.open("rb") as handle:
            sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
            handle.seek(0)
            md5 = hashlib.file_digest(handle, "md5").hexdigest() if self.file.md5 else ""
        size = self.path.stat().st_size
        if size == (self.file.size_bytes or size) and self._right(sha256, md5):
            return Fetched(size_bytes=size, sha256=sha256)
        self.job.report(Note(f"{self.path} is not the file that it should be; fetching it again"))
        return None

    def _grown(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0


def _plain(error: Exception) -> str:
    """What went wrong on the network, in a few words."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "silent for too long"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__
