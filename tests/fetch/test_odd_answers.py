"""HTTP answers as real servers send them by mistake or malice: what they say is checked, and what
they send is the file or is refused."""

import gzip
import hashlib
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Ran
from swarm import Quiet, serving, site

from dallebaby_cli.fetch import answer

CONTENT = os.urandom(100_000)
Cli = Callable[..., Ran]
Answer = bytes | Callable[[Any], None]


class Asked(list[tuple[str, str]]):
    """Path and Range header of each request, and the address of the server."""

    url = ""


@contextmanager
def answering(*answers: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Asked]:
    """A server that gives each request the next of the answers, the last one for ever."""
    asked = Asked()

    class Odd(Quiet):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Range", "")))
            answer = answers[min(len(asked), len(answers)) - 1]
            self.close_connection = True
            if callable(answer):
                answer(self)
            else:
                self.wfile.write(answer)

    with serving(Odd, tls=tls) as port:
        asked.url = f"http://127.0.0.1:{port}"
        yield asked


def head(status: str, **fields: object) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def whole(body: bytes = CONTENT, **fields: object) -> bytes:
    return head("200 OK", Content_Length=len(body), **fields) + body


def part(start: int, stop: int, says: str | None = None, **fields: object) -> bytes:
    says = says or f"bytes {start}-{stop - 1}/{len(CONTENT)}"
    fields = {"Content_Range": says, "Content_Length": stop - start, "ETag": '"1"', **fields}
    return head("206 Partial Content", **fields) + CONTENT[start:stop]


HALF = head("200 OK", Content_Length=len(CONTENT), ETag='"1"') + CONTENT[:50_000]


def catalogue(home: Path, *urls: str, path: str = "data.zip", **facts: Any) -> None:
    home.mkdir(exist_ok=True)
    files = [{"path": path, "urls": list(urls), **facts}]
    (home / "catalog.yaml").write_text(json.dumps({"datasets": {"mine": {"files": files}}}))


def held(folder: Path) -> dict[str, bytes]:
    own = {"manifest.json", ".lock"}
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name not in own}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def fetch(cli: Cli, home: Path, *arguments: object) -> Ran:
    return cli("--home", home, "fetch", "mine", "--timeout", "1", *arguments)


# ---------------------------------------------------------------- which bytes it sends


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param([part(30_000, 100_000)], id="starts-earlier"),
        pytest.param([part(50_000, 100_000)], id="as-asked"),
        pytest.param([part(50_000, 70_000), part(70_000, 100_000)], id="in-small-parts"),
        pytest.param([part(60_000, 100_000), whole()], id="starts-later"),
        pytest.param([part(0, 100_000, "bytes 50000-99999/100000"), whole()], id="all-of-it"),
        pytest.param([part(50_000, 100_000, "bytes 50000-99999/*"), whole()], id="of-any-size"),
        pytest.param([part(0, 100_000, "nothing"), whole()], id="does-not-say"),
        pytest.param([part(50_000, 100_000, ETag='"2"'), whole()], id="of-another-file"),
        pytest.param([part(50_000, 100_000, Content_Encoding="gzip"), whole()], id="compressed"),
    ],
)
def test_a_partial_answer_goes_where_it_says_or_nowhere(
    cli: Cli, home: Path, rest: list[bytes]
) -> None:
    with answering(HALF, *rest) as server:
        catalogue(home, f"{server.url}/data.zip")
        ran = fetch(cli, home, "--timeout", "20")
    assert ran.code == 0, ran.err
    assert held(home / "raw/mine") == {"data.zip": CONTENT}
    assert server[1][1] == "bytes=50000-" and len(server) == 1 + len(rest)
    assert len(rest) == 1 or rest[-1] != whole() or server[-1][1] == ""


