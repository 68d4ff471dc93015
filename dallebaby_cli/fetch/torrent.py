"""BitTorrent: one torrent in one session of libtorrent, which torrent_file.py alone knows beside.

A download gets the torrent's metadata (from the file, the folder, or the peers), chooses the
files, adds the torrent with what is left of an earlier attempt, and turns until every wanted piece
is verified and on disk. The torrent's own top folder is dropped, as other transports have none.
"""

import errno
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from dallebaby_cli import files
from dallebaby_cli.errors import BadInput, DiskFull, FetchFailed, Interrupted
from dallebaby_cli.fetch import diagnosis, resume, torrent_file
from dallebaby_cli.fetch.file_list import Contents, Entry
from dallebaby_cli.fetch.torrent_file import libtorrent as lt
from dallebaby_cli.fetch.torrent_settings import settings
from dallebaby_cli.fetch.transfer import Job, Stalled
from dallebaby_cli.progress import Note, Transfer

METADATA = ".torrent"
TURN_MS = 250
REPORT_EVERY_S = 0.5
SAVE_EVERY_S = 1.0
SEEK_EVERY_S = 3.0  # between two attempts at the peers that the person named
ANNOUNCE_EVERY_S = 30.0  # between two questions to the trackers while nothing comes
STALL_AFTER_S = 5.0  # without a byte, people are told why
UTP_AFTER_S = 20.0  # without a byte, peers that TCP does not reach are tried over uTP
SHOWN_FILES = 6
ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL = 39, 112  # as Windows counts
FULL = (
    (ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL)
    if sys.platform == "win32"
    else (errno.ENOSPC, errno.EDQUOT)
)
NEWS = (
    lt.alert.category_t.error_notification
    | lt.alert.category_t.status_notification
    | lt.alert.category_t.storage_notification
    | lt.alert.category_t.tracker_notification
)
STATES = lt.torrent_status.states
SAVED = (lt.save_resume_data_alert, lt.save_resume_data_failed_alert)
CHECKING = (
    STATES.queued_for_checking,
    STATES.checking_files,
    STATES.checking_resume_data,
    STATES.allocating,
)


