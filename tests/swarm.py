"""Real swarms on loopback: torrents, a tracker, web servers, and independent programs as peers."""

import base64
import hashlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import libtorrent
import pytest

ALONE = ("--set", "listen=127.0.0.1:0", "--set", "dht=false", "--set", "local_discovery=false")
"""Arguments that keep a fetch on loopback."""
PIECE = 16384
PATIENCE_S = 60.0

needs_aria2 = pytest.mark.skipif(not shutil.which("aria2c"), reason="aria2c is not installed")
needs_transmission = pytest.mark.skipif(
    not shutil.which("transmission-daemon"), reason="transmission-daemon is not installed"
)


def free_port() -> int:
    """A TCP port on loopback that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(done: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """Wait for something to become true; fail with `what` if it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := done():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")


# ---------------------------------------------------------------- torrents


@dataclass(frozen=True)
class Torrent:
    """A .torrent file, and the folder that holds its content."""

    path: Path
    content: Path
    info_hash: str
    name: str

    @property
    def magnet(self) -> str:
        return f"magnet:?xt=urn:btih:{self.info_hash}&dn={urllib.parse.quote(self.name)}"


def make_torrent(
    content: Path,
    path: Path,
    *,
    trackers: Iterable[str] = (),
    web_seeds: Iterable[str] = (),
    piece: int = PIECE,
) -> Torrent:
    """Make a version 1 torrent of a file or folder, without any BitTorrent library's help."""
    files = [content] if content.is_file() else sorted(f for f in content.rglob("*") if f.is_file())
    pieces, rest = [], b""
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                rest += block
                while len(rest) >= piece:
                    pieces.append(hashlib.sha1(rest[:piece]).digest())
                    rest = rest[piece:]
    pieces += [hashlib.sha1(rest).digest()] if rest else []
    info: dict[bytes, Any] = {
        b"name": content.name.encode(),
        b"piece length": piece,
        b"pieces": b"".join(pieces),
    }
    if content.is_file():
        info[b"length"] = content.stat().st_size
    else:
        info[b"files"] = [
            {
                b"length": file.stat().st_size,
                b"path": [part.encode() for part in file.relative_to(content).parts],
            }
            for file in files
        ]
    return write_torrent(info, path, content, trackers=trackers, web_seeds=web_seeds)


def write_torrent(
    info: Mapping[bytes, Any],
    path: Path,
    content: Path,
    *,
    trackers: Iterable[str] = (),
    web_seeds: Iterable[str] = (),
) -> Torrent:
    """Write a .torrent file around an info dictionary, honest or not."""
    whole: dict[bytes, Any] = {b"info": dict(info)}
    if urls := [t.encode() for t in trackers]:
        whole[b"announce"], whole[b"announce-list"] = urls[0], [[u] for u in urls]
    if seeds := [w.encode() for w in web_seeds]:
        whole[b"url-list"] = seeds
    path.write_bytes(libtorrent.bencode(whole))
    info_hash = hashlib.sha1(libtorrent.bencode(dict(info))).hexdigest()
    return Torrent(path, content, info_hash, info[b"name"].decode(errors="replace"))


def make_new_torrent(content: Path, path: Path, *, hybrid: bool) -> Torrent:
    """Make a torrent of version 2 of a folder, or one of versions 1 and 2 together: padded, so that
    each file begins with a piece."""
    flags = 0 if hybrid else libtorrent.create_torrent_flags_t.v2_only
    made = libtorrent.create_torrent(libtorrent.list_files(str(content)), PIECE, flags)
    libtorrent.set_piece_hashes(made, str(content.parent))
    path.write_bytes(libtorrent.bencode(made.generate()))
    hashes = libtorrent.load_torrent_buffer(path.read_bytes()).info_hashes
    return Torrent(path, content, str(hashes.v1 if hybrid else hashes.v2), content.name)


