"""torrent or web site → raw/NAME: bring a dataset's files here, as they are."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dallebaby_cli import files, names
from dallebaby_cli.config import FetchConfig
from dallebaby_cli.config.settings import as_dict, nearest
from dallebaby_cli.errors import (
    BadInput,
    DallebabyError,
    FetchFailed,
    Interrupted,
    Mismatch,
    MissingInput,
    UsageError,
)
from dallebaby_cli.fetch import catalog, http, magnet
from dallebaby_cli.fetch.catalog import Dataset, File, named
from dallebaby_cli.fetch.transfer import Brought, Job, Stalled
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.progress import Note, Progress, Report
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import Manifest


@dataclass(frozen=True)
class Raw:
    """A dataset that is here."""

    folder: Path
    manifest: Manifest
    fresh: bool
    """false if all of it was here already"""


@dataclass(frozen=True)
class Source:
    """What the person named: a dataset, and what is needed to reach it."""

    dataset: Dataset
    magnet: str = ""
    metadata: bytes | None = None
    only: tuple[str, ...] = ()
    """what the person's link selects; () for all"""

    @property
    def identity(self) -> str:
        """What the folder must hold, to be taken for this source."""
        dataset = self.dataset
        return dataset.info_hash or dataset.kaggle or " ".join(f.path for f in dataset.files)

    @property
    def default(self) -> tuple[str, ...]:
        """The patterns of what is fetched when nothing else is asked for."""
        known = tuple(p for f in self.dataset.files if f.wanted for p in f.patterns)
        return known or ("*",)


def source(what: str, home: Path, name: str | None = None) -> Source:
    """Understand NAME, MAGNET or FILE.torrent. Raises UsageError that suggests what was meant."""
    if magnet.is_one(what):
        link = magnet.parse(what)
        title = name or manifest.as_name(link.title, "torrent")
        dataset = Dataset(name=title, title=link.title, info_hash=link.info_hash)
        return Source(dataset, magnet=link.link, only=link.only)
    known = catalog.load(home)
    if what in known:
        dataset = replace(known[what], name=name or what)
        if dataset.transport == "none":
            raise UsageError(f"{what} is not downloaded: {dataset.access}")
        return Source(dataset, magnet=dataset.magnet if dataset.info_hash else "")
    path = Path(what)
    if path.is_file():
        from dallebaby_cli.fetch import torrent_file

        metadata = torrent_file.read(path)
        info_hash = torrent_file.info_hashes(metadata, str(path))[0]
        title = name or manifest.as_name(path.stem, "torrent")
        dataset = Dataset(name=title, title=path.name, info_hash=info_hash)
        return Source(dataset, metadata=metadata)
    if path.suffix == ".torrent":
        raise MissingInput(f"there is no file {path}")
    raise UsageError(
        f"{what!r} is no dataset of the catalogue, no magnet link and no .torrent file"
        f"{nearest(what, known)} (`dallebaby datasets` shows the catalogue)"
    )


def fetch(
    what: str,
    home: Path,
    config: FetchConfig,
    *,
    patterns: Sequence[str] = (),
    peers: Sequence[tuple[str, int]] = (),
    name: str | None = None,
    verify: bool = False,
    report: Report,
) -> Raw:
    """Bring a dataset into HOME/raw/NAME; go on where an earlier attempt was broken off.

    When everything is here (sizes and times of change agree with the manifest), nothing is done
    unless `verify` asks for every byte to be hashed again.
    """
    found = source(what, home, name)
    folder = manifest.artefact(home, "raw", found.dataset.name)
    with files.lock(folder, f"raw/{folder.name}"), Interrupt() as interrupt:
        before = _before(folder)
        if before is not None and before.config["source"] != found.identity:
            raise Mismatch(
                f"{folder} holds something else of that name ({before.config['source'][:60]}); "
                "give this one another with --name, or remove the folder"
            )
        job = _job(found, folder, config, patterns, peers, before, report)
        job = replace(job, signal=lambda: interrupt.asked)
        whole = before is not None and before.complete
        if before is not None and before.complete:
            damaged = _damaged(job, before, verify)
            if not damaged and _covered(job, before):
                return Raw(folder, before, fresh=False)
            for path in damaged:
                report(Note(f"{folder / path} is not as it was fetched", "warning"))
                if "sha256" in before.counts["files"][path]:  # a torrent is mended piece by piece
                    (folder / path).unlink(missing_ok=True)
            whole = not damaged
        started = _started(found, job, before)
        if not whole:
            manifest.write(folder, started)
        try:
            brought = _bring(job)
        except (DallebabyError, Interrupted):
            _forget_nothing(folder)
            raise
        done = replace(
            started, complete=True, id=_id(started, brought), counts=_counts(job, brought)
        )
        manifest.write(folder, done)
        if config.seed_minutes and brought.info_hash:
            from dallebaby_cli.fetch import bittorrent

            bittorrent.give(replace(job, keep=tuple(brought.files)))
        return Raw(folder, done, fresh=True)


