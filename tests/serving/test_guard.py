"""Who may ask the server, and what no request can do to it."""

import base64
import json
import shutil
import socket
import string
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web import Client, serving

from dallebaby_cli.serving import guard, page_api, patience

TOKEN = "a-long-token"
WISH = {"prompt": "a red circle"}
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def home(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained, tmp_path_factory.mktemp("guard") / "home")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name in ("index.html", "runs.html", "main.js", "style.css", "notes.txt"):
        (folder / name).write_text(f"this is {name}")
    return folder


@pytest.fixture(scope="module")
def client(home: Path, pages: Path) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_api, "PAGE", pages)
        with serving(home) as found:
            yield found


@pytest.fixture(scope="module")
def closed(home: Path, pages: Path) -> Iterator[Client]:
    """One that wants a token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_api, "PAGE", pages)
        with serving(home, TOKEN) as found:
            yield found


def raw(client: Client, sent: bytes) -> bytes:
    """What comes back for bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=2) as connection:
        connection.sendall(sent)
        answer = b""
        with suppress(TimeoutError, ConnectionError):  # it may wait for a body that was announced
            while piece := connection.recv(65536):
                answer += piece
        return answer


# ---------------------------------------------------------------- who asks


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8000"])
def test_it_is_asked_by_this_machines_names(client: Client, host: str) -> None:
    assert client.get("/health", Host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost@evil", "[::2]"]
)
def test_another_name_is_refused(client: Client, host: str) -> None:
    for path in ("/", "/health", "/v1/models"):
        answer = client.get(path, Host=host)
        assert answer.status == 403 and "(Host)" in answer.content.decode()


def test_two_names_or_none_are_refused(client: Client) -> None:
    both = b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert b" 200 " not in raw(client, both).split(b"\r\n")[0]
    assert b" 200 " not in raw(client, b"GET /health HTTP/1.0\r\n\r\n").split(b"\r\n")[0]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "file://"])
