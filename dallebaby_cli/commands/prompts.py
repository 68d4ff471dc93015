"""Where `generate` has its prompts from: arguments, a file, a pipe, or the person who is asked."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rich.console import Console

from dallebaby_cli.errors import BadInput, UsageError
from dallebaby_cli.files import human_bytes

MOST = 10_000_000  # bytes of prompts


def given(arguments: list[str], file: Path | None) -> list[str] | None:
    """All prompts of the command line, in order; "-" stands for those of stdin, which are read
    too if there are no others. None: there are none, and somebody at a terminal can be asked.
    Raises UsageError or BadInput."""
    found: list[str] = []
    for argument in arguments:
        found += _from_stdin() if argument == "-" else [_typed(argument)]
    if file:
        with file.open("rb") as opened:
            found += _lines(_read(opened, str(file)), str(file))
    if found:
        return found
    if sys.stdin and sys.stdin.isatty():
        return None
    return _from_stdin()


def asked(console: Console) -> Iterator[list[str]]:
    """Prompts that are typed, one at a time, until an empty line or Ctrl-D."""
    console.print("Say what to draw; an empty line ends.", style="dim")
    while True:
        try:
            prompt = _typed(console.input("prompt: ").strip())
        except (UnicodeError, BadInput):
            console.print("that is not text; say it again", style="yellow")
            continue
        except EOFError:
            return
        if not prompt:
            return
        yield [prompt]


def _from_stdin() -> list[str]:
    content = _read(sys.stdin.buffer, "stdin") if sys.stdin else b""
    if not content.strip():
        raise UsageError('no prompt: say what to draw, such as "a red car", here or in --file')
    return _lines(content, "stdin")


def _read(opened: BinaryIO, source: str) -> bytes:
    """All of it. Raises BadInput if there is no end to it."""
    content = opened.read(MOST + 1)
    if len(content) > MOST:
        raise BadInput(f"{source} has over {human_bytes(MOST)} of prompts; give fewer at a time")
    return content


def _lines(content: bytes, source: str) -> list[str]:
    """The lines that are not blank. Raises BadInput."""
    lines = [line.strip() for line in _text(content, source).splitlines() if line.strip()]
    if not lines:
        raise BadInput(f"{source} has no prompts; write one a line")
    return lines


def _typed(text: str) -> str:
    """What came in through the terminal: UTF-8, or else what the system's charset makes of it.
    Raises BadInput."""
    try:
        return _text(os.fsencode(text), "the prompt")
    except BadInput:
        if not text.isprintable():  # nor is a byte that could not be read
            raise
        return text


def _text(content: bytes, source: str) -> str:
    """Bytes as text. Raises BadInput."""
    with contextlib.suppress(UnicodeDecodeError):
        text = content.decode("utf-8-sig")
        if "\0" not in text:
            return text
    raise BadInput(f"{source} is not text in UTF-8; write prompts as such, one a line")
