"""Names and answers from outside on a terminal: no markup, no commands to it."""

import io
import re

from dallebaby_cli.commands.live import Bars, Lines
from dallebaby_cli.commands.output import Screen
from dallebaby_cli.progress import Note, Progress, Transfer

ODD = "a[/b] [red]\x1b[2J\x9b31m\u202e\n:smile: z"
SHOWN = "a[/b] [red][2J31m :smile: z"


def test_text_from_outside_is_text_on_a_terminal() -> None:
    for width in (None, 200):
        out = io.StringIO()
        console = Screen(file=out, force_terminal=bool(width), width=width or 300)
        events = [
            Note(ODD, "warning"),
            Progress(ODD, 1, 2, "B", detail=ODD),
            Transfer(ODD, "downloading", 1, 2, waiting_for=ODD, files=((ODD, 1, 2),)),
        ]
        if width:
            with Bars(console) as bars:
                for event in events:
                    bars(event)
        else:
            lines = Lines(console, quiet=False)
            for event in (*events, Progress(ODD, 2, 2, "B", detail=ODD)):
                lines(event)
        plain = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", out.getvalue())  # rich's own colours
        assert plain.count(SHOWN) >= (5 if width else 3)
        assert "\x9b" not in out.getvalue() and "\u202e" not in out.getvalue()
        assert "\x1b[2J" not in out.getvalue()