def _before(folder: Path) -> Manifest | None:
    """What an earlier fetch noted in the folder. Raises BadInput if that makes no sense, or names
    files outside it."""
    found = manifest.read(folder)
    if found is None:
        return None
    source, asked = found.config.get("source"), found.config.get("files")
    listed, edges = found.counts.get("files", {}), found.counts.get("edges", {})
    if not (
        isinstance(source, str)
        and isinstance(asked, list)
        and all(isinstance(pattern, str) for pattern in asked)
        and isinstance(listed, dict)
        and all(_is_noted(path, facts) for path, facts in listed.items())
        and isinstance(edges, dict)
        and all(key.isdecimal() and isinstance(edges[key], str) for key in edges)
        and (not found.complete or "files" in found.counts)
    ):
        raise BadInput(
            f"{folder / 'manifest.json'} is damaged; remove it and fetch again what you want of "
            f"{folder.name}: what is here and right is not fetched again"
        )
    return found


def _is_noted(path: str, facts: Any) -> bool:
    """Whether a manifest can say this of one file."""
    return (
        not names.unsafe(path)
        and not names.reserved(path)
        and isinstance(facts, dict)
        and type(facts.get("bytes")) is type(facts.get("mtime_ns")) is int
        and isinstance(facts.get("sha256", ""), str)
    )


def _job(
    found: Source,
    folder: Path,
    config: FetchConfig,
    patterns: Sequence[str],
    peers: Sequence[tuple[str, int]],
    before: Manifest | None,
    report: Report,
) -> Job:
    patterns = tuple(pattern.replace("\\", "/") for pattern in patterns)
    return Job(
        dataset=found.dataset,
        folder=folder,
        wanted=patterns or found.only or found.default,
        patterns=patterns,
        keep=tuple(before.counts["files"]) if before is not None and before.complete else (),
        metadata=found.metadata,
        magnet=found.magnet,
        peers=tuple(peers),
        config=config,
        timeout_s=config.timeout_s,
        report=report,
    )


def _started(found: Source, job: Job, before: Manifest | None) -> Manifest:
    """What is to be fetched, together with what was fetched before."""
    earlier = before.config["files"] if before is not None and before.complete else []
    config = {
        "source": found.identity,
        "files": sorted({*earlier, *job.wanted}),
        "default": sorted(found.default),
        **as_dict(job.config),
    }
    return Manifest(kind="raw", name=job.folder.name, config=config)


def _id(started: Manifest, brought: Brought) -> str:
    """The info-hash where it says all, else a hash of what each file holds."""
    hashes = {p: f.sha256 or f.size_bytes for p, f in brought.files.items()}
    default = started.config["files"] == started.config["default"]
    if brought.info_hash and default and not any(f.sha256 for f in brought.files.values()):
        return brought.info_hash
    listing = json.dumps([brought.info_hash, hashes], sort_keys=True)
    return hashlib.sha256(listing.encode()).hexdigest()


def _counts(job: Job, brought: Brought) -> dict[str, Any]:
    """Every file with what shows, without reading it, that it has not changed."""
    listed = {}
    for path, fetched in sorted(brought.files.items()):
        listed[path] = {
            "bytes": fetched.size_bytes,
            "mtime_ns": (job.folder / path).stat().st_mtime_ns,
            **({"sha256": fetched.sha256} if fetched.sha256 else {}),
        }
    return {
        "files": listed,
        "bytes": sum(f.size_bytes for f in brought.files.values()),
        "edges": {str(piece): digest for piece, digest in brought.edges.items()},
    }


def _damaged(job: Job, before: Manifest, verify: bool) -> list[str]:
    """Files that are gone or have changed; with `verify`, every byte is read to find out."""
    damaged = set()
    for path, facts in before.counts["files"].items():
        try:
            stat = (job.folder / path).stat()
        except FileNotFoundError:
            damaged.add(path)
            continue
        if (stat.st_size, stat.st_mtime_ns) != (facts["bytes"], facts["mtime_ns"]):
            damaged.add(path)
    if not verify:
        return sorted(damaged)
    torrented = [p for p, facts in before.counts["files"].items() if "sha256" not in facts]
    if torrented:
        from dallebaby_cli.fetch import bittorrent

        known = {int(piece): digest for piece, digest in before.counts.get("edges", {}).items()}
        damaged |= set(bittorrent.verify(replace(job, keep=tuple(torrented)), known))
    for path, facts in before.counts["files"].items():
        if "sha256" in facts and path not in damaged:
            job.report(Progress(f"checking {path}", 0, facts["bytes"], "B"))
            if files.sha256_file(job.folder / path) != facts["sha256"]:
                damaged.add(path)
    return sorted(damaged)