@pytest.mark.parametrize("known", ["size", "checksum", "tag"])
def test_a_part_that_is_whole_is_not_fetched_again(cli: Cli, home: Path, known: str) -> None:
    (home / "raw/mine").mkdir(parents=True)
    (home / "raw/mine/.data.zip.part").write_bytes(CONTENT)
    facts: dict[str, Any] = {"size_bytes": len(CONTENT)} if known == "size" else {}
    if known == "checksum":
        facts["sha256"] = hashlib.sha256(CONTENT).hexdigest()
    too_far = head("416 No", Content_Range=f"bytes */{len(CONTENT)}", Content_Length=0)
    with answering(too_far) as server:
        url = f"{server.url}/data.zip"
        state = {"url": url, "validator": '"1"', "bytes": len(CONTENT)}
        (home / "raw/mine/.data.zip.part.json").write_text(json.dumps(state))
        catalogue(home, url, **facts)
        ran = fetch(cli, home)
    assert ran.code == 0, ran.err
    assert held(home / "raw/mine") == {"data.zip": CONTENT}
    assert [r for _, r in server] == ([] if known == "size" else ["bytes=100000-"])


def test_a_wrong_part_of_the_right_size_is_thrown_away_and_fetched(cli: Cli, home: Path) -> None:
    (home / "raw/mine").mkdir(parents=True)
    (home / "raw/mine/.data.zip.part").write_bytes(bytes(len(CONTENT)))
    state = {"url": "http://other/", "validator": None, "bytes": len(CONTENT)}
    (home / "raw/mine/.data.zip.part.json").write_text(json.dumps(state))
    with answering(whole()) as server:
        digest = hashlib.sha256(CONTENT).hexdigest()
        catalogue(home, f"{server.url}/d", size_bytes=len(CONTENT), sha256=digest)
        ran = fetch(cli, home)
    assert ran.code == 0 and held(home / "raw/mine") == {"data.zip": CONTENT}, ran.err


# ---------------------------------------------------------------- how it sends them


PACKED = gzip.compress(CONTENT)


@pytest.mark.parametrize(
    ("path", "sends", "is_right"),
    [
        pytest.param("labels.csv", gzip.compress(b"a,b\n" * 9999), b"a,b\n" * 9999, id="text"),
        pytest.param("two.bin", PACKED + gzip.compress(b"x"), CONTENT + b"x", id="two-members"),
        pytest.param("data.tar.gz", PACKED, PACKED, id="is-gzip-itself"),
        pytest.param("DATA.TAR.GZ", PACKED, PACKED, id="is-gzip-in-capitals"),
        pytest.param("data.tar.gz", gzip.compress(PACKED), PACKED, id="gzip-once-more"),
        pytest.param("zeros.bin", gzip.compress(bytes(9_000_000)), bytes(9_000_000), id="much"),
    ],
)
def test_a_compression_that_nobody_asked_for_is_undone(
    cli: Cli, home: Path, path: str, sends: bytes, is_right: bytes
) -> None:
    with answering(whole(sends, Content_Encoding="gzip")) as server:
        catalogue(home, f"{server.url}/d", path=path)
        ran = fetch(cli, home)
    assert ran.code == 0 and held(home / "raw/mine") == {path: is_right}, ran.err


def test_a_compressed_answer_that_ends_early_is_not_taken(cli: Cli, home: Path) -> None:
    short = PACKED[:70_000]
    with answering(head("200 OK", Content_Encoding="gzip") + short) as server:
        catalogue(home, f"{server.url}/d")
        ran = fetch(cli, home)
    assert ran.code == 1 and "broke off" in ran.err and not (home / "raw/mine/data.zip").exists()


@pytest.mark.parametrize(
    ("sends", "says"),
    [
        (whole(b"<!DOCTYPE html><title>Please log in</title>"), "page of text in place"),
        (whole(b"\n<!-- v2 --> <HTML lang=en>", Content_Type="text/html"), "page of text"),
        (whole(b"Quota exceeded", Content_Type="text/plain"), "page of text"),
        (whole(b'{"error": 7}', Content_Type="application/json"), "page of text"),
        (whole(gzip.compress(b"<html>no"), Content_Encoding="gzip"), "page of text"),
        (head("204 No Content"), "HTTP 204 No Content"),
        (head("202 Accepted", Content_Length=4) + b"wait", "HTTP 202 Accepted"),
        (whole(b""), "empty file"),
        (head("200 OK"), "empty file"),
        (whole(Content_Encoding="br"), "compressed as 'br'"),
        (head("302 Found", Location="ftp://127.0.0.1/data.zip"), "leads on to 'ftp://127.0.0.1"),
        (head("302 Found"), "leads on to ''"),
        (head("301 Moved", Location="http://[oops/"), "which is not an HTTP address"),
        (head("307 Again", Location="/again"), "leads on more than 10 times"),
    ],
)
def test_what_is_not_the_file_is_not_taken_for_it(
    cli: Cli, home: Path, sends: bytes, says: str
) -> None:
    with answering(sends) as server:
        catalogue(home, f"{server.url}/data.zip")
        ran = fetch(cli, home)
    assert ran.code == 1 and says in ran.err, ran.err
    assert not (home / "raw/mine/data.zip").exists()
    assert not (home / "raw/mine/manifest.json").exists()


