"""The server: an application of all routes behind its guard, and the process around it."""

import asyncio
import contextlib
import ipaddress
import secrets
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from dallebaby_cli.errors import DallebabyError, UsageError
from dallebaby_cli.interrupt import STOP
from dallebaby_cli.progress import Note
from dallebaby_cli.serving.guard import Guard
from dallebaby_cli.serving.house import House
from dallebaby_cli.serving.line import ENDING
from dallebaby_cli.serving.openai_api import OpenAiApi
from dallebaby_cli.serving.page_api import PageApi
from dallebaby_cli.serving.patience import Impatient
from dallebaby_cli.serving.refused import Refused, refusal

MOST_CONNECTIONS = 512
TOLD_S = 2.0  # that those who wait may take to be told of the end
HERE = {"localhost", "127.0.0.1", "[::1]"}


@dataclass(frozen=True)
class Place:
    """Where the server listens."""

    listener: socket.socket
    url: str
    """the page's address, with the token if there is one"""
    names: set[str]
    """what the server may be called in a request"""
    token: str | None


def listen(host: str, port: int, token: str | None) -> Place:
    """Take the port. Who listens for more than this machine has a token, or gets one. Raises
    UsageError."""
    if token is not None and not (
        8 <= len(token) <= 200 and token.isascii() and token.isprintable()
    ):
        raise UsageError("--token: must have 8 to 200 letters, digits or signs")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except (OSError, UnicodeError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--host {host} --port {port}: cannot listen there ({why}); choose another port, or 0 "
            "for any that is free"
        ) from None
    address, port = taken.getsockname()[:2]
    bound = ipaddress.ip_address(address)
    if token is None and not bound.is_loopback:
        token = secrets.token_urlsafe(24)
    name = f"[{host}]" if ":" in host else host.lower()
    if bound.is_unspecified:  # every address of this machine
        name = socket.gethostname().lower()
    names = HERE | {name} | (set() if bound.is_loopback else {f"{name}.local"})
    shown = _address() or name if bound.is_unspecified else name
    url = f"http://{shown}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")
    return Place(taken, url, names, token)


def _address() -> str | None:
    """The number by which others in the network reach this machine: few know its name."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("192.0.2.1", 9))  # nothing is sent; an address that belongs to nobody
        address: str = asked.getsockname()[0]
        return address
    return None


def application(house: House, place: Place, debug: bool = False) -> ASGIApp:
    """Everything that is served, behind its guard."""

    async def refuse(request: Request, error: Exception) -> Response:
        refused = refusal(error)
        gone = isinstance(error, ConnectionError) or isinstance(error.__cause__, ClientDisconnect)
        if refused.status == 500 and not gone:
            house.report(Note(f"serve: {type(error).__name__}: {error}", "warning"))
            if debug:
                traceback.print_exception(error)
        return refused.answer(request.url.path)

    async def left(request: Request, error: Exception) -> Response:
        return Refused(503, ENDING).answer(request.url.path)  # which nobody reads, if a client left

    routes = [*PageApi(house).routes(), *OpenAiApi(house).routes()]
    known = (Refused, HTTPException, DallebabyError, Exception)
    handlers: dict[Any, Any] = {**dict.fromkeys(known, refuse), ClientDisconnect: left}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, place.names, place.token)


def _told(loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
    """What went wrong in the loop itself, but for clients that left, of whom Windows tells late."""
    if not isinstance(about.get("exception"), ConnectionError):
        loop.default_exception_handler(about)


class Server(uvicorn.Server):
    """Tells all who wait before it ends, and leaves signals to its own end."""

    def __init__(self, house: House, place: Place, ready: Callable[[], None], debug: bool) -> None:
        self.house, self.place, self.ready = house, place, ready
        config = uvicorn.Config(
            application(house, place, debug),
            http=Impatient,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)

    def serve_all(self) -> None:
        """Serve until a signal comes, or `should_exit` is set."""
        asyncio.run(self.serve(sockets=[self.place.listener]))
        self.house.line.join(5)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        asyncio.get_running_loop().set_exception_handler(_told)
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: first the line, whose jobs are told."""
        self.house.line.end()
        await self.house.gone(TOLD_S)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While the block runs, signals end the server; they are no error afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in STOP}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
