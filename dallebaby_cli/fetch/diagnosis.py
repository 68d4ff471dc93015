"""Why nothing comes: what a swarm looks like, put into one sentence that says what may help."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Trouble:
    """What trackers and web seeds said since the start, the latest of each."""

    trackers: dict[str, str] = field(default_factory=dict)
    """host → what went wrong; "" once it has answered"""
    web_seeds: dict[str, str] = field(default_factory=dict)
    """host → what went wrong"""
    bad_pieces: int = 0
    """pieces that failed their hash check"""

    def tracker(self, url: str, problem: str) -> None:
        """Take note of a tracker's answer, or of its problem."""
        self.trackers[urlsplit(url).hostname or url] = problem

    def web_seed(self, url: str, problem: str) -> None:
        """Take note of a web seed's problem."""
        self.web_seeds[urlsplit(url).hostname or url] = problem


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How a swarm looks at one moment."""

    has_metadata: bool
    peers: int
    interested: int
    """peers that have something we still want"""
    unchoked: int
    """of those, the ones that would send it"""
    available: float
    """share of the wanted bytes that is here or with somebody connected"""
    dht: bool
    asked_peers: int = 0
    """peers that the person named with --peer"""


def tried(trouble: Trouble, snapshot: Snapshot) -> str:
    """Whom we asked for peers, and what they said."""
    parts = []
    for host, problem in trouble.trackers.items():
        parts.append(f"tracker {host} ({problem or 'answered, but knows nobody who sends'})")
    if not trouble.trackers:
        parts.append("no tracker has answered")
    parts += [f"web seed {host} ({problem})" for host, problem in trouble.web_seeds.items()]
    if snapshot.dht:
        parts.append("the distributed hash table")
    if snapshot.asked_peers:
        parts.append(f"{snapshot.asked_peers} peer(s) given with --peer")
    return ", ".join(parts)


def explain(trouble: Trouble, snapshot: Snapshot) -> str:
    """Why nothing comes, as far as one can tell from here."""
    if snapshot.peers == 0:
        wanted = "" if snapshot.has_metadata else ", and the list of files comes from a peer"
        return f"no peer is connected{wanted}; asked: {tried(trouble, snapshot)}"
    if not snapshot.has_metadata:
        return (
            f"{snapshot.peers} peer(s) connected, but none has given the list of files yet; "
            f"asked: {tried(trouble, snapshot)}"
        )
    if snapshot.available < 1:
        return (
            f"only {_percent(snapshot.available)} of the wanted files is available from the "
            f"{snapshot.peers} peer(s) connected; the rest comes when a peer that has it returns"
        )
    if snapshot.interested and not snapshot.unchoked:
        return f"{snapshot.peers} peer(s) connected, but all are busy with others; waiting in line"
    if trouble.bad_pieces:
        return f"peers sent {trouble.bad_pieces} damaged piece(s); waiting for honest ones"
    return f"{snapshot.peers} peer(s) connected, but none sends"


def _percent(share: float) -> str:
    """A share that is not the whole, and is never rounded up to look like it."""
    return f"{min(99.9, int(share * 1000) / 10):.1f} %"
