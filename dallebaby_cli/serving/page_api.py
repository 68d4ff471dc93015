"""What the page asks for; docs/serve.md describes it."""

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dallebaby_cli.config import settings
from dallebaby_cli.quality.page import POLICY
from dallebaby_cli.serving import gallery, runs, start
from dallebaby_cli.serving.house import House, Stream, fields, require_known
from dallebaby_cli.serving.job import Done, Event, Failed, Job, Partial, Picture, Queued, Started
from dallebaby_cli.serving.refused import Json, Refused
from dallebaby_cli.serving.wish import FIELDS, MOST_N, SAMPLING

PAGE = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}  # addresses name the version


class PageApi:
    """The routes of the page, over what all share."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.files = {path.name: path for path in PAGE.glob("*.*") if path.suffix in KINDS}

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/", self.index),
            Route("/runs", self.index),
            Route("/static/{name}", self.static),
            Route("/api/models", self.models),
            Route("/api/drawings", self.draw, methods=["POST"]),
            Route("/api/drawings/{id}/stop", self.stop, methods=["POST"]),
            Route("/api/pictures", self.pictures),
            Route("/pictures/{name}", self.picture),
            Route("/api/settings", self.settings, methods=["POST"]),
            Route("/api/runs", self.runs),
            Route("/api/runs/{kind}/{name}", self.run),
            Route("/runs/{kind}/{name}/frames/{step}.png", self.frame),
            Route("/runs/{kind}/{name}/report.html", self.report),
        ]

    async def index(self, request: Request) -> Response:
        """One of the two pages."""
        return self._file("index.html" if request.url.path == "/" else "runs.html")

    async def static(self, request: Request) -> Response:
        """A file of the page."""
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self.files:
            raise Refused(404, "the page has no such file")
        headers = {"Cache-Control": "no-cache", "Content-Security-Policy": CSP}
        path = self.files[name]
        return Response(path.read_bytes(), headers=headers, media_type=KINDS[path.suffix])

    async def models(self, request: Request) -> Response:
        """Which models can draw, and with which settings they do so."""
        listed = await run_in_threadpool(self.house.models.listed)
        rows = [
            {
                "name": known.name,
                "default": known is listed[0],
                "image_px": known.image_px,
                "grid": known.grid,
                "mask": "codes" if known.any_order else "rows",
                "examples": known.examples,
                "steps": 3 * known.grid - 2 if known.any_order else None,
            }
            for known in listed
        ]
        usual = settings.as_dict(self.house.usual)
        sampling = {name: usual[name] for name in SAMPLING}
        return Json({"models": rows, "sampling": sampling, "most_n": MOST_N})

    async def draw(self, request: Request) -> Response:
        """Draw, and tell of it as it goes on."""
        given = await fields(request)
        require_known(given, {*FIELDS, "picture", "image", "mask"})
        image, picture = given.get("image"), given.get("picture")
        content: bytes | None = None
        if image is not None and picture is not None:
            raise Refused(400, "give image or picture, not both", "image")
        if picture is not None:
            content = await run_in_threadpool(self.house.gallery.read, str(picture))
        elif image is not None:
            content = start.from_data_url(str(image))
        mask = given.get("mask")
        job = await self.house.ask(given, partials=True, image=content, mask=mask)

        async def told(event: Event) -> bytes:
            name, data = await run_in_threadpool(self._told, job, event)
            return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()

        return Stream(self.house, job, told)

    def _told(self, job: Job, event: Event) -> tuple[str, dict[str, Any]]:
        """The name and the data of an event."""
        wish, name = job.wish, type(event).__name__.lower()
        if isinstance(event, Queued):
            return name, {"id": job.id, "position": event.position, "eta_s": event.eta_s}
        if isinstance(event, Started):
            px = wish.sampler.image_tokenizer.image_px
            words = {"unknown": wish.unknown, "read": wish.read}
            about = {"id": job.id, "n": wish.n, "seed": str(wish.seed), "model": wish.model.name}
            return name, {**about, "image_px": px, "grid": wish.model.grid, **words}
        if isinstance(event, Partial):
            png = base64.b64encode(as_png(event.pixels)).decode()
            image = f"data:image/png;base64,{png}"
            return name, {"index": event.index, "done": round(event.done, 4), "image": image}
        if isinstance(event, Picture):
            config = settings.as_dict(wish.config)
            made = {"prompt": wish.prompt, "seed": str(wish.seed + event.index)}
            made |= {"model": wish.model.name, **{key: config[key] for key in SAMPLING}}
            where = gallery.url(event.path.name, event.path.stat().st_mtime_ns)
            about = {"index": event.index, "name": event.path.name, "url": where}
            kept = wish.start.kept if wish.start else 0
            about |= {"settings": made, "kept": kept, "apart": kept > 0}
            return name, {**about, "unknown": wish.unknown}
        if isinstance(event, Done):
            return name, {"pictures": event.pictures, "seconds": event.seconds}
        if isinstance(event, Failed):
            return "error", {"error": event.why.sentence, "status": event.why.status}
        return name, {"pictures": 0}

    async def stop(self, request: Request) -> Response:
        """Stop a drawing."""
        if job := self.house.line.find(request.path_params["id"]):
            self.house.line.stop(job)
            return Response(status_code=204)
        raise Refused(404, "there is no such drawing, or it has ended")

    async def pictures(self, request: Request) -> Response:
        """A page of the gallery."""
        after = request.query_params.get("after")
        return Json(await run_in_threadpool(self.house.gallery.page, after))

    async def picture(self, request: Request) -> Response:
        """One picture."""
        content = await run_in_threadpool(self.house.gallery.read, request.path_params["name"])
        return Response(content, headers=KEPT, media_type="image/png")

    async def settings(self, request: Request) -> Response:
        """What a PNG says of how it was made."""
        content = await request.body()
        return Json(await run_in_threadpool(self.house.gallery.settings_of, content))

    async def runs(self, request: Request) -> Response:
        """All runs."""
        return Json({"runs": await run_in_threadpool(runs.listed, self.house.home)})

    async def run(self, request: Request) -> Response:
        """One run."""
        which = request.path_params
        found = await run_in_threadpool(runs.one, self.house.home, which["kind"], which["name"])
        return Json(found)

    async def frame(self, request: Request) -> Response:
        """A frame of a run's filmstrip."""
        content = await run_in_threadpool(runs.frame, self.house.home, **request.path_params)
        return Response(content, headers=KEPT, media_type="image/png")

    async def report(self, request: Request) -> Response:
        """The report of a run, which may do no more than a page on a disk."""
        content = await run_in_threadpool(runs.page, self.house.home, **request.path_params)
        headers = {"Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'; sandbox"}
        return HTMLResponse(content, headers=headers)


def as_png(pixels: Any, side: int | None = None) -> bytes:
    """Pixels uint8 (P, P, 3) as a PNG, of another side if one is given."""
    picture, content = Image.fromarray(pixels), io.BytesIO()
    if side is not None and side != picture.width:
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    picture.save(content, format="PNG", compress_level=1)
    return content.getvalue()
