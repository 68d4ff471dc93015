"""BitTorrent, as the stage asks for it: choose the files, fetch them, verify them, tidy up."""

import os
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from dallebaby_cli import files, names
from dallebaby_cli.errors import BadInput, DallebabyError
from dallebaby_cli.fetch import answer, resume
from dallebaby_cli.fetch.file_list import Contents, Entry, absent, edges
from dallebaby_cli.fetch.torrent import METADATA, Swarm, contents, info_hash
from dallebaby_cli.fetch.transfer import Brought, Fetched, Job
from dallebaby_cli.progress import Note


def from_site(job: Job) -> Job:
    """With the .torrent file from the dataset's own site; without, if it gives none.

    Then the peers are asked, who are slower to find: nothing is lost but time.
    """
    url, expected = job.dataset.torrent_url, job.dataset.info_hash
    if url is None or job.metadata is not None or (job.folder / METADATA).exists():
        return job
    try:
        metadata = answer.read_small(url)
        if (found := info_hash(metadata, url)) != expected:
            raise BadInput(f"{url} is of another torrent, {found}")
    except (OSError, HTTPException, DallebabyError) as error:
        job.report(Note(f"no .torrent file from {url} ({error}); asking the peers"))
        return job
    return replace(job, metadata=metadata)


def download(job: Job) -> Brought:
    """Bring the wanted files of the torrent; see transfer.py."""
    with Swarm(from_site(job)) as swarm:
        metadata = swarm.learn()
        found = contents(metadata, job.dataset.name)
        for path in absent(found, job.dataset, job.patterns):
            job.report(Note(f"{path} is not in the torrent; going on without it", "warning"))
        wanted = found.chosen(job.wanted, job.keep)
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
    metadata = (job.folder / METADATA).read_bytes()
    found = contents(metadata, job.dataset.name)
    with Swarm(job) as swarm:
        swarm.give(metadata, found, found.chosen((), job.keep))


def verify(job: Job, known: dict[int, str]) -> list[str]:
    """Hash all that is here again: the files that do not hold what they should.

    `known` is what `download` returned as edges.
    """
    metadata = (job.folder / METADATA).read_bytes()
    found = contents(metadata, job.dataset.name)
    wanted = found.chosen((), job.keep)
    with Swarm(job) as swarm:
        bad = swarm.check(metadata, found, wanted)
    here = edges(found, wanted, job.folder)
    bad = {piece for piece in bad if piece not in known or here.get(piece) != known[piece]}
    return [e.path for e in wanted if any(p in bad for p in found.pieces(e))]


def covered(job: Job) -> bool:
    """Whether all that is asked for is among the files to keep."""
    metadata = job.folder / METADATA
    if not metadata.exists():
        return False
    found = contents(metadata.read_bytes(), job.dataset.name)
    absent(found, job.dataset, job.patterns)
    return {e.path for e in found.chosen(job.wanted)} <= set(job.keep)


def listing(job: Job) -> Contents:
    """What the torrent holds, without fetching any of it."""
    saved = job.folder / METADATA
    if saved.exists():
        return contents(saved.read_bytes(), job.dataset.name)
    job = from_site(job)
    with TemporaryDirectory() as scratch, Swarm(replace(job, folder=Path(scratch))) as swarm:
        return contents(swarm.learn(), job.dataset.name)


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
