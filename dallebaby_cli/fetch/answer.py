"""One HTTP request, and what its answer really sends: bounded in time, read from its headers.

A status says little. What is believed of an answer is which bytes it says that it sends
(Content-Range), how many (Content-Length), and that they are no page in place of the file.
"""

import base64
import codecs
import http.client
import io
import itertools
import re
import socket
import ssl
import string
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from dallebaby_cli import __version__
from dallebaby_cli.errors import FetchFailed
from dallebaby_cli.text import one_line, without_secrets

SOCKET_TIMEOUT_S = 10.0
CERTIFICATES_OF_MACOS = "/etc/ssl/cert.pem"
LARGEST_HEADER = 1 << 18
LARGEST_PAGE = 1 << 26
CHUNK_BYTES = 1 << 18
MOST_HOPS = 10
REDIRECTS = (301, 302, 303, 307, 308)
FOR_GOOD = (400, 401, 403, 404, 410, 451)  # answers that will not get better
COMPRESSED = ("gzip", "x-gzip", "deflate")
GZIP = b"\x1f\x8b"
HEAD_BYTES = 512  # that tell a page from a file
PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b", re.I | re.S
)
TEXT = re.compile(r"text/|application/(json|xml|xhtml\+xml|problem\+json)", re.I)
NO_TEXT = re.compile(
    r"\.(zip|gz|tgz|bz2|tbz2?|xz|txz|zst|tar|7z|rar|npz|npy|mat|h5|hdf5|parquet|arrow"
    r"|jpe?g|png|webp|gif|bmp|tiff?|avif|torrent)$",
    re.I,
)


class Useless(FetchFailed):
    """A mirror that will not get better: it is not asked again."""


class StartAgain(ConnectionError):
    """An answer that does not go on where we stopped: it is asked for the whole."""


# ---------------------------------------------------------------- the connection


class _Clocked(io.RawIOBase):
    """What comes through a socket, up to a moment in time and, at first, a number of bytes: no
    single byte starts the clock again."""

    def __init__(self, raw: Any, connection: socket.socket) -> None:
        self.raw, self.connection = raw, connection
        self.patience_s = connection.gettimeout() or SOCKET_TIMEOUT_S
        self.left: float = LARGEST_HEADER
        self.wait()

    def wait(self) -> None:
        """Wait for the next piece, with all our patience."""
        self.until = time.monotonic() + self.patience_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self.connection.settimeout(left_s)
        count: int = self.raw.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise http.client.HTTPException("the header of its answer does not end")
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer whose header, and whose every piece, must come within our patience."""

    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self.clocked = _Clocked(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self.clocked)

    def begin(self) -> None:
        super().begin()
        self.clocked.left = float("inf")

    def pieces(self, most: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The body as it comes, in pieces of at most `most` bytes."""
        self.clocked.wait()
        while piece := self.read1(most):
            yield piece
            self.clocked.wait()


class _Connection(http.client.HTTPConnection):
    response_class = Response


class _SecureConnection(http.client.HTTPSConnection):
    response_class = Response


class _HTTP(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Connection, request)


class _HTTPS(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_SecureConnection, request, **_trusting())


def _trusting() -> dict[str, ssl.SSLContext]:
    """Whom to trust where Python knows nobody: its own installer for macOS brings no certificates,
    and the system's are elsewhere."""
    if sys.platform == "darwin":
        context = ssl.create_default_context()
        if not context.get_ca_certs():
            context.load_verify_locations(CERTIFICATES_OF_MACOS)
            return {"context": context}
    return {}


