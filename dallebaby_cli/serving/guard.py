"""Who may ask, and how much: looked at before anything else is done with a request.

A page from elsewhere that a person visits must not be able to draw here, even where it points a
name of its own at this machine (DNS rebinding): so the name asked for must be this machine's, and a
browser's request must come from our own page. Beyond this machine alone, a token is needed.
"""

import asyncio
import hmac
import ipaddress
import re
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dallebaby_cli.serving.refused import Refused

MOST_BYTES = 16 << 20  # of a request's body
BODY_S = 120  # that a body may take to arrive
SENT_S = 60  # that a client may take to accept a piece of an answer
COOKIE = "dallebaby"
COOKIE_S = 30 * 86400
PAGES = ("/", "/runs")  # the addresses that take a token
HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


class Guard:
    """Lets through what may be asked."""

    def __init__(self, app: ASGIApp, names: set[str], token: str | None) -> None:
        """`names` are what this server may be called; with a token, by its number, too."""
        self.app, self.names, self.token = app, names, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        bounded = Bounded(receive, send)
        path = scope["path"]
        try:
            answer: ASGIApp = self._check(scope) or self.app
            await answer(scope, bounded.receive, bounded.send)
        except Refused as refused:
            await refused.answer(path)(scope, bounded.receive, bounded.send)
        except ConnectionError:
            pass  # a client that accepts nothing any more; uvicorn closes the connection

    def _check(self, scope: Scope) -> ASGIApp | None:
        """Raise Refused for who may not ask; what answers who brings the token to a page."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if host is None or not self._is_ours(host[1]):
            names = ", ".join(sorted(self.names))
            raise Refused(403, f"this server is not called by that name (Host); ask {names}")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host[0]}", f"https://{host[0]}"):
            raise Refused(403, "pages from elsewhere cannot ask this server (Origin)")
        visits = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not visits:
            raise Refused(403, "pages from elsewhere cannot ask this server (Sec-Fetch-Site)")
        length = headers.get("content-length", "0")
        if len(length) > 15 or int(length) > MOST_BYTES:
            raise Refused(413, _too_large())
        if self.token is None or scope["path"] == "/health":
            return None
        return self._check_token(scope, headers)

    def _is_ours(self, name: str) -> bool:
        if name in self.names:
            return True
        try:
            return self.token is not None and bool(ipaddress.ip_address(name.strip("[]")))
        except ValueError:
            return False

    def _check_token(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        kind, _, said = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(said.strip()):
            return None
        if self._is_token(_cookie(headers)):
            return None
        if scope["method"] == "GET" and scope["path"] in PAGES:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            if self._is_token(query.get("token", [""])[0]):
                answer = RedirectResponse(scope["path"], 303)
                value = quote(self.token or "", safe="")
                answer.set_cookie(COOKIE, value, COOKIE_S, httponly=True, samesite="lax")
                return answer
        said = "a token is needed: open the address that `dallebaby serve` printed, or send "
        raise Refused(401, f"{said}Authorization: Bearer TOKEN")

    def _is_token(self, said: str) -> bool:
        return hmac.compare_digest(said.encode(), (self.token or "").encode())


class Bounded:
    """What comes in and goes out of one request, in bounds of bytes and time; with the headers that
    every answer has."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._bytes, self._more = 0, True
        self._until = asyncio.get_running_loop().time() + BODY_S

    async def receive(self) -> Message:
        """The next piece of the body. Raises Refused where it is too large or too slow."""
        if not self._more:  # from here on, only the client's end can come
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {BODY_S} s") from None
        self._more = bool(message.get("more_body", False))
        self._bytes += len(message.get("body", b""))
        if self._bytes > MOST_BYTES:
            raise Refused(413, _too_large())
        return message

    async def send(self, message: Message) -> None:
        """Send a piece of the answer. Raises ConnectionError where nobody takes it."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        try:
            async with asyncio.timeout(SENT_S):
                await self._send(message)
        except TimeoutError:
            raise ConnectionAbortedError(f"nothing was taken for {SENT_S} s") from None


def _cookie(headers: Headers) -> str:
    """The token that a browser has kept; "" if it has none."""
    found: Any = SimpleCookie()
    try:
        found.load(headers.get("cookie", ""))
    except Exception:  # cookies of other servers on this machine, in any shape
        return ""
    return unquote(found[COOKIE].value) if COOKIE in found else ""


def _too_large() -> str:
    return f"a request can have {MOST_BYTES >> 20} MB; send a smaller picture"