def test_a_page_from_elsewhere_is_refused(client: Client, origin: str) -> None:
    for path in ("/api/drawings", "/v1/images/generations"):
        assert client.post(path, WISH, Origin=origin).status == 403
    assert client.get("/api/pictures", Origin=origin).status == 403
    assert client.house.line.lengths() == (0, 0)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_page_from_elsewhere_embeds_is_refused(client: Client, site: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert client.ask("GET", "/api/pictures", headers=headers).status == 403
    headers["Sec-Fetch-Mode"] = "navigate"
    assert client.ask("GET", "/", headers=headers).status == 200, "a link may lead here"
    assert client.ask("POST", "/api/drawings", WISH, headers).status == 403


def test_our_own_page_may_ask(client: Client) -> None:
    own = {"Origin": client.url, "Sec-Fetch-Site": "same-origin"}
    assert client.ask("POST", "/api/drawings", WISH, own).status == 200


def test_a_form_of_another_kind_is_refused(client: Client) -> None:
    kind = {"Content-Type": "text/plain"}
    answer = client.ask("POST", "/api/drawings", json.dumps(WISH).encode(), kind)
    assert answer.status == 415 and "Content-Type: application/json" in answer.json["error"]


def test_without_the_token_nothing_is_told(closed: Client) -> None:
    for path in ("/", "/runs", "/static/main.js", "/api/models", "/metrics", "/v1/models", "/no"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": 'dallebaby="\\3"; x'}):
            answer = closed.ask("GET", path, headers=headers)
            assert answer.status == 401 and "token" in answer.content.decode()
    assert closed.get("/?token=wrong").status == 401
    assert closed.get("/api/models?token=" + TOKEN).status == 401, "pages alone take it so"
    assert closed.post("/api/drawings", WISH).status == 401
    assert closed.get("/health").json == {"status": "ok"}


def test_the_token_opens_the_page_once_and_for_good(closed: Client) -> None:
    answer = closed.get(f"/runs?token={TOKEN}")
    assert answer.status == 303 and answer.headers["location"] == "/runs"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=lax" in cookie.lower()
    kept = cookie.partition(";")[0]
    assert closed.get("/runs", Cookie=kept).content == b"this is runs.html"
    assert closed.post("/api/drawings", WISH, Cookie=f"a=b; {kept}").status == 200
    assert closed.get("/v1/models", Authorization=f"Bearer {TOKEN}").status == 200


def test_with_a_token_it_may_be_asked_by_number(closed: Client) -> None:
    assert closed.get("/health", Host="192.168.0.7:8000").status == 200
    assert closed.get("/health", Host="evil.example").status == 403


# ---------------------------------------------------------------- what is served


def test_every_answer_says_what_browsers_may_do_with_it(client: Client) -> None:
    for path in ("/", "/static/main.js", "/api/models", "/no", "/health", "/api/runs"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert "server" not in headers and "access-control-allow-origin" not in headers


def test_the_pages_files_are_served_and_no_others(client: Client) -> None:
    assert client.get("/").content == b"this is index.html"
    script = client.get("/static/main.js")
    assert script.content == b"this is main.js"
    assert script.headers["content-type"].startswith("text/javascript")
    assert client.get("/static/notes.txt").status == 404
    assert client.ask("HEAD", "/").content == b""


@pytest.mark.parametrize(
    "path",
    [
        "/static/../page_api.py",
        "/static/%2e%2e/page_api.py",
        "/static/..%2fpage_api.py",
        "/static/%5c..%5cpage_api.py",
        "/static//etc/passwd",
        "/pictures/..%2f..%2fdalle%2fd%2fsamples.png",
        "/pictures/%2e%2e",
        "/pictures/a%00.png",
        "/pictures/%ff%fe.png",
        "/pictures/.png",
        "//etc/passwd",
        "/v1/models/..%2f..%2fetc",
        "/api/drawings/..%2f/stop",
    ],
)
def test_no_path_leads_out(client: Client, path: str) -> None:
    for method in ("GET", "POST"):
        answer = client.ask(method, path)
        assert answer.status in (404, 405) and "error" in answer.json


# ---------------------------------------------------------------- how much


def test_a_body_is_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_BYTES", 3_000_000)
    large = b'{"prompt": "' + b"x" * 4_000_000
    for path in ("/api/drawings", "/v1/images/generations"):
        assert client.ask("POST", path, large, {"Content-Type": "application/json"}).status == 413
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    assert client.ask("POST", "/v1/images/edits", part + large, form).status == 413
    # one byte too many, the last: of what comes after the answer, a reset is all that is seen
    sizes = (2**20, 2**20, 3_000_001 - 2**21)
    pieces = b"".join(b"%x\r\n%s\r\n" % (size, b"x" * size) for size in sizes) + b"0\r\n\r\n"
    head = b"POST /api/settings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    assert b" 413 " in raw(client, head + pieces).split(b"\r\n")[0]


def test_a_body_that_does_not_arrive_is_given_up(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.2)
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        head = b"POST /api/settings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head + b"x")
        assert b" 408 " in connection.recv(65536).split(b"\r\n")[0]


def test_a_picture_of_too_many_pixels_is_refused(client: Client) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body
    image = "data:image/png;base64," + base64.b64encode(bomb).decode()
    answer = client.post("/api/drawings", {**WISH, "image": image})
    assert answer.status in (400, 413) and "pixels" in answer.json["error"]


# ---------------------------------------------------------------- anything at all

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    "prompt n seed model keep guidance temperature top_k top_p guidance_ramp guidance_interval "
    "picture image mask size stream response_format partial_images batch_size".split()
)
NAMES = st.sampled_from(
    "Content-Type Origin Cookie Authorization Sec-Fetch-Site Accept Range If-Range Expect "
    "X-Forwarded-For Content-Length Connection Upgrade".split()
)
VISIBLE = st.text(
    string.printable.replace("\r", "").replace("\n", "").replace("\x0b", "").replace("\x0c", ""),
    max_size=40,
)


@FUZZ
@given(wish=st.dictionaries(FIELDS, VALUES, max_size=5))
def test_any_json_is_drawn_or_refused_in_a_sentence(client: Client, wish: dict) -> None:
    for path in ("/api/drawings", "/v1/images/generations"):
        answer = client.ask(
            "POST", path, json.dumps(wish).encode(), {"Content-Type": "application/json"}
        )
        assert answer.status in (200, 400, 404), answer.content
        if answer.status != 200:
            error = answer.json["error"]
            text = error if isinstance(error, str) else error["message"]
            assert text and "\n" not in text and len(text) < 600
    assert not client.notes, "nothing unexpected happened"


@FUZZ
@given(body=st.binary(max_size=300), kind=st.sampled_from(["application/json", "image/png"]))
def test_any_bytes_are_refused_in_a_sentence(client: Client, body: bytes, kind: str) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    for path, content, headers in (
        ("/api/drawings", body, {"Content-Type": kind}),
        ("/api/settings", body, {"Content-Type": kind}),
        ("/v1/images/edits", body, form),
        ("/v1/images/edits", part + body + b"\r\n--x--\r\n", form),
        ("/v1/images/edits", b"--x\r\n" + body, form),
    ):
        answer = client.ask("POST", path, content, headers)
        assert answer.status in (400, 415) and answer.json["error"], (path, answer.content)
    assert not client.notes


@FUZZ
@given(headers=st.lists(st.tuples(NAMES, VISIBLE), max_size=6), method=VISIBLE, path=VISIBLE)
def test_any_head_leaves_the_server_whole(
    client: Client, headers: list[tuple[str, str]], method: str, path: str
) -> None:
    lines = [f"{method or 'GET'} /{path} HTTP/1.1", f"Host: localhost:{client.port}"]
    lines += [f"{name}: {value}" for name, value in headers] + ["Connection: close", "", ""]
    answer = raw(client, "\r\n".join(lines).encode())
    assert b" 500 " not in answer.split(b"\r\n")[0] and b"Traceback" not in answer
    assert not client.notes and client.get("/health").status == 200


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: 127"], ids=["nothing", "half a head"]
)
def test_who_sends_no_whole_request_loses_the_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(patience, "HEAD_S", 0.2)
    with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
        connection.sendall(sent)
        assert connection.recv(100) == b""
    assert client.get("/health").status == 200