def ask(url: str, headers: dict[str, str], timeout_s: float = SOCKET_TIMEOUT_S) -> Response:
    """Ask for `url`, through redirects that stay on the web, to an answer of any other status.

    Raises Useless for an address that is none, or that leads to another protocol or out of TLS;
    OSError or HTTPException for what the network does.
    """
    opener = urllib.request.OpenerDirector()  # without what judges answers before we have seen them
    for handler in (urllib.request.ProxyHandler(), _HTTP(), _HTTPS()):
        opener.add_handler(handler)
    for _ in range(MOST_HOPS):
        request = _request(url, headers)
        try:
            response = opener.open(request, timeout=min(SOCKET_TIMEOUT_S, timeout_s))
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                why = error.reason.verify_message
                raise Useless(f"shows a certificate that is not valid: {why}") from error
            raise
        assert isinstance(response, Response)
        if response.status not in REDIRECTS:
            return response
        with response:
            url = _redirected(url, response.headers.get("Location", ""))
    raise Useless(f"leads on more than {MOST_HOPS} times")


def _request(url: str, headers: dict[str, str]) -> urllib.request.Request:
    """With quotes for letters that no address may hold, and name and password in a header."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        place = f"[{host}]" if ":" in host else host.encode("idna").decode()
        place += f":{parts.port}" if parts.port is not None else ""
        path, query = _quoted(parts.path), _quoted(parts.query)
        address = urlunsplit((parts.scheme, place, path or "/", query, ""))
    except ValueError:  # of its port, its brackets or its letters
        raise Useless(f"{shown(url)!r} is not a valid address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise Useless(f"{shown(url)!r} is not an HTTP address")
    headers = {"User-Agent": f"dallebaby/{__version__}", "Accept-Encoding": "identity", **headers}
    if parts.username:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    return urllib.request.Request(address, headers=headers)


def _quoted(text: str) -> str:
    text = re.sub("%(?![0-9A-Fa-f]{2})", "%25", text)
    return quote(text, safe=string.punctuation)


def _redirected(url: str, location: str) -> str:
    """Where an answer leads on to."""
    try:
        following = urljoin(url, quote(location, safe=string.punctuation, encoding="latin-1"))
        scheme = urlsplit(following).scheme
    except ValueError:
        scheme = following = ""
    if not location or scheme not in ("http", "https"):
        raise Useless(f"leads on to {shown(location)!r}, which is not an HTTP address")
    if url.startswith("https:") and scheme == "http":
        raise Useless(f"leads on from https to {shown(location)!r}, which anybody could change")
    return following


def shown(url: str) -> str:
    """An address as it may be shown: without password, and without the keys in its query."""
    return one_line(without_secrets(url.partition("?")[0]))[:200]


def host(url: str) -> str:
    """Whose address it is, as it may be shown."""
    found = re.match("[a-z]+://([^/?#]*@)?([^/?#]+)", url, re.I)
    return one_line(found[2])[:100] if found else shown(url)


def read_small(url: str) -> bytes:
    """A small file as bytes. Raises OSError, HTTPException or FetchFailed when it cannot be had
    quickly."""
    end, content = time.monotonic() + 3 * SOCKET_TIMEOUT_S, bytearray()
    with ask(url, {}) as response:
        for piece in sent(response, url, 0).pieces:
            content += piece
            if len(content) > LARGEST_PAGE or time.monotonic() > end:
                raise Useless("it is too large, or comes too slowly")
    return bytes(content)


# ---------------------------------------------------------------- what it sends


@dataclass(frozen=True)
class Sent:
    """What an answer says that it sends."""

    start: int
    """where in the file its first byte belongs"""
    stop: int | None
    """where it ends; None where the answer does not tell"""
    size: int | None
    """of the whole file; None where the answer does not tell"""
    tag: str | None
    """what stays the same as long as the file does"""
    pieces: Iterator[bytes]
    """its bytes, with a compression that nobody asked for undone"""


def sent(response: Response, path: str, asked: int, most: int = CHUNK_BYTES) -> Sent:
    """Read what an answer sends of the file `path`, of which byte `asked` and all that follow were
    asked for.

    Raises StartAgain if it does not go on there, Useless if it has something else in its place,
    ConnectionError if it may have the file later.
    """
    if response.status not in (200, 203, 206):
        never = response.status in FOR_GOOD or (response.status < 300 and response.status != 202)
        said = one_line(f"HTTP {response.status} {response.reason}")
        raise (Useless if never else ConnectionError)(said)
    start, stop = 0, response.length
    size = stop
    if response.status == 206:
        start, stop, size = _range(response, asked)
    pieces, patience_s = response.pieces(most), response.clocked.patience_s
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in COMPRESSED:
        if start:
            raise StartAgain("sends the rest of the file compressed; starting again")
        pieces, as_it_is = _plain(pieces, path.lower().endswith((".gz", ".tgz")), patience_s)
        stop, size = (stop, size) if as_it_is else (None, None)
    elif encoding not in ("", "identity"):
        raise Useless(f"sends it compressed as {one_line(encoding)[:20]!r}, as nobody asked")
    if not start:
        head, pieces = _head(pieces, patience_s)
        if _is_page(head, path, response.headers.get("Content-Type", "")):
            raise Useless("sends a page of text in place of the file")
    tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
    return Sent(start, stop, size, tag, pieces)


def whole_size(response: Response) -> int | None:
    """How large an answer without content (416) says that the file is."""
    found = re.fullmatch(
        r"bytes\s+\*/(\d{1,18})", response.headers.get("Content-Range", "").strip()
    )
    return int(found[1]) if found else None


def _range(response: Response, asked: int) -> tuple[int, int, int]:
    """Start and stop of what a partial answer sends, and the size of the whole file."""
    header = response.headers.get("Content-Range", "").strip()
    found = re.fullmatch(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18})", header, re.I)
    if not found:
        raise StartAgain("does not say which part it sends; starting again")
    start, last, size = map(int, found.groups())
    if not start <= last < size or response.length not in (None, last + 1 - start):
        raise StartAgain("sends another part than it says; starting again")
    if start > asked:
        raise StartAgain("sends another part than was asked for; starting again")
    return start, last + 1, size


def _head(pieces: Iterator[bytes], patience_s: float) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, as many as come in that time, and all of them."""
    head, until = b"", time.monotonic() + patience_s
    for piece in pieces:
        head += piece
        if len(head) >= HEAD_BYTES or time.monotonic() > until:
            break
    return head, itertools.chain([head], pieces) if head else iter(())


