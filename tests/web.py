"""What the tests of the server have in common: a server in a thread, a client that speaks plain
HTTP, and a brake on drawing."""

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing.sampler import Drawing, Sampler
from dallebaby_cli.models import device as devices
from dallebaby_cli.progress import Event
from dallebaby_cli.serving.house import House
from dallebaby_cli.serving.models import Models
from dallebaby_cli.serving.server import Server, listen

JSON = {"Content-Type": "application/json"}
Told = list[tuple[str, dict[str, Any]]]


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.content)


class Client:
    """Asks one server; each request has a connection of its own."""

    def __init__(self, port: int, house: House | None = None) -> None:
        self.port, self.house = port, house
        self.notes: list[Event] = []
        """what the server said in its terminal, where it is one of this process"""
        self.said = ""
        """its first line, where it is another process"""
        self.process = 0
        """that process's number"""

    @property
    def url(self) -> str:
        """Of the server, without a / at its end."""
        return f"http://127.0.0.1:{self.port}"

    def open(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request, whose body is JSON if it is no bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body, sent = json.dumps(body).encode(), JSON | sent
        connection.request(method, path, body, sent)
        return connection, connection.getresponse()

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request and read the whole answer."""
        connection, response = self.open(method, path, body, headers)
        try:
            said = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, said, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.ask("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        """POST."""
        named = {k.replace("_", "-"): v for k, v in headers.items()}
        return self.ask("POST", path, body, named)

    @contextmanager
    def stream(self, wish: dict[str, Any]) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
        """The events of a drawing; the end of the block closes the connection."""
        connection, response = self.open("POST", "/api/drawings", wish)
        try:
            assert response.status == 200, response.read()
            yield events(response)
        finally:
            response.close()
            connection.close()

    def draw(self, wish: dict[str, Any]) -> Told:
        """All events of a drawing."""
        with self.stream(wish) as told:
            return [*told]

    def later(self, wish: dict[str, Any]) -> "Later":
        """Draw in a thread of its own."""
        return Later(self, wish)


class Later(threading.Thread):
    """A drawing that somebody waits for elsewhere."""

    def __init__(self, client: Client, wish: dict[str, Any]) -> None:
        super().__init__()
        self.client, self.wish, self.told = client, wish, list[tuple[str, dict[str, Any]]]()
        self.queued = threading.Event()
        self.start()
        assert self.queued.wait(30), "it was not let into the line"

    def run(self) -> None:
        """Read to the end."""
        with self.client.stream(self.wish) as told:
            for event in told:
                self.told.append(event)
                self.queued.set()

    def all(self) -> Told:
        """What was told, once it has ended."""
        self.join(60)
        assert not self.is_alive()
        return self.told


def events(response: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Server-sent events as they arrive."""
    name = ""
    while line := response.readline().decode().rstrip("\n"):
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
            response.readline()
        else:
            assert line.startswith(":"), line
            response.readline()


def names(told: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """The names of events."""
    return [name for name, _ in told]


def of(told: Sequence[tuple[str, dict[str, Any]]], wanted: str) -> list[dict[str, Any]]:
    """The data of the events of that name."""
    return [data for name, data in told if name == wanted]


def pixels(content: bytes | str) -> np.ndarray:
    """A picture's pixels, from its file or its data URL."""
    if isinstance(content, str):
        content = base64.b64decode(content.partition(",")[2])
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def kept_of(says: dict[str, str]) -> list[int]:
    """The codes of another picture that a picture's metadata says were kept; -1 is none."""
    codes = says.get("kept", says.get("known", "")).split()
    return [int(code) for code in codes if code != "-1"]


def png(pixels: np.ndarray, mode: str = "RGB") -> bytes:
    """Pixels as a PNG."""
    content = io.BytesIO()
    Image.fromarray(pixels, mode).save(content, "PNG")
    return content.getvalue()


@contextmanager
def serving(home: Path, token: str | None = None, model: Path | None = None) -> Iterator[Client]:
    """A server of a workspace, in a thread."""
    place = listen("127.0.0.1", 0, token)
    models = Models(home, model, "cpu")
    ready, client = threading.Event(), Client(place.listener.getsockname()[1])
    with pytest.MonkeyPatch.context() as patch:  # as in every test; this may be made before one
        patch.setattr(devices, "native_bf16", lambda device: False)
        models.begin(client.notes.append)
    client.house = House(home, models, SampleConfig(), client.notes.append)
    server = Server(client.house, place, ready.set, debug=False)
    thread = threading.Thread(target=server.serve_all)
    thread.start()
    try:
        assert ready.wait(30)
        yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class Brake:
    """Holds drawing before its first code until it is let go, and keeps what was drawn together."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.reached = threading.Semaphore(0)
        self.together: list[list[str]] = []
        stream = Sampler.stream

        def slow(sampler: Sampler, prompts: Sequence[str], *how: Any) -> Iterator[Drawing]:
            self.together.append([*prompts])
            for drawing in stream(sampler, prompts, *how):
                self.reached.release()
                assert self.go.wait(60)
                yield drawing

        patch.setattr(Sampler, "stream", slow)

    def wait(self) -> None:
        """Until something is being drawn."""
        assert self.reached.acquire(timeout=30)