def _covered(job: Job, before: Manifest) -> bool:
    """Whether everything that is asked for has been fetched before. Raises UsageError for a
    pattern that names nothing."""
    if job.dataset.transport != "bittorrent":
        return {f.path for f in _known(job)} <= set(job.keep)
    if set(job.wanted) <= set(before.config["files"]):
        return True
    from dallebaby_cli.fetch import bittorrent

    return bittorrent.covered(job)


def _bring(job: Job) -> Brought:
    """Take each file by the transport that has it."""
    if job.dataset.transport == "kaggle":
        from dallebaby_cli.fetch import kaggle

        return kaggle.download(job, _known(job))
    if job.dataset.transport == "http":
        return http.download(job, _known(job))
    beside = [f for f in job.files if not f.in_torrent]
    within = [f for f in job.files if f.in_torrent]
    only_beside = _name_all(beside, job.wanted) and not (within or job.keep)
    brought = Brought(files={}) if only_beside else _by_torrent(job, within)
    if beside:
        over_http = http.download(job, beside)
        brought = replace(brought, files={**brought.files, **over_http.files})
    return brought


def _known(job: Job) -> list[File]:
    """The files to bring of a dataset that the catalogue lists wholly. Raises UsageError for a
    pattern that names nothing."""
    names = [name for file in job.dataset.files for name in file.patterns]
    catalog.require_all(job.patterns, names, job.dataset.name)
    return job.files


def _name_all(files: Sequence[File], patterns: Sequence[str]) -> bool:
    """Whether each of the patterns names one of the files."""
    known = [name for file in files for name in file.patterns]
    return all(named(known, (pattern,)) for pattern in patterns)


def _by_torrent(job: Job, mirrored: list[File]) -> Brought:
    """From the swarm; or, where it gives nothing and there is a mirror, from that."""
    from dallebaby_cli.fetch import bittorrent

    known = [*mirrored, *(f for f in job.dataset.files if not f.in_torrent)]
    if not mirrored or not all(f.urls for f in mirrored) or not _name_all(known, job.patterns):
        return bittorrent.download(job)
    patience_s, began = min(job.config.mirror_after_s, job.timeout_s / 2), time.monotonic()
    try:
        return bittorrent.download(replace(job, timeout_s=patience_s))
    except Stalled as stalled:
        job.report(Note(f"{stalled}; going over to the mirrors over HTTP", "warning"))
        try:
            left_s = max(job.timeout_s - (time.monotonic() - began), 1.0)
            return http.download(replace(job, timeout_s=left_s), mirrored)
        except FetchFailed as failed:
            why = str(stalled).removesuffix(f"; {job.how_to_continue}")
            raise FetchFailed(
                f"BitTorrent: {why}; HTTP: {failed}; is this machine connected to the internet?"
            ) from failed


def _forget_nothing(folder: Path) -> None:
    """Leave no manifest where nothing came."""
    if {p.name for p in folder.iterdir()} <= {".lock", "manifest.json"}:
        (folder / "manifest.json").unlink(missing_ok=True)


@dataclass(frozen=True)
class Listed:
    """One file that can be fetched."""

    path: str
    size_bytes: int | None
    wanted: bool
    note: str = ""


def listing(
    what: str,
    home: Path,
    config: FetchConfig,
    *,
    patterns: Sequence[str] = (),
    peers: Sequence[tuple[str, int]] = (),
    name: str | None = None,
    report: Report,
) -> list[Listed]:
    """Every file that a dataset or torrent holds, and whether `fetch` would bring it."""
    found = source(what, home, name)
    folder = manifest.artefact(home, "raw", found.dataset.name)
    with Interrupt() as interrupt:
        job = _job(found, folder, config, patterns, peers, None, report)
        job = replace(job, signal=lambda: interrupt.asked)
        asked = {f.path for f in job.files}
        rows = [
            Listed(f.path, f.size_bytes, f.path in asked, f.note)
            for f in found.dataset.files
            if not (f.in_torrent and found.dataset.info_hash)
        ]
        if found.dataset.info_hash:
            from dallebaby_cli.fetch import bittorrent

            inside = bittorrent.listing(job)
            paths = [e.path for e in inside.entries]
            notes = {p: f.note for f in found.dataset.files for p in named(paths, (f.path,))}
            asked = {e.path for e in inside.chosen(job.wanted)}
            rows += [
                Listed(e.path, e.size_bytes, e.path in asked, notes.get(e.path, ""))
                for e in inside.entries
            ]
        return rows
