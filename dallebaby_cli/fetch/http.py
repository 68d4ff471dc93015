"""HTTP(S): files from web sites, with several mirrors, resume by Range, retries and checksums."""

import errno
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
from collections import deque
from pathlib import Path
from typing import IO

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, FetchFailed, Interrupted
from dallebaby_cli.fetch import answer
from dallebaby_cli.fetch.answer import CHUNK_BYTES, Sent, StartAgain, Useless
from dallebaby_cli.fetch.catalog import File
from dallebaby_cli.fetch.transfer import Brought, Fetched, Job, Stalled
from dallebaby_cli.progress import Note, Transfer
from dallebaby_cli.text import one_line, without_secrets

SYNC_EVERY_S = 3.0  # a power cut costs no more than this
REPORT_EVERY_S = 0.5
LONGEST_WAIT_S = 30.0  # between two attempts
LONGEST_PART = 228  # bytes of the name of what grows: those of its state, while written, are more
RESTARTS = 5  # from the first byte, before a mirror that never gets to the end counts as silent
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # ours, not the network's


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
    name = f".{path.name}.part"
    if len(os.fsencode(name)) > LONGEST_PART:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.part"
    return path, path.with_name(name)


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
        self.pulse = job.pulse()
        self.reported = self.synced = 0.0
        self.begun = self.starts = 0
        self.problems: dict[str, str] = {}
        self.digest = hashlib.sha256()
        self.old_digest = hashlib.md5(usedforsecurity=False)

    def run(self) -> Fetched:
        """Try the mirrors in turn until the file is whole."""
        if self.path.is_file() and (fetched := self._already_here()):
            return fetched
        if not self.file.urls:
            raise FetchFailed(
                f"the catalogue has no address of {self.file.path}; add its `urls` there, or put "
                f"the file itself into {self.job.folder}"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mirrors, in_vain, most = deque(self.file.urls), 0, self._grown()
        while mirrors:
            url = mirrors[0]
            try:
                self._stream(url)
                return self._finish()
            except (Useless, http.client.InvalidURL) as error:
                self._note(url, _plain(error))
                mirrors.popleft()
                continue
            except StartAgain as error:
                self._forget()
                self._note(url, str(error))
                if not self.begun:
                    mirrors.popleft()  # it had been asked for the whole
                continue
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and (error.filename or error.errno in DISK):
                    raise
                self._note(url, _plain(error))
            if self._grown() > most:
                most, in_vain = self._grown(), 0
                continue  # a mirror that breaks off but sends is asked for the rest at once
            mirrors.rotate(-1)
            in_vain += 1
            if mirrors and in_vain >= len(mirrors):
                self._wait(min(LONGEST_WAIT_S, 2 ** (in_vain // len(mirrors) - 1)))
        raise FetchFailed(
            f"{self.file.path} cannot be had: {self._tried()}; {self.job.how_to_continue}"
        )

    def _note(self, url: str, problem: str) -> None:
        host = answer.host(url)
        if self.problems.get(host) != problem:
            self.problems[host] = problem
            self.job.report(Note(f"{host}: {problem}", "warning"))

    def _forget(self) -> None:
        """Leave nothing of what came."""
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def _tried(self) -> str:
        tried = [f"{host} ({problem})" for host, problem in self.problems.items()]
        return ", ".join(tried or map(answer.host, self.file.urls))

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
                f"{self.pulse.what_came} came for {self.job.timeout_s:.0f} s; "
                f"tried: {self._tried()}; "
                f"{self.job.how_to_continue}"
            )

    # ---------------------------------------------------------------- one attempt

    def _stream(self, url: str) -> None:
        """Ask one mirror for what is missing, and take all that it sends."""
        begun, validator = self._begun(url)
        self.begun = begun
        self.pulse.begin(begun)
        if begun and begun == self.file.size_bytes:
            return self._take_all_as_it_is(begun)
        headers = {"Range": f"bytes={begun}-"} if begun else {}
        if begun and validator:
            headers["If-Range"] = validator
        limit = self.job.config.max_down_mb_s * 1e6
        most = max(1, min(CHUNK_BYTES, int(limit / 4) or CHUNK_BYTES))
        with answer.ask(url, headers, self.job.timeout_s) as response:
            if response.status == 416 and begun:
                if answer.whole_size(response) == begun:
                    return self._take_all_as_it_is(begun)
                raise StartAgain("has less than was here; starting again")
            sent = answer.sent(response, self.file.path, begun, most)
            if sent.start and validator and sent.tag and sent.tag != validator:
                raise StartAgain("has another file than before; starting again")
            expected = self.file.size_bytes
            self.size = expected if sent.size is None else sent.size
            if expected is not None and self.size != expected:
                raise Useless(f"holds another file, of {self.size:,} and not of {expected:,} bytes")
            with self._opened(keep=sent.start > 0) as out:
                self._hash_begun(out, sent.start)
                done = self._copy(sent, out, url)
        if self.size is not None and done < self.size:
            raise ConnectionError(f"broke off after {files.human_bytes(done)}")
        if not done and expected != 0:
            self._forget()
            raise Useless("sends an empty file")

    def _opened(self, keep: bool) -> IO[bytes]:
        """The file that grows, which is none that something else leads to."""
        files.own(self.part)
        return self.part.open("r+b") if keep else self.part.open("wb")

    def _take_all_as_it_is(self, size: int) -> None:
        """All of it came before; only its name is missing."""
        with self._opened(keep=True) as out:
            self._hash_begun(out, size)

    def _copy(self, sent: Sent, out: IO[bytes], url: str) -> int:
        """Write what comes, and every few seconds note how much of it is safely on disk."""
        limit, done = self.job.config.max_down_mb_s * 1e6, sent.start
        most = self.size if sent.stop is None else sent.stop
        began = time.monotonic()
        if not done:
            if 0 < self.starts <= RESTARTS:
                self.pulse.restart()
            self.starts += 1
        try:
            for piece in sent.pieces:
                if most is not None and done + len(piece) > most:
                    done = 0  # nothing of it is believed
                    raise Useless(f"sends more than the {most:,} bytes of the file")
                out.write(piece)
                self.digest.update(piece)
                self.old_digest.update(piece)
                done += len(piece)
                self._alive(done)
                if time.monotonic() - self.synced >= SYNC_EVERY_S:
                    self._sync(out, done, url, sent.tag)
                ahead = limit and (done - sent.start) / limit - (time.monotonic() - began)
                if ahead > 0:
                    time.sleep(min(ahead, 1.0))
        finally:
            self._sync(out, done, url, sent.tag)
        return done

    def _sync(self, out: IO[bytes], done: int, url: str, validator: str | None) -> None:
        out.flush()
        os.fsync(out.fileno())
        state = {"url": without_secrets(url), "validator": validator, "bytes": done}
        files.write_text(self.state, json.dumps(state))
        self.synced = time.monotonic()

    def _begun(self, url: str) -> tuple[int, str | None]:
        """How many bytes are here already, and what shows that the mirror's file is the same."""
        files.own(self.part)
        try:
            state = files.read_json(self.state, "it is not believed", follow=False)
            here = self.part.stat().st_size
        except (OSError, BadInput):
            return 0, None
        begun, validator = state.get("bytes"), state.get("validator")
        if type(begun) is not int or begun < 0:
            return 0, None
        begun = min(begun, here)
        same_mirror = state.get("url") in (url, without_secrets(url))
        if same_mirror and _strong(validator):
            return begun, validator
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
            self._forget()
            wrong = "sent a file whose checksum is wrong"
            raise StartAgain(f"{wrong}; starting again") if self.begun else Useless(wrong)
        files.replace(self.part, self.path)
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


def _strong(validator: object) -> bool:
    """Whether what a saved state holds can show a mirror that its file is still the same."""
    return isinstance(validator, str) and bool(
        re.fullmatch(r"(?!W/)[\x21-\x7e][\x20-\x7e]*", validator)
    )


def _plain(error: Exception) -> str:
    """What went wrong on the network, in a few words."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, http.client.InvalidURL):
        return "is not a valid address"
    if isinstance(reason, TimeoutError):
        return "silent for too long"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return one_line(str(reason)) or type(reason).__name__
