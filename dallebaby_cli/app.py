"""The Typer app: a table of contents in pipeline order, and main(), the only error boundary."""

import errno
import io
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from dallebaby_cli import __version__
from dallebaby_cli.commands import (
    caption,
    config,
    datasets,
    demo,
    describe,
    doctor,
    encode,
    evaluate,
    fetch,
    generate,
    options,
    prep,
    serve,
    status,
    train,
    train_vae,
)
from dallebaby_cli.commands.output import Screen, Settings
from dallebaby_cli.config import DEFAULT_HOME
from dallebaby_cli.errors import DallebabyError, Interrupted, UsageError, out_of_memory
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.text import one_line

app = typer.Typer(
    name="dallebaby",
    help="From an empty machine to a picture drawn from a sentence by a model you trained.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # typer's rich help loads a Markdown parser: 0.1 s for frames
    epilog="Example: dallebaby demo      Global options work before and after the command.",
)
app.command("datasets", epilog="Example: dallebaby datasets coco")(datasets.datasets)
app.command("fetch", epilog="Example: dallebaby fetch coco --files val2017.zip")(fetch.fetch)
app.command("prep", epilog="Example: dallebaby prep my-pictures --px 64")(prep.prep)
app.command("caption", epilog="Example: dallebaby caption stl10 --with openai-community/gpt2")(
    caption.caption
)
app.command("train-vae", epilog="Example: dallebaby train-vae scenes --minutes 10")(
    train_vae.train_vae
)
app.command("encode", epilog="Example: dallebaby encode scenes")(encode.encode)
app.command("train", epilog="Example: dallebaby train scenes --minutes 30")(train.train)
app.command(
    "generate", epilog='Example: dallebaby generate "a red car" -n 32 --best 4 --out car.png'
)(generate.generate)
app.command("describe", epilog="Example: dallebaby describe photo.jpg --among captions.txt")(
    describe.describe
)
app.command("serve", epilog="Example: dallebaby serve --open")(serve.serve)
app.command("evaluate", epilog="Example: dallebaby evaluate --pictures 1000")(evaluate.evaluate)
app.command("demo", epilog="Example: dallebaby demo --minutes 11")(demo.demo)
app.command("doctor", epilog="Example: dallebaby doctor coco --preset baby-64")(doctor.doctor)
app.command("config", epilog="Example: dallebaby config train --preset gpu-128")(config.config)
app.command("status", epilog="Example: dallebaby status --home other-folder")(status.status)


@app.callback()
def global_options(
    ctx: typer.Context,
    home: Annotated[
        Path,
        typer.Option(
            parser=options.path,
            metavar="FOLDER",
            envvar="DALLEBABY_HOME",
            help="Folder that holds everything.",
        ),
    ] = DEFAULT_HOME,
    config: Annotated[
        Path | None,
        typer.Option(
            parser=options.path, metavar="FILE.yaml", help="Settings, a section per command."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as optim.lr=1e-3."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Results and events as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only results and warnings.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit()
    if os.environ.get("WORLD_SIZE", "1") != "1" and ctx.invoked_subcommand not in SHARED:
        raise UsageError(
            f"several processes are for {', '.join(SHARED)}; run "
            f"`dallebaby {ctx.invoked_subcommand}` alone"
        )
    ctx.obj = Settings(
        arguments=tuple(ctx.obj),
        home=home,
        config=config,
        set=tuple(set_ or ()),
        device=device,
        json=json,
        quiet=quiet,
        debug=debug,
    )


MOST_SAID = 200  # characters of what a library says of an error
# what several processes can do together
SHARED = ("train-vae", "encode", "train", "generate", "evaluate")
WITH_VALUE = ("--home", "--config", "--set", "--device")
FLAGS = ("--json", "--quiet", "--debug")


def globals_first(arguments: list[str]) -> list[str]:
    """Move the global options to the front, so that they work after the command too."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in FLAGS or argument.startswith(tuple(f"{o}=" for o in WITH_VALUE)):
            front.append(argument)
        elif argument in WITH_VALUE:
            front += [argument, *([value] if (value := next(waiting, None)) is not None else [])]
        else:
            rest.append(argument)
    return front + rest


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Whatever fails becomes one sentence and an exit code."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    for stream in (sys.stdout, sys.stderr):  # what the terminal's charset lacks becomes a ?
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    arguments = globals_first(sys.argv[1:] if arguments is None else arguments)
    try:
        with Interrupt(at_once="stopped; run the same command again to go on"), _session():
            app(arguments, prog_name="dallebaby", obj=arguments)
    except (Exception, Interrupted) as error:
        if _unheard(error):
            sys.exit(141)
        if "--debug" in arguments:
            raise
        Screen(stderr=True).print(f"error: {sentence(error)}")
        sys.exit(error.exit_code if isinstance(error, DallebabyError | Interrupted) else 1)


def _unheard(error: BaseException) -> bool:
    """Whether it only says that nobody reads what is printed any more."""
    if os.name == "nt" and isinstance(error, OSError) and error.filename is None:
        return error.errno in (errno.EPIPE, errno.EINVAL)
    return isinstance(error, BrokenPipeError)


def _session() -> AbstractContextManager[None]:
    """Where several processes were started: together with the others."""
    if "RANK" not in os.environ:
        return nullcontext()
    from dallebaby_cli.training import engine

    return engine.session()


def sentence(error: BaseException) -> str:
    """What went wrong, in one line."""
    said = one_line(str(error))
    if isinstance(error, DallebabyError | Interrupted):
        return said
    if isinstance(error, OSError):
        where = f" ({one_line(str(error.filename))})" if error.filename else ""
        if error.errno == errno.ENOSPC:
            return f"the disk is full{where}; make room and run the same command again to continue"
        return f"{one_line(error.strerror or said)}{where}"
    if out_of_memory(error):
        why = f" ({said.partition('. ')[0][:MOST_SAID]})" if said else ""
        return (
            f"memory is full{why}; end other programs, or take less at a time: a smaller "
            "batch_size, -n or --preset"
        )
    if isinstance(error, ImportError):
        return f"a library cannot be loaded ({said[:MOST_SAID]}); install dallebaby again"
    name = type(error).__name__
    return (
        f"unexpected {name}: {said[:MOST_SAID]}; this is a fault of dallebaby: run again with "
        "--debug and report it"
    )