def _is_page(head: bytes, path: str, kind: str) -> bool:
    """Whether text, such as a page that asks for a password, comes in place of the file."""
    if PAGE.match(head):
        return not re.search(r"\.x?html?$", path, re.I)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(TEXT.match(kind.strip()) and NO_TEXT.search(path))


def _plain(pieces: Iterator[bytes], gzip: bool, patience_s: float) -> tuple[Iterator[bytes], bool]:
    """The bytes of a file that is sent compressed; and whether they are sent as they are, because
    servers say of a `gzip` file that it is compressed, too."""
    head, pieces = _head(pieces, patience_s)
    try:
        inside = zlib.decompressobj(47).decompress(head, 2)
    except zlib.error:
        inside = b""
    if gzip and inside != GZIP:
        return pieces, True
    return _decompressed(pieces), False


def _decompressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The content of one gzip or zlib stream or of several, in pieces of bounded size; empty ones
    where nothing has come out yet."""
    reader = zlib.decompressobj(47)
    try:
        for piece in pieces:
            while True:
                reader = zlib.decompressobj(47) if reader.eof else reader
                out = reader.decompress(piece, CHUNK_BYTES)
                yield out
                piece = reader.unused_data if reader.eof else reader.unconsumed_tail
                if not piece and (reader.eof or len(out) < CHUNK_BYTES):
                    break
    except zlib.error:
        raise Useless("sends damaged data, compressed as nobody asked") from None
    if not reader.eof:
        raise ConnectionError("broke off")
