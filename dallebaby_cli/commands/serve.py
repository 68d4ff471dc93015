"""`dallebaby serve`: a page where pictures appear, and an API."""

import threading
from importlib.util import find_spec
from typing import Annotated

import typer

from dallebaby_cli.commands import options
from dallebaby_cli.commands.output import Settings
from dallebaby_cli.errors import MissingInput

NEEDED = ("starlette", "uvicorn", "python_multipart")


def serve(
    ctx: typer.Context,
    model: options.Model = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 lets others in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="What who asks must know; made up for other hosts."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
) -> None:
    """Open a page on which pictures appear as they are drawn, and an API like that of OpenAI's
    images."""
    settings: Settings = ctx.obj
    config = settings.load("generate")
    if any(find_spec(name) is None for name in NEEDED):
        raise MissingInput("serve needs a web server; install it: pip install 'dallebaby[serve]'")
    import webbrowser

    from dallebaby_cli.serving.house import House
    from dallebaby_cli.serving.models import Models
    from dallebaby_cli.serving.server import Server, listen

    place = listen(host, port, token)
    models = Models(settings.home, model, settings.device)
    with place.listener, settings.reporter(bars=False) as report:
        known = models.begin(report)

        def ready() -> None:
            facts = {"url": place.url, "token": place.token, "model": known.folder}
            settings.result(facts, f"{place.url}: {known.name} draws; Ctrl-C ends it")
            if open_:
                threading.Thread(target=webbrowser.open, args=[place.url], daemon=True).start()

        Server(
            House(settings.home, models, config, report), place, ready, settings.debug
        ).serve_all()