class Swarm:
    """One torrent in one libtorrent session; a context manager."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.session: Any = cast(Any, lt.session)({**settings(job.config), "alert_mask": NEWS})
        self.handle: Any = None
        self.wanted: list[Entry] = []
        self.link = torrent_file.parse_magnet(job.magnet)
        self.peers = [*job.peers, *(self.link.peers if self.link else ())]
        self.private = False
        self.pulse = job.pulse()
        self.trouble = diagnosis.Trouble()
        self.last: dict[str, float] = {}
        self.checking = False
        self.checked = False  # whether libtorrent knows what is here already
        self.unsaved = 0  # requests for resume data that libtorrent has not answered

    def __enter__(self) -> "Swarm":
        return self

    def __exit__(self, *exception: object) -> None:
        self.session.pause()
        del self.handle, self.session

    # ---------------------------------------------------------------- the three errands

    def learn(self) -> bytes:
        """The torrent's metadata: from the job, the folder, or else from the peers."""
        metadata = self.job.metadata or saved(self.job)
        if metadata is not None:
            return metadata
        parameters = self.link
        parameters.flags |= lt.torrent_flags.upload_mode  # nothing comes before it is chosen
        self._add(parameters)
        for status in self._turns():
            if status.has_metadata:
                break
        return self._metadata()

    def _metadata(self) -> bytes:
        """The .torrent file, as far as it is known by now."""
        self.handle.save_resume_data(lt.torrent_handle.save_info_dict)
        alert = self._wait_for(lt.save_resume_data_alert)
        return torrent_file.written(alert.params)

    def download(self, metadata: bytes, found: Contents, wanted: list[Entry]) -> None:
        """Bring the wanted files; what came is kept whatever happens, and continued next time."""
        self.wanted, self.private = wanted, found.private
        files.write_bytes(self.job.folder / METADATA, metadata)
        if self.handle is None:
            self._add(self._continued(metadata, found))
        else:  # the peers that gave the metadata are connected; keep them
            self._choose(found)
        for status in self._turns():
            if self.checked and status.is_finished and self._missing(found) == set():
                break
        self.handle.flush_cache()
        self._wait_for(lt.cache_flushed_alert)
        if self.job.metadata is None:  # what peers do not give with the list has come since
            self._save_now()
            files.write_bytes(self.job.folder / METADATA, self._metadata())
        self.job.report(self._event(status))

    def check(self, metadata: bytes, found: Contents, wanted: list[Entry]) -> set[int]:
        """Hash the wanted files without fetching anything: the pieces that are not right."""
        self.wanted = wanted
        parameters = self._parameters(lt.load_torrent_buffer(metadata), found)
        parameters.trackers, parameters.url_seeds, self.peers, self.link = [], [], [], None
        parameters.flags |= lt.torrent_flags.upload_mode
        self._add(parameters)
        for _ in self._turns():
            if self.checked:
                break
        return self._missing(found)

    def give(self, metadata: bytes, found: Contents, wanted: list[Entry]) -> None:
        """Give what is here to others, for as long as the settings say or until it is stopped."""
        self.wanted = wanted
        parameters = self._parameters(self._asking(lt.load_torrent_buffer(metadata)), found)
        parameters.have_pieces = found.whole_pieces(wanted)
        parameters.flags |= lt.torrent_flags.upload_mode
        self._add(parameters)
        end = time.monotonic() + 60 * self.job.config.seed_minutes
        while time.monotonic() < end and not self.job.signal():
            self.session.wait_for_alert(TURN_MS)
            for alert in self.session.pop_alerts():
                self._heed(alert)
            if self._due("report", REPORT_EVERY_S):
                event = self._event(self.handle.status())
                self.job.report(replace(event, state="seeding", waiting_for=""))

    def _missing(self, found: Contents) -> set[int]:
        """The pieces of wanted files that are not here and verified."""
        have = self.handle.status(lt.torrent_handle.query_pieces).pieces
        return {p for e in self.wanted for p in found.pieces(e) if not have[p]}

    # ---------------------------------------------------------------- how they are run

    def _continued(self, metadata: bytes, found: Contents) -> Any:
        """What libtorrent must know to begin, or to go on where it was broken off."""
        given = parameters = lt.load_torrent_buffer(metadata)
        state, damaged = resume.load(self.job.folder)
        if damaged:
            self.job.report(Note("the saved state is damaged; checking the files instead"))
        if state is not None:
            earlier = torrent_file.read_state(state)
            if earlier is not None and earlier.info_hashes == parameters.info_hashes:
                earlier.ti = parameters.ti
                if found.fits(earlier.have_pieces, self.wanted, self.job.folder):
                    parameters = earlier
                else:
                    self.job.report(Note("files have changed since; checking them"))
        return self._parameters(self._asking(parameters, given), found)

    def _asking(self, parameters: Any, *others: Any) -> Any:
        """Ask everybody that was ever named, now or before: those of the command first."""
        sources = [*([self.link] if self.link else []), *others, parameters]
        for kind in ("trackers", "url_seeds"):
            setattr(
                parameters, kind, list(dict.fromkeys(u for s in sources for u in getattr(s, kind)))
            )
        parameters.tracker_tiers = list(range(len(parameters.trackers)))
        return parameters

    def _parameters(self, parameters: Any, found: Contents) -> Any:
        """Say which files are wanted, and where they go."""
        parameters.file_priorities = self._priorities(found)
        parameters.renamed_files = {e.index: e.here for e in found.entries}
        return parameters

    def _priorities(self, found: Contents) -> list[int]:
        chosen = {e.index for e in self.wanted}
        return [4 * (i in chosen) for i in range(found.total_files)]

    def _choose(self, found: Contents) -> None:
        """Say the same of a torrent that was added before its files were known."""
        for entry in found.entries:
            self.handle.rename_file(entry.index, entry.here)
        self.handle.prioritize_files(self._priorities(found))
        if any((self.job.folder / e.path).exists() for e in self.wanted):
            self.checked = False
            self.handle.force_recheck()
        self.handle.unset_flags(lt.torrent_flags.upload_mode)  # only now may anything come
        self.pulse.restart()

    def _add(self, parameters: Any) -> None:
        parameters.save_path = str(self.job.folder)
        parameters.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        self.handle = self.session.add_torrent(parameters)
        for peer in self.peers:
            self.handle.connect_peer(peer)
        self.pulse.restart()

    def _due(self, what: str, every_s: float) -> bool:
        """Whether something that is done every so often is to be done now."""
        now = time.monotonic()
        if now - self.last.setdefault(what, now) < every_s:
            return False
        self.last[what] = now
        return True

    def _turns(self) -> Iterator[Any]:
        """Turn the session: yield its status a few times a second until the caller has enough.

        Raises Interrupted, Stalled, DiskFull or FetchFailed, each after saving the state.
        """
        while True:
            self.session.wait_for_alert(TURN_MS)
            for alert in self.session.pop_alerts():
                self._heed(alert)
            status = self.handle.status()
            event = self._event(status)
            if (status.state in CHECKING) != self.checking:
                self.checking = not self.checking
                self.pulse.restart()  # it counts something else now
            self.pulse.beat(1000 * status.progress_ppm if self.checking else event.done)
            if self._due("report", REPORT_EVERY_S):
                self.job.report(event)
            yield status
            if self.wanted and self._due("save", SAVE_EVERY_S) and status.need_save_resume:
                self._save()
            if number := self.job.signal():
                self._save_now()
                raise Interrupted(f"stopped; {self.job.how_to_continue}", number)
            if self.pulse.idle_s > STALL_AFTER_S and status.state not in CHECKING:
                self._seek()
            if self.pulse.idle_s > self.job.timeout_s:
                self._save_now()
                raise Stalled(
                    f"{self.pulse.what_came} came for {self.job.timeout_s:.0f} s: "
                    f"{self._why(status)}; "
                    f"{self.job.how_to_continue}"
                )

    # ---------------------------------------------------------------- what it hears and says

    def _heed(self, alert: Any) -> None:
        """Take in one piece of news from libtorrent."""
        if isinstance(alert, lt.save_resume_data_alert):
            self.unsaved -= 1
            alert.params.renamed_files = {}
            resume.save(self.job.folder, lt.bencode(lt.write_resume_data(alert.params)))
        elif isinstance(alert, lt.save_resume_data_failed_alert):
            self.unsaved -= 1
        elif isinstance(alert, lt.torrent_checked_alert):
            self.checked = True
        elif isinstance(alert, lt.tracker_error_alert):
            problem = alert.error.message() or alert.failure_reason()
            self.trouble.tracker(alert.url, problem)
        elif isinstance(alert, lt.tracker_reply_alert):
            self.trouble.tracker(alert.url, "")
        elif isinstance(alert, lt.url_seed_alert):
            self.trouble.web_seed(alert.server_url(), alert.error.message())
        elif isinstance(alert, lt.hash_failed_alert):
            self.trouble.bad_pieces += 1
        elif isinstance(alert, lt.fastresume_rejected_alert):
            self.job.report(Note("the saved state does not fit the files here; checking them"))
        elif isinstance(alert, lt.listen_failed_alert):
            self.job.report(Note(f"cannot listen on {alert.listen_interface()}", "warning"))
        elif isinstance(alert, lt.file_error_alert):
            self._broken(alert.error, alert.filename())
        elif isinstance(alert, lt.torrent_error_alert):
            self._broken(alert.error, str(self.job.folder))

    def _broken(self, error: Any, path: str) -> None:
        """Stop because of an error on disk, with all that came before it saved."""
        self._save_now()
        if error.value() in FULL:
            raise DiskFull(f"the disk is full ({path}); make room; {self.job.how_to_continue}")
        raise FetchFailed(f"{error.message()} ({path}); {self.job.how_to_continue}")

    def _save(self) -> None:
        self.unsaved += 1
        self.handle.save_resume_data(lt.torrent_handle.flush_disk_cache)

    def _save_now(self) -> None:
        """Save the state and wait until it is on disk."""
        if self.handle.status().has_metadata and self.wanted:
            self._save()
            deadline = time.monotonic() + 10
            while self.unsaved > 0 and time.monotonic() < deadline:
                self.session.wait_for_alert(TURN_MS)
                for alert in self.session.pop_alerts():
                    if isinstance(alert, SAVED):
                        self._heed(alert)

    def _wait_for(self, kind: type) -> Any:
        """The next alert of one kind; it is valid until the session is asked for more."""
        while True:
            self.session.wait_for_alert(TURN_MS)
            found = None
            for alert in self.session.pop_alerts():  # all of them: what comes after it counts too
                if found is None and isinstance(alert, kind):
                    found = alert
                elif isinstance(alert, lt.save_resume_data_failed_alert) and kind in SAVED:
                    raise FetchFailed(f"{alert.error.message()}; {self.job.how_to_continue}")
                else:
                    self._heed(alert)
            if found is not None:
                return found

    def _seek(self) -> None:
        """While nothing comes, go on looking for somebody who has it."""
        if self.pulse.idle_s > UTP_AFTER_S:
            self.session.apply_settings({"enable_outgoing_utp": True})
        if self._due("seek", SEEK_EVERY_S):
            for peer in self.peers:  # as if a tracker had said so: earlier failures count less
                self.handle.connect_peer(peer, lt.peer_info.tracker)
        if self._due("announce", ANNOUNCE_EVERY_S):
            self.handle.force_reannounce()
            if self.job.config.dht:
                self.handle.force_dht_announce()

    def _event(self, status: Any) -> Transfer:
        """How it stands, for the person."""
        progress = self.handle.file_progress() if self.wanted else []
        here = [(e, progress[e.index]) for e in self.wanted] if progress else []
        done, total = sum(n for _, n in here), sum(e.size_bytes for e in self.wanted)
        moving = [(e.path, n, e.size_bytes) for e, n in here if 0 < n < e.size_bytes]
        checking = status.state in CHECKING
        peers = self.handle.get_peer_info()
        web_seeds = sum(p.connection_type == lt.peer_info.web_seed for p in peers)
        stalled = not checking and self.pulse.idle_s > STALL_AFTER_S
        return Transfer(
            task=self.job.dataset.name,
            state="checking" if checking else "downloading" if total else "connecting",
            done=int(total * status.progress) if checking else done,
            total=total or None,
            rate=0 if checking else self.pulse.rate,
            eta_s=None if checking else self.pulse.eta_s(total - done),
            peers=len(peers) - web_seeds,
            seeds=sum(bool(p.flags & lt.peer_info.seed) for p in peers) - web_seeds,
            web_seeds=web_seeds,
            available=None if checking else self._available(),
            waiting_for=self._why(status) if stalled else "",
            files=tuple(moving[:SHOWN_FILES]),
        )

    def _why(self, status: Any) -> str:
        """Why nothing comes."""
        peers = [p for p in self.handle.get_peer_info() if not p.flags & lt.peer_info.connecting]
        interesting = [p for p in peers if p.flags & lt.peer_info.interesting]
        snapshot = diagnosis.Snapshot(
            has_metadata=status.has_metadata,
            peers=len(peers),
            interested=len(interesting),
            unchoked=sum(not p.flags & lt.peer_info.remote_choked for p in interesting),
            available=self._available(),
            dht=self.job.config.dht and not self.private,
            asked_peers=len(self.job.peers),
        )
        return diagnosis.explain(self.trouble, snapshot)

    def _available(self) -> float:
        """Share of the wanted pieces that are here or with somebody connected."""
        have = self.handle.status(lt.torrent_handle.query_pieces).pieces
        wanted = [i for i, p in enumerate(self.handle.get_piece_priorities()) if p]
        held = self.handle.piece_availability() or [0] * len(have)
        return sum(bool(have[i] or held[i]) for i in wanted) / max(1, len(wanted))


def saved(job: Job) -> bytes | None:
    """The .torrent file that an earlier attempt left, if it is whole and of this torrent."""
    path = job.folder / METADATA
    try:
        metadata = torrent_file.read(path)
        if job.dataset.info_hash in torrent_file.info_hashes(metadata, str(path)):
            return metadata
    except FileNotFoundError:
        return None
    except BadInput as error:
        job.report(Note(f"{error}; getting it again", "warning"))
    return None