@contextmanager
def session(torrent: Torrent, folder: Path, *, seed: bool = True) -> Iterator[Any]:
    """libtorrent itself as a peer, for what aria2 and transmission do not know: its handle."""
    alone = {"enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False}
    peer = libtorrent.session({"listen_interfaces": "127.0.0.1:0", **alone})
    added = libtorrent.load_torrent_buffer(torrent.path.read_bytes())
    added.save_path, layout = str(folder), added.ti.layout()
    added.renamed_files = {i: layout.file_path(i) for i in range(layout.num_files())}
    added.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    if seed:
        added.flags |= libtorrent.torrent_flags.seed_mode
    handle = peer.add_torrent(added)
    wait_until(peer.listen_port, "libtorrent listens")
    try:
        yield f"127.0.0.1:{peer.listen_port()}", handle
    finally:
        peer.pause()


# ---------------------------------------------------------------- independent peers


@dataclass
class Peer:
    """A BitTorrent program other than ours, seeding on loopback."""

    process: subprocess.Popen[bytes]
    port: int
    version: str
    rpc: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def uploaded(self) -> int:
        """Bytes that aria2c says it has given to others."""
        body = json.dumps(
            {
                "jsonrpc": "2.0",
                "id": "1",
                "method": "aria2.tellActive",
                "params": [["uploadLength"]],
            }
        ).encode()
        url = f"http://127.0.0.1:{self.rpc}/jsonrpc"
        with urllib.request.urlopen(url, data=body, timeout=10) as answer:
            return sum(int(t["uploadLength"]) for t in json.load(answer)["result"])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def _version(program: str) -> str:
    asked = subprocess.run([program, "--version"], capture_output=True, text=True)
    return (asked.stdout + asked.stderr).strip().splitlines()[0]


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def aria2(
    torrent: Torrent, *, port: int | None = None, up_kb_s: int = 0, unverified: bool = False
) -> Iterator[Peer]:
    """aria2c seeding a torrent's content; `unverified` serves it even where it is damaged."""
    port, rpc = port or free_port(), free_port()
    check = ["--bt-seed-unverified=true"] if unverified else ["--check-integrity=true"]
    arguments = [
        "aria2c",
        f"--dir={torrent.content.parent}",
        *check,
        "--seed-ratio=0",
        f"--max-overall-upload-limit={up_kb_s}K",
        f"--listen-port={port}",
        "--interface=127.0.0.1",
        "--disable-ipv6=true",
        "--enable-dht=false",
        "--enable-dht6=false",
        "--bt-enable-lpd=false",
        "--bt-tracker-interval=2",
        "--no-conf=true",
        "--enable-rpc=true",
        f"--rpc-listen-port={rpc}",
        "--allow-overwrite=true",
        "--summary-interval=0",
        str(torrent.path),
    ]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peer = Peer(process, port, _version("aria2c"), rpc)
    print(f"peer: {peer.version} on {peer.address}")
    try:
        wait_until(lambda: _listening(port), "aria2c listens")
        yield peer
    finally:
        peer.stop()


@contextmanager
def daemon(
    folder: Path, downloads: Path, *, encrypted: bool = False
) -> Iterator[tuple[Peer, "Remote"]]:
    """transmission-daemon with no torrent yet; `folder` keeps its settings.

    An `encrypted` one talks to nobody in the clear.
    """
    port, rpc = free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "bind-address-ipv4": "127.0.0.1",
        "dht-enabled": False,
        "lpd-enabled": False,
        "pex-enabled": False,
        "utp-enabled": False,
        "port-forwarding-enabled": False,
        "peer-port": port,
        "rpc-bind-address": "127.0.0.1",
        "rpc-port": rpc,
        "download-dir": str(downloads),
        "ratio-limit-enabled": False,
        "encryption": 2 if encrypted else 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    arguments = ["transmission-daemon", "--foreground", "--config-dir", str(folder)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peer = Peer(process, port, _version("transmission-daemon"), rpc)
    print(f"peer: {peer.version} on {peer.address}")
    try:
        wait_until(lambda: _listening(rpc), "transmission-daemon answers")
        yield peer, Remote(f"http://127.0.0.1:{rpc}/transmission/rpc")
    finally:
        peer.stop()


@contextmanager
def transmission(torrent: Torrent, folder: Path, *, encrypted: bool = False) -> Iterator[Peer]:
    """transmission-daemon seeding a torrent's content."""
    with daemon(folder, torrent.content.parent, encrypted=encrypted) as (peer, remote):
        remote.add(torrent)
        wait_until(
            lambda: all(t["percentDone"] == 1 and t["status"] == 6 for t in remote.torrents()),
            "transmission-daemon has checked the content",
        )
        yield peer


class Remote:
    """transmission-daemon's own remote control."""

    def __init__(self, url: str) -> None:
        self.url, self.session = url, ""

    def ask(self, method: str, **arguments: Any) -> Any:
        body = json.dumps({"method": method, "arguments": arguments}).encode()
        for _ in range(2):
            headers = {"X-Transmission-Session-Id": self.session}
            try:
                with urllib.request.urlopen(urllib.request.Request(self.url, body, headers)) as got:
                    return json.load(got)["arguments"]
            except urllib.error.HTTPError as error:
                with error:
                    self.session = error.headers["X-Transmission-Session-Id"]
        raise AssertionError(f"transmission-daemon refuses {method}")

    def add(self, torrent: Torrent) -> None:
        self.ask("torrent-add", metainfo=base64.b64encode(torrent.path.read_bytes()).decode())

    def torrents(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("torrent-get", fields=["percentDone", "status"])[
            "torrents"
        ]
        return found


# ---------------------------------------------------------------- tracker and web servers


@contextmanager
def serving(
    handler: type[BaseHTTPRequestHandler], port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """Run an HTTP server on loopback; yields its port."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(BaseHTTPRequestHandler):
    """A handler that does not log, and bears with clients that hang up."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):
            super().handle()


@dataclass
class Tracker:
    """A BitTorrent tracker (BEP 3) that tells everybody about everybody."""

    port: int = 0
    peers: dict[bytes, set[tuple[str, int]]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/announce"


@contextmanager
def tracker() -> Iterator[Tracker]:
    """A tracker on loopback."""
    known = Tracker()

    class Announce(Quiet):
        def do_GET(self) -> None:
            query = urllib.parse.urlsplit(self.path).query
            asked = dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair)
            info_hash = urllib.parse.unquote_to_bytes(asked.get("info_hash", ""))
            peers = known.peers.setdefault(info_hash, set())
            own = ("127.0.0.1", int(asked.get("port", 0)))
            if asked.get("event") == "stopped":
                peers.discard(own)
            else:
                peers.add(own)
            compact = b"".join(socket.inet_aton(h) + p.to_bytes(2, "big") for h, p in peers - {own})
            body = libtorrent.bencode({b"interval": 2, b"min interval": 1, b"peers": compact})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Announce) as port:
        known.port = port
        yield known


@dataclass
class Site:
    """A web server for a folder, with the faults that real ones have."""

    folder: Path
    ranges: bool = True
    """answer Range requests; without, the whole file every time"""
    break_after: int | None = None
    """hang up after so many bytes of each answer"""
    refuse: int | None = None
    """answer everything with this status"""
    bytes_a_second: int | None = None
    port: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    """path and Range header of each request"""
    sent: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def site(folder: Path, **faults: Any) -> Iterator[Site]:
    """Serve a folder over HTTP on loopback."""
    served = Site(folder, **faults)

    class Serve(Quiet):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            served.requests.append((self.path, asked))
            path = served.folder / urllib.parse.unquote(self.path).lstrip("/")
            if served.refuse or not path.is_file():
                self.send_response(served.refuse or 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = path.stat().st_size
            start, end = 0, size - 1
            if served.ranges and asked.startswith("bytes="):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last or end), end)
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(end - start + 1))
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}-{size}"')
            self.end_headers()
            self._send(path, start, end + 1 - start)

        def _send(self, path: Path, start: int, left: int) -> None:
            allowed = served.break_after
            with path.open("rb") as handle:
                handle.seek(start)
                while left:
                    block = handle.read(min(left, 1 << 16 if allowed is None else allowed))
                    self.wfile.write(block)
                    served.sent += len(block)
                    left -= len(block)
                    if served.bytes_a_second:
                        time.sleep(len(block) / served.bytes_a_second)
                    if allowed is not None:
                        self.close_connection = True
                        return

    with serving(Serve) as port:
        served.port = port
        yield served
