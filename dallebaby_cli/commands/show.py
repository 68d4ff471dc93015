"""A picture in the terminal: real pixels where it can show them, coloured half blocks elsewhere."""

import logging
import sys
from pathlib import Path

from dallebaby_cli.commands.output import Settings


def show(settings: Settings, picture: Path) -> None:
    """Show a picture as large as fits, or hint where it lies if nobody could see it."""
    if settings.json or not (settings.out.is_terminal and sys.stdin.isatty()):
        settings.hint(f"open {picture}; --show needs a terminal, not a pipe")
        return
    logging.getLogger("textual_image").setLevel(logging.ERROR)  # it says what it cannot find out
    from textual_image.renderable import Image  # asks the terminal what it can do

    settings.out.print(Image(picture, width="auto", height="auto"))
