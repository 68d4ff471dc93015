"""BitTorrent, as the stage asks for it: choose the files, fetch them, verify them, tidy up."""

import itertools
import os
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from dallebaby_cli import files, names
from dallebaby_cli.errors import BadInput, DallebabyError, UsageError
from dallebaby_cli.fetch import answer, resume, torrent_file
from dallebaby_cli.fetch.file_list import Contents, Entry, absent, edges
from dallebaby_cli.fetch.torrent import METADATA, Swarm, saved
from dallebaby_cli.fetch.torrent_file import contents
from dallebaby_cli.fetch.transfer import Brought, Fetched, Job
from dallebaby_cli.progress import Note

SHOWN_NAMES = 5  # changed ones, that are told each


def from_site(job: Job) -> Job:
    """With the .torrent file from the dataset's own site; without, if it gives none.

    Then the peers are asked, who are slower to find: nothing is lost but time.
    """
    url = job.dataset.torrent_url
    if url is None or job.metadata is not None or saved(job) is not None:
        return job
    try:
        metadata = answer.read_small(url)
        if job.dataset.info_hash not in torrent_file.info_hashes(metadata, "what it sends"):
            raise BadInput("it is of another torrent")
    except (OSError, HTTPException, DallebabyError) as error:
        place = answer.shown(url)
        job.report(Note(f"no .torrent file from {place} ({error}); asking the peers"))
        return job
    return replace(job, metadata=metadata)


def download(job: Job) -> Brought:
    """Bring the wanted files of the torrent; see transfer.py."""
    with Swarm(from_site(job)) as swarm:
        metadata = swarm.learn()
        found = contents(metadata, job.dataset.name, job.folder)
        for new, old in itertools.islice(found.renamed.items(), SHOWN_NAMES):
            job.report(Note(f"{old} is called {new} here: another file has its name"))
        if (more := len(found.renamed) - SHOWN_NAMES) > 0:
            job.report(Note(f"{more:,} more files have other names here, for the same reason"))
        for path in absent(found, job.dataset, job.patterns):
            job.report(Note(f"{path} is not in the torrent; going on without it", "warning"))
        wanted = found.chosen(job.wanted, job.keep)
        if not wanted:
            raise UsageError(
                f"{', '.join(job.wanted)} names none of the {len(found.entries)} files"
            )
        _make_way(job, wanted)
        _adopt(job, found, wanted)
        here = sum(files.allocated_bytes(job.folder / e.path) for e in wanted)
        needed = sum(e.size_bytes for e in wanted) - here
        files.require_space(job.folder, needed, f"the rest of {job.dataset.name}")
        swarm.download(metadata, found, wanted)
    tidy(job.folder, found, wanted)
    return Brought(
        files={e.path: Fetched(size_bytes=e.size_bytes) for e in wanted},
        info_hash=found.info_hash,
        edges=edges(found, wanted, job.folder),
    )


def give(job: Job) -> None:
    """Give the files of a finished download to others; see FetchConfig.seed_minutes."""
    metadata = torrent_file.read(job.folder / METADATA)
    found = contents(metadata, job.dataset.name, job.folder)
    with Swarm(job) as swarm:
        swarm.give(metadata, found, found.chosen((), job.keep))


def verify(job: Job, known: dict[int, str]) -> list[str]:
    """Hash all that is here again: the files that do not hold what they should.

    `known` is what `download` returned as edges.
    """
    metadata = torrent_file.read(job.folder / METADATA)
    found = contents(metadata, job.dataset.name, job.folder)
    wanted = found.chosen((), job.keep)
    with Swarm(job) as swarm:
        bad = swarm.check(metadata, found, wanted)
    here = edges(found, wanted, job.folder)
    bad = {piece for piece in bad if piece not in known or here.get(piece) != known[piece]}
    return [e.path for e in wanted if any(p in bad for p in found.pieces(e))]


def covered(job: Job) -> bool:
    """Whether all that is asked for is among the files to keep."""
    metadata = saved(job)
    if metadata is None:
        return False
    found = contents(metadata, job.dataset.name, job.folder)
    absent(found, job.dataset, job.patterns)
    return {e.path for e in found.chosen(job.wanted)} <= set(job.keep)


def listing(job: Job) -> Contents:
    """What the torrent holds, without fetching any of it."""
    job = from_site(job)
    metadata = job.metadata or saved(job)
    if metadata is None:
        with TemporaryDirectory() as scratch, Swarm(replace(job, folder=Path(scratch))) as swarm:
            metadata = swarm.learn()
    return contents(metadata, job.dataset.name, job.folder)


def _make_way(job: Job, wanted: list[Entry]) -> None:
    """Remove links from where files will be written: what they lead to is not ours."""
    for parts in job.folder.glob(".*.parts"):
        files.own(parts)
    for path in sorted({p for e in wanted for p in (e.path, *names.above(e.path))}):
        if (job.folder / path).is_symlink():
            (job.folder / path).unlink()
            job.report(
                Note(f"{job.folder / path} was a link; fetching what belongs there", "warning")
            )


def _adopt(job: Job, found: Contents, wanted: list[Entry]) -> None:
    """Take files that another program has fetched into the torrent's own top folder."""
    top = job.folder / found.name
    if names.unsafe(found.name) or top.is_symlink() or not top.is_dir():
        return
    moved, ours = 0, {names.folded(entry.path) for entry in found.entries}
    for entry in wanted:
        called, new = found.renamed.get(entry.path, entry.path), job.folder / entry.path
        old = top / called
        if names.folded(f"{found.name}/{called}") in ours or not old.is_file() or new.exists():
            continue
        if not any((top / path).is_symlink() for path in (called, *names.above(called))):
            new.parent.mkdir(parents=True, exist_ok=True)
            old.rename(new)
            moved += entry.size_bytes > 0  # libtorrent itself makes empty ones
    if moved:
        job.report(Note(f"took {moved:,} file(s) from {top}, where another program had put them"))


def tidy(folder: Path, found: Contents, wanted: list[Entry]) -> None:
    """Leave nothing in the folder but the wanted files and the torrent's metadata."""
    (folder / resume.NAME).unlink(missing_ok=True)
    for parts in folder.glob(".*.parts"):
        parts.unlink()
    unwanted = {e.path for e in found.entries} - {e.path for e in wanted}
    for parent, folders, inside in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in inside):
            if path.is_symlink() or names.below(folder, path) in unwanted:
                path.unlink()
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()
