"""Answers of web servers that make no sense: reading is bounded, and an error is a sentence."""

import gzip
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hypothesis import strategies as st
from mutations import fuzz, mutated

from dallebaby_cli.errors import FetchFailed
from dallebaby_cli.fetch import answer

BODY = b"PK\3\4" + bytes(range(256)) * 4
CHUNKS = b"".join(
    b"%x\r\n%s\r\n" % (len(BODY[i : i + 300]), BODY[i : i + 300]) for i in (0, 300, 600, 900)
)
ANSWERS = [
    b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "1"\r\n\r\n%s' % (len(BODY), BODY),
    b"HTTP/1.1 206 Part\r\nContent-Range: bytes 500-1027/1028\r\nContent-Length: 528\r\n\r\n"
    + BODY[500:],
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n" % CHUNKS,
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(BODY),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 416 No\r\nContent-Range: bytes */1028\r\nContent-Length: 0\r\n\r\n",
]


@contextmanager
def through_a_socket(content: bytes) -> Iterator[answer.Response]:
    """An answer of these bytes, sent by another thread."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs, suppress(OSError):
            theirs.sendall(content)

    sender = threading.Thread(target=send)
    sender.start()
    with ours:
        ours.settimeout(5)
        response = answer.Response(ours, method="GET")
        try:
            yield response
        finally:
            response.close()
            ours.close()
            sender.join()


@fuzz(
    content=mutated(*ANSWERS),
    asked=st.sampled_from([0, 500]),
    path=st.sampled_from(["a.zip", "a.gz"]),
)
def test_an_answer_that_makes_no_sense(content: bytes, asked: int, path: str) -> None:
    with through_a_socket(content) as response:
        try:
            response.begin()
            answer.whole_size(response)
            sent = answer.sent(response, path, asked)
            assert 0 <= sent.start <= asked and (sent.stop is None or sent.stop >= sent.start)
            assert sum(map(len, sent.pieces)) < 100_000_000
        except (OSError, http.client.HTTPException, FetchFailed) as error:
            assert str(error) is not None


@fuzz(
    location=mutated(
        b"http://127.0.0.1:8080/a/b?c=d#e", b"/x y", b"//h/\xc3\xa9", b"https://[::1]/"
    )
)
def test_an_address_that_makes_no_sense(location: bytes) -> None:
    text = location.decode("latin-1")
    with suppress(FetchFailed):
        url = answer._redirected("http://a/", text)
        request = answer._request(url, {})
        assert request.full_url.isascii() and request.type in ("http", "https")
        assert not any(c <= " " for c in request.full_url)
    for text in (location.decode("utf-8", "surrogateescape"), location.decode("latin-1")):
        assert "\n" not in answer.shown(text) + answer.host(text)
        with suppress(FetchFailed):
            answer._request(text, {})
