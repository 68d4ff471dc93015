"""A picture in the terminal: real pixels where it can show them, coloured half blocks elsewhere."""

import logging
import os
import sys
from pathlib import Path

from dallebaby_cli.commands.output import Settings


def show(settings: Settings, picture: Path) -> None:
    """Show a picture as large as fits, or hint where it lies if nobody could see it."""
    if settings.json or not _watched():
        settings.hint(f"open {picture}; --show needs a terminal, not a pipe")
        return
    logging.getLogger("textual_image").setLevel(logging.ERROR)  # it says what it cannot find out
    from textual_image.renderable import Image  # asks the terminal what it can do

    settings.out.print(Image(picture, width="auto", height="auto"))


def _watched() -> bool:
    """Whether there is a terminal that can be asked and has a size."""
    both = all(stream and stream.isatty() for stream in (sys.stdin, sys.stdout))
    return both and os.get_terminal_size().columns > 0
