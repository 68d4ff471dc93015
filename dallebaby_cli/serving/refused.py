"""What a client is told when it does not get what it asked for: one sentence, in OpenAI's shape for
OpenAI's API."""

import errno
import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from dallebaby_cli.errors import Busy, DallebabyError, DiskFull, MissingInput, OutOfMemory
from dallebaby_cli.text import one_line

FAULT = "something went wrong in the server; the terminal where it runs says what"
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}
STATUS = {MissingInput: 404, OutOfMemory: 507, DiskFull: 507, Busy: 503}
SAID = {404: "there is nothing at this address", 405: "this address is not asked in that way"}


class Json(JSONResponse):
    """In ASCII: texts of a workspace may hold halves of surrogate pairs, which UTF-8 does not."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Refused(Exception):
    """A request that gets no good answer: its HTTP status, a sentence, and for OpenAI's API the
    field that is wrong and a code."""

    def __init__(
        self, status: int, sentence: str, field: str | None = None, wait_s: int | None = None
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.field, self.wait_s = status, sentence, field, wait_s

    def told(self, path: str) -> dict[str, Any]:
        """What its body says to who asked for `path`."""
        if not path.startswith("/v1/"):
            more = {} if self.wait_s is None else {"retry_after_s": self.wait_s}
            return {"error": self.sentence, **more}
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        kind, code = KINDS.get(self.status, usual), CODES.get(self.status)
        return {
            "error": {"message": self.sentence, "type": kind, "param": self.field, "code": code}
        }

    def answer(self, path: str) -> Json:
        """What who asked for `path` gets."""
        headers = {} if self.wait_s is None else {"Retry-After": str(self.wait_s)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Json(self.told(path), self.status, headers)


def refusal(error: Exception) -> Refused:
    """What a client is told of any error: the sentence of those that were expected, and of no other
    more than that there was one."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, HTTPException):
        return Refused(error.status_code, SAID.get(error.status_code, one_line(error.detail)))
    if isinstance(error, DallebabyError):
        return Refused(STATUS.get(type(error), 400), one_line(str(error)))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return Refused(507, "the disk of the server is full; make room and ask again")
    return Refused(500, FAULT)