def test_a_file_that_may_be_text_is_taken_as_text(cli: Cli, home: Path) -> None:
    for path, body in {"a.csv": b"a,b\n", "page.html": b"<html>", "LABELS": b"cat\n"}.items():
        with answering(whole(body, Content_Type="text/html")) as server:
            catalogue(home, f"{server.url}/d", path=path)
            ran = cli("--home", home, "fetch", "mine", "--name", path.partition(".")[0])
        assert ran.code == 0, ran.err
        assert held(home / "raw" / path.partition(".")[0]) == {path: body}


# ---------------------------------------------------------------- addresses


def test_addresses_are_quoted_and_redirects_followed(cli: Cli, home: Path, tmp_path: Path) -> None:
    www = tmp_path / "www"
    www.mkdir()
    (www / "caf\u00e9 100% [v2].zip").write_bytes(CONTENT)
    with site(www) as server:
        moved = head(
            "302 Found", Location=f"{server.url}/caf\u00e9 100% [v2].zip".encode().decode("latin-1")
        )
        catalogue(home, f"{server.url}/caf\u00e9 100% [v2].zip")
        assert fetch(cli, home).code == 0
        assert held(home / "raw/mine") == {"data.zip": CONTENT}
        with answering(moved.decode().encode("latin-1")) as first:
            catalogue(home, f"{first.url}/")
            assert fetch(cli, home, "--name", "other").code == 0
    assert held(home / "raw/other") == {"data.zip": CONTENT}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:no/d",
        "http://[::1/d",
        "http://a..b/d",
        "http://" + "a" * 64 + "/d",
        "http://exa mple/d",
        "ftp://127.0.0.1/d",
        "http:///d",
        "file:///etc/passwd",
    ],
)
def test_an_address_that_is_none_is_no_fault_of_the_network(cli: Cli, home: Path, url: str) -> None:
    catalogue(home, url)
    began = time.monotonic()
    ran = cli("--home", home, "fetch", "mine", "--timeout", "60")
    assert ran.code == 1 and time.monotonic() - began < 5
    assert "is not a" in ran.err and "address" in ran.err


