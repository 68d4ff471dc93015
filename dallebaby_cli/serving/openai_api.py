"""The API of OpenAI's images, as far as a small model has what that offers, so that programs for it
work unchanged; beside it, what watches over servers asks for."""

import base64
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from dallebaby_cli import files
from dallebaby_cli.serving import gallery
from dallebaby_cli.serving.house import House, Stream, fields, require_known, whole
from dallebaby_cli.serving.job import Event, Failed, Job, Partial, Picture
from dallebaby_cli.serving.page_api import as_png
from dallebaby_cli.serving.refused import Json, Refused
from dallebaby_cli.serving.wish import FIELDS

WITHOUT_EFFECT = {  # what OpenAI has and a small model has not
    *("quality", "style", "background", "moderation", "output_compression", "input_fidelity"),
    *("user", "output_format"),
}
ANSWER = {"size", "response_format", "stream", "partial_images"}
MOST_N, MOST_PARTIALS, LARGEST_PX = 10, 3, 1024
MOST_PARTS = 40  # of a form


class OpenAiApi:
    """The routes of /v1, over what all share."""

    def __init__(self, house: House) -> None:
        self.house = house

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/v1/models", self.models),
            Route("/v1/models/{name}", self.model),
            Route("/v1/images/generations", self.generations, methods=["POST"]),
            Route("/v1/images/edits", self.edits, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
        ]

    async def models(self, request: Request) -> Response:
        """All models."""
        listed = await run_in_threadpool(self.house.models.listed)
        return Json({"object": "list", "data": [_model(known.name) for known in listed]})

    async def model(self, request: Request) -> Response:
        """One model."""
        known = await run_in_threadpool(self.house.models.find, request.path_params["name"])
        return Json(_model(known.name))

    async def generations(self, request: Request) -> Response:
        """Pictures of a prompt."""
        given = {k: v for k, v in (await fields(request)).items() if v is not None}
        return await self._answer(request, given, "image_generation")

    async def edits(self, request: Request) -> Response:
        """Pictures that begin with one from outside."""
        given = await _form(request)
        if not isinstance(image := given.pop("image", None), bytes):
            raise Refused(400, "image: send a picture file, as multipart/form-data", "image")
        if not isinstance(mask := given.pop("mask", None), bytes | None):
            raise Refused(400, "mask: send a PNG file", "mask")
        return await self._answer(request, given, "image_edit", image=image, mask=mask)

    async def _answer(
        self, request: Request, given: dict[str, Any], kind: str, **more: Any
    ) -> Response:
        """Draw; the pictures, or a stream of how they come about."""
        require_known(given, FIELDS | ANSWER | WITHOUT_EFFECT)
        if given.get("output_format", "png") != "png":
            raise Refused(400, "output_format: only png can be made", "output_format")
        how = _choice(given, "response_format", ("b64_json", "url"))
        stream = given.get("stream") in (True, "true", "True")
        partials, side = _partials(given), _side(given.get("size", "auto"))
        job = await self.house.ask(given, partials=stream, most_n=MOST_N, **more)
        if stream:
            return self._stream(job, kind, partials, side)
        events = await whole(self.house, job, request)
        if isinstance(events[-1], Failed):
            raise events[-1].why
        pictures = [event for event in events if isinstance(event, Picture)]
        data = []
        for picture in pictures:
            one: dict[str, str] = {}
            if how != "url":
                one["b64_json"] = await run_in_threadpool(_content, picture, side)
            if how != "b64_json":
                when = picture.path.stat().st_mtime_ns
                one["url"] = str(request.base_url)[:-1] + gallery.url(picture.path.name, when)
            data.append(one)
        return Json({**_about(job, side), "created": int(time.time()), "data": data})

    def _stream(self, job: Job, kind: str, partials: int, side: int | None) -> Response:
        """Unfinished pictures, so many of each, and finished ones, as they come."""
        sent = [0] * job.wish.n  # unfinished states of each

        async def told(event: Event) -> bytes | None:
            if isinstance(event, Failed):
                return _line("error", event.why.told("/v1/"))
            if not isinstance(event, Picture | Partial):
                return None
            if isinstance(event, Partial):  # evenly over the picture, so many
                number = sent[event.index]
                if number == partials or event.done * (partials + 1) < number + 1:
                    return None
                sent[event.index] += 1
            about = {**_about(job, side), "created_at": int(time.time())}
            about["b64_json"] = await run_in_threadpool(_content, event, side)
            if isinstance(event, Picture):
                return _line(f"{kind}.completed", about)
            about["partial_image_index"] = number
            return _line(f"{kind}.partial_image", about)

        return Stream(self.house, job, told)

    async def health(self, request: Request) -> Response:
        """Whether it takes requests."""
        if self.house.line.ending:
            raise Refused(503, "the server is ending")
        return Json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Counts, in the text format of Prometheus."""
        line = self.house.line
        waiting, drawn = line.lengths()
        told: list[tuple[str, str, str, dict[str, float]]] = [
            ("waiting", "gauge", "Drawings that wait.", {"": waiting}),
            ("drawing", "gauge", "Drawings at work.", {"": drawn}),
            ("pictures_total", "counter", "Pictures drawn.", {"": line.counts["pictures"]}),
            ("seconds_total", "counter", "Seconds that drawing took.", {"": line.seconds}),
            (
                "drawings_total",
                "counter",
                "Drawings that ended, by how.",
                {
                    f'{{end="{e}"}}': line.counts[e]
                    for e in ("done", "stopped", "failed", "refused")
                },
            ),
        ]
        lines = []
        for name, kind, help_, values in told:
            lines += [f"# HELP dallebaby_{name} {help_}", f"# TYPE dallebaby_{name} {kind}"]
            lines += [f"dallebaby_{name}{label} {value}" for label, value in values.items()]
        kind = "text/plain; version=0.0.4"
        return PlainTextResponse("\n".join(lines) + "\n", media_type=kind)


async def _form(request: Request) -> dict[str, Any]:
    """The fields of a form: texts, and bytes of files. Raises Refused."""
    try:
        form = await request.form(max_files=4, max_fields=MOST_PARTS)
    except ValueError as error:
        raise Refused(400, f"the body is no whole multipart/form-data ({error})") from None
    given: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            name = name.removesuffix("[]")
            if name in given:
                raise Refused(400, f"{name[:60]}: only one can be taken", name)
            given[name] = await value.read() if isinstance(value, UploadFile) else value
    finally:
        await form.close()
    return given


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "dallebaby"}


def _about(job: Job, side: int | None) -> dict[str, Any]:
    """What OpenAI says of every answer with pictures."""
    wish = job.wish
    px, shape = side or wish.sampler.image_tokenizer.image_px, wish.sampler.model.config
    read, drawn = shape.text_tokens, wish.n * shape.image_tokens
    usage = {"input_tokens": read, "output_tokens": drawn, "total_tokens": read + drawn}
    details = {"text_tokens": read, "image_tokens": 0}
    return {
        "background": "opaque",
        "output_format": "png",
        "quality": "auto",
        "size": f"{px}x{px}",
        "usage": {**usage, "input_tokens_details": details},
    }


def _line(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def _content(event: Picture | Partial, side: int | None) -> str:
    """A picture as PNG in base64: the very file, with its settings, where it keeps its size."""
    if isinstance(event, Picture) and side in (None, len(event.pixels)):
        content = files.read_small(event.path)
    else:
        content = as_png(event.pixels, side)
    return base64.b64encode(content).decode()


def _choice(given: dict[str, Any], name: str, choices: Sequence[str]) -> str | None:
    value = given.get(name)
    if value is not None and value not in choices:
        raise Refused(400, f"{name}: must be {' or '.join(choices)}", name)
    return value


def _partials(given: dict[str, Any]) -> int:
    """How many unfinished states of a picture are wanted. Raises Refused."""
    value = given.get("partial_images", 0)
    if (
        value in (*range(MOST_PARTIALS + 1), *map(str, range(MOST_PARTIALS + 1)))
        and value is not True
    ):
        return int(value)
    raise Refused(400, f"partial_images: must be 0 to {MOST_PARTIALS}", "partial_images")


def _side(size: object) -> int | None:
    """The side in pixels that is asked for; None for the model's own. Raises Refused."""
    if size == "auto":
        return None
    square = re.fullmatch(r"([0-9]{2,4})x\1", size) if isinstance(size, str) else None
    if square is None or int(square[1]) > LARGEST_PX:
        said = f"size: must be auto or a square up to {LARGEST_PX}x{LARGEST_PX}, such as 256x256"
        raise Refused(400, said, "size")
    return int(square[1])
