"""What all requests share: models, the line, the gallery, and how their bodies are read."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from dallebaby_cli import files, progress
from dallebaby_cli.config import SampleConfig
from dallebaby_cli.serving.gallery import Gallery
from dallebaby_cli.serving.job import Event, Job
from dallebaby_cli.serving.line import Line
from dallebaby_cli.serving.models import Models
from dallebaby_cli.serving.refused import Refused
from dallebaby_cli.serving.wish import wish

JSON = "application/json"
PREPARED = 4  # wishes at a time, so that threads are left for pages and events: it may take long


class House:
    """One workspace that is served."""

    def __init__(
        self, home: Path, models: Models, usual: SampleConfig, report: progress.Report
    ) -> None:
        """`usual` has the settings that hold where a request says nothing."""
        self.home, self.models, self.usual, self._report = home, models, usual, report
        self.gallery = Gallery(home / "samples", models)
        self.line = Line(home, self.report)
        self.listening: set[Job] = set()
        """jobs somebody waits for"""
        self._preparing = asyncio.Semaphore(PREPARED)

    def report(self, event: progress.Event) -> None:
        """Tell who has started the server, who may have closed the terminal long ago."""
        with suppress(OSError, ValueError):
            self._report(event)

    async def ask(self, given: Mapping[str, Any], *, partials: bool, **more: Any) -> Job:
        """Put what a request wishes into the line. Raises Refused, where the line is full before
        any work is done."""
        asked = partial(wish, given, self.models, self.usual, **more)
        async with self._preparing:
            self.line.require_room()
            made = await run_in_threadpool(asked)
        return self.line.add(Job(made, partials))

    def leave(self, job: Job) -> None:
        """Nobody waits for it any more: its place is free."""
        self.listening.discard(job)
        self.line.stop(job)

    async def gone(self, seconds: float) -> None:
        """Wait until all who listen have been told the last of it, but not for ever."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.listening and loop.time() < until:
            await asyncio.sleep(0.02)


class Stream(StreamingResponse):
    """Server-sent events of a job, which ends when its client goes."""

    def __init__(
        self, house: House, job: Job, told: Callable[[Event], Awaitable[bytes | None]]
    ) -> None:
        """`told` says what is sent for an event, if anything."""
        self.house, self.job, self.told = house, job, told
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._lines(), headers=headers, media_type="text/event-stream")

    async def _lines(self) -> AsyncIterator[bytes]:
        async for event in self.job.events():
            if event is None:
                yield b": still here\n\n"
            elif sent := await self.told(event):
                yield sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.house.listening.add(self.job)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.house.leave(self.job)


async def whole(house: House, job: Job, request: Request) -> list[Event]:
    """All that is told of a job, once it has ended. Raises ClientDisconnect where its client goes
    before."""

    async def listen() -> list[Event]:
        return [event async for event in job.events() if event is not None]

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    house.listening.add(job)
    tasks = asyncio.create_task(listen()), asyncio.create_task(watch())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()
        house.leave(job)


async def fields(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise Refused(415, f"the body must be JSON and say so: Content-Type: {JSON}")
    try:
        found = files.parse_json(await request.body())
    except ValueError as error:
        raise Refused(400, f"the body is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise Refused(400, "the body must be a JSON object")
    return found


def require_known(given: Mapping[str, Any], known: set[str]) -> None:
    """Raise Refused for a field that nobody knows."""
    for name in given:
        if name not in known:
            raise Refused(
                400, f"{name[:60]}: unknown field; there are {', '.join(sorted(known))}", name
            )