LOCALHOST = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgxvMZ9FQ6DATKBOYl
iEx0grFDC/1jS2tbcJiF9GbIWdWhRANCAATX61DJq08//tdC1j2xolmlusZCHKvb
53JlzbBbFDHm7zrOCMW8lau7IfloYhxliAL3mUYgcX4ehhXm9No1a2Ar
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBlTCCATugAwIBAgIUXZO61qE3B6JbQtAjJZqt3uYZQc4wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNjExMDkxNloYDzIxMjYxMTAy
MTEwOTE2WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATX61DJq08//tdC1j2xolmlusZCHKvb53JlzbBbFDHm7zrOCMW8lau7
IfloYhxliAL3mUYgcX4ehhXm9No1a2Aro2kwZzAdBgNVHQ4EFgQUdV+Sjd9pTZlX
yQomz8VMVcwMPwQwHwYDVR0jBBgwFoAUdV+Sjd9pTZlXyQomz8VMVcwMPwQwDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SAAwRQIgLZAE92yKM2N/GQWC5VYjUFBmhY1iPaHFi6YRqFUPTkMCIQD+iGKPq/vD
q+V78fziwjsk46xinlap03u+wnMoQchOPw==
-----END CERTIFICATE-----
"""  # a certificate for localhost that nobody but this test believes


@contextmanager
def secure(folder: Path, *answers: Answer) -> Iterator[str]:
    """The same over TLS; yields its address."""
    (folder / "localhost.pem").write_text(LOCALHOST)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "localhost.pem")
    with answering(*answers, tls=context) as server:
        yield server.url.replace("http://127.0.0.1", "https://localhost")


def test_macos_has_certificates_where_python_brings_none(
    cli: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)
    with secure(tmp_path, HALF, part(50_000, 100_000)) as url:
        catalogue(home, f"{url}/data.zip")
        assert "not valid: self-signed" in fetch(cli, home).err
        monkeypatch.setattr(answer, "sys", SimpleNamespace(platform="darwin"))
        monkeypatch.setattr(answer, "CERTIFICATES_OF_MACOS", str(tmp_path / "localhost.pem"))
        assert fetch(cli, home).code == 0
    assert held(home / "raw/mine") == {"data.zip": CONTENT}


def test_tls_is_checked_and_nobody_is_led_out_of_it(
    cli: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    led = head("302 Found", Location="http://u:secret@127.0.0.1:9/x?key=secret")
    with secure(tmp_path, HALF, part(50_000, 100_000), led) as url:
        catalogue(home, f"{url}/data.zip")
        ran = fetch(cli, home)
        assert ran.code == 1 and "a certificate that is not valid: self-signed" in ran.err
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "localhost.pem"))
        ran = fetch(cli, home)
        assert ran.code == 0 and held(home / "raw/mine") == {"data.zip": CONTENT}, ran.err
        ran = fetch(cli, home, "--name", "other")
    assert ran.code == 1 and "leads on from https to 'http://127.0.0.1:9/x'" in ran.err
    assert "secret" not in ran.err


def test_a_password_in_an_address_is_used_and_never_shown(cli: Cli, home: Path) -> None:
    heard = []

    def guarded(handler: Any) -> None:
        heard.append(handler.headers.get("Authorization"))
        handler.wfile.write(HALF if len(heard) == 1 else head("403 No", Content_Length=0))

    with answering(guarded) as server:
        place = server.url.removeprefix("http://")
        catalogue(home, f"http://me:s%65cret@{place}/data.zip")
        ran = fetch(cli, home)
        shown = (
            cli("--home", home, "datasets", "mine"),
            cli("--home", home, "--json", "datasets", "mine"),
        )
    assert ran.code == 1 and heard[0] == "Basic bWU6c2VjcmV0"
    told = ran.out + ran.err + "".join(r.out for r in shown)
    assert "s%65cret" not in told and "secret" not in told and place in told
    assert "cret@" not in (home / "raw/mine/.data.zip.part.json").read_text()


# ---------------------------------------------------------------- clocks and bounds


def slowly(start: bytes, drop: bytes, every_s: float = 0.5) -> Callable[[Any], None]:
    """An answer that goes on for as long as somebody listens."""

    def answer(handler: Any) -> None:
        handler.wfile.write(start)
        while True:
            time.sleep(every_s)
            handler.wfile.write(drop)

    return answer


SLOW = {
    "a-byte-now-and-then": slowly(head("200 OK", Content_Length=1000), b"x"),
    "a-header-without-end": slowly(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "many-headers": slowly(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "continue-for-ever": slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "continue-at-once": slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 0.001),
    "a-chunk-without-size": slowly(head("200 OK", Transfer_Encoding="chunked"), b"0"),
    "trailers-for-ever": slowly(
        head("200 OK", Transfer_Encoding="chunked", ETag='"1"') + b"1\r\nx\r\n0\r\n", b"X: y\r\n"
    ),
    "a-redirect-that-talks": slowly(head("302 Found", Location="/"), b"x" * 1000, 0.001),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW)
def test_no_byte_starts_the_clock_again(
    cli: Cli, home: Path, answer: Callable[[Any], None]
) -> None:
    began = time.monotonic()
    with answering(answer) as server:
        catalogue(home, f"{server.url}/data.zip")
        ran = cli("--home", home, "fetch", "mine", "--timeout", "1.5")
    assert ran.code == 1 and time.monotonic() - began < 8, ran.err
    assert "came for 2 s" in ran.err or "leads on more than 10 times" in ran.err
    assert not (home / "raw/mine/data.zip").exists()


@pytest.mark.parametrize("chunked", [True, False])
def test_no_more_is_read_than_the_file_has(cli: Cli, home: Path, chunked: bool) -> None:
    sent = [0]

    def endless(handler: Any) -> None:
        fields = {"Transfer_Encoding": "chunked"} if chunked else {}
        handler.wfile.write(head("200 OK", **fields))
        while True:
            handler.wfile.write(b"10000\r\n" * chunked + bytes(65536) + b"\r\n" * chunked)
            sent[0] += 65536

    with answering(endless) as server:
        catalogue(home, f"{server.url}/data.zip", size_bytes=100_000)
        ran = fetch(cli, home)
        assert ran.code == 1 and "sends more than the 100,000 bytes" in ran.err
        again = fetch(cli, home)  # what came of it is not taken for the file
    assert again.code == 1 and sent[0] < 60_000_000


def test_a_slow_but_steady_server_is_waited_for(cli: Cli, home: Path) -> None:
    def steady(handler: Any) -> None:
        handler.wfile.write(head("200 OK", Content_Length=1000))
        for _ in range(10):
            time.sleep(0.25)
            handler.wfile.write(b"x" * 100)

    with answering(steady) as server:
        catalogue(home, f"{server.url}/data.zip")
        ran = cli("--home", home, "fetch", "mine", "--timeout", "1")
    assert ran.code == 0 and held(home / "raw/mine") == {"data.zip": b"x" * 1000}, ran.err


# ---------------------------------------------------------------- paths and links


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../../outside.zip", "leaves its folder through .."),
        ("/tmp/outside.zip", "is absolute"),
        ("a/../../b.zip", "leaves its folder"),
        ("manifest.json", "dallebaby itself writes"),
        (".data.zip.part", "dallebaby itself writes"),
        ("folder/", "is a folder"),
        ("a\nb.zip", "control character"),
    ],
)
@pytest.mark.parametrize("transport", ["http", "kaggle", "mirror"])
def test_a_catalogue_writes_nowhere_else(
    cli: Cli, home: Path, tmp_path: Path, transport: str, path: str, why: str
) -> None:
    more = {"kaggle": "me/data"} if transport == "kaggle" else {}
    more |= {"info_hash": "a" * 40} if transport == "mirror" else {}
    file = {"path": path, "urls": ["http://127.0.0.1:9/x"]}
    home.mkdir()
    (home / "catalog.yaml").write_text(
        json.dumps({"datasets": {"mine": {"files": [file], **more}}})
    )
    ran = fetch(cli, home)
    assert ran.code == 1 and f"the path {path!r}" in ran.err and why in ran.err
    assert [p.name for p in tmp_path.iterdir()] == ["home"] and not (home / "raw").exists()


def test_files_of_a_catalogue_do_not_overwrite_each_other(cli: Cli, home: Path) -> None:
    home.mkdir()
    for second in ("a", "a/b"):
        files = [{"path": p, "urls": ["http://127.0.0.1:9/x"]} for p in ("a", second)]
        (home / "catalog.yaml").write_text(json.dumps({"datasets": {"mine": {"files": files}}}))
        ran = fetch(cli, home)
        assert ran.code == 1 and f"{second!r} is there twice, or lies below a file" in ran.err


@pytest.mark.parametrize("kaggle", ["../../etc/x", "me/../../x", "-p/x", "me", "me/data/more"])
def test_a_name_on_kaggle_is_owner_and_name(cli: Cli, home: Path, kaggle: str) -> None:
    home.mkdir()
    entry = {"kaggle": kaggle, "files": [{"path": "a.zip"}]}
    (home / "catalog.yaml").write_text(json.dumps({"datasets": {"mine": entry}}))
    ran = fetch(cli, home)
    assert ran.code == 1 and "is not OWNER/NAME" in ran.err


@pytest.mark.parametrize("own", [".data.zip.part", ".data.zip.part.json", ".lock", "manifest.json"])
@pytest.mark.parametrize("there", [True, False])
def test_links_in_place_of_working_files_lead_nowhere(
    cli: Cli, home: Path, tmp_path: Path, own: str, there: bool
) -> None:
    outside = tmp_path / "outside"
    if there:
        outside.write_bytes(b"precious")
    (home / "raw/mine").mkdir(parents=True)
    if own == ".data.zip.part":
        state = {"url": "http://x/", "validator": None, "bytes": 3}
        (home / "raw/mine/.data.zip.part.json").write_text(json.dumps(state))
    if own != "manifest.json" or not there:
        (home / "raw/mine" / own).symlink_to(outside)
    with answering(whole()) as server:
        catalogue(home, f"{server.url}/d", sha256=hashlib.sha256(CONTENT).hexdigest())
        ran = fetch(cli, home)
    assert ran.code == 0, ran.err
    assert held(home / "raw/mine") == {"data.zip": CONTENT}
    assert outside.read_bytes() == b"precious" if there else not outside.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../precious": {"bytes": 1, "mtime_ns": 1, "sha256": "0"}}},
        {"files": {"data.zip": {"bytes": "many"}}},
        {"files": ["data.zip"]},
        {"edges": {"x": "y"}},
    ],
)
def test_a_manifest_that_makes_no_sense_is_not_acted_on(
    cli: Cli, home: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "home").mkdir()
    (home / "precious").write_bytes(b"precious")
    with answering(whole()) as server:
        catalogue(home, f"{server.url}/d")
        assert fetch(cli, home).code == 0
        path = home / "raw/mine/manifest.json"
        content = json.loads(path.read_text())
        content["counts"] |= change
        path.write_text(json.dumps(content))
        ran = fetch(cli, home)
        assert ran.code == 1 and f"{path} is damaged; remove it and fetch again" in ran.err
        path.unlink()
        ran = fetch(cli, home)
    assert ran.code == 0 and held(home / "raw/mine") == {"data.zip": CONTENT} and len(server) == 1
    assert (home / "precious").read_bytes() == b"precious"


def test_names_as_long_as_the_file_system_takes(cli: Cli, home: Path) -> None:
    path = "\u732b" * 83 + "12.zip"
    assert len(path.encode()) == 255
    with answering(HALF, part(50_000, 100_000)) as server:
        catalogue(home, f"{server.url}/d", path=path)
        ran = fetch(cli, home)
    assert ran.code == 0 and held(home / "raw/mine") == {path: CONTENT}, ran.err


# ---------------------------------------------------------------- names


def test_names_that_look_like_patterns_name_themselves(cli: Cli, home: Path) -> None:
    """And are shown as they are: nothing in them is markup, or a command to the terminal."""
    paths = ["data [v2].zip", "data 2.zip", "a[/b].zip", "a[red]b.zip"]
    with answering(whole()) as server:
        files = [{"path": p, "urls": [f"{server.url}/{i}"]} for i, p in enumerate(paths)]
        files[1]["note"] = "[bold]\x9b2J"
        home.mkdir()
        (home / "catalog.yaml").write_text(json.dumps({"datasets": {"mine": {"files": files}}}))
        ran = fetch(cli, home, "--files", "data [v2].zip")
        assert ran.code == 0 and held(home / "raw/mine").keys() == {"data [v2].zip"}, ran.err
        for arguments in (["fetch", "mine", "--list"], ["datasets", "mine"]):
            shown = cli("--home", home, *arguments)
            assert shown.code == 0 and all(p in shown.out for p in paths), shown.out
            assert "[bold]2J" in shown.out and "\x9b" not in shown.out
        ran = fetch(cli, home, "--files", "data [0-9].zip")
        assert ran.code == 0 and held(home / "raw/mine").keys() == {"data [v2].zip", "data 2.zip"}
        ran = fetch(cli, home)
    assert ran.code == 0 and held(home / "raw/mine").keys() == set(paths)


def test_an_answer_that_is_none_is_a_sentence(cli: Cli, home: Path) -> None:
    with answering(b"SSH-2.0-OpenSSH_9\r\n") as odd:
        catalogue(home, f"{odd.url}/d")
        ran = fetch(cli, home)
    assert ran.code == 1 and "SSH-2.0-OpenSSH_9" in ran.err
