"""`dallebaby fetch`: a dataset's files come here."""

import re
import socket
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from dallebaby_cli.commands.options import name_or_path
from dallebaby_cli.commands.output import Settings
from dallebaby_cli.errors import UsageError
from dallebaby_cli.progress import amount
from dallebaby_cli.text import one_line

What = Annotated[
    str,
    typer.Argument(
        parser=name_or_path, metavar="NAME|MAGNET|FILE.torrent", help="What to download."
    ),
]
Files = Annotated[
    list[str] | None,
    typer.Option("--files", metavar="GLOB", help="Only these: a glob, or the end of a path."),
]
List = Annotated[bool, typer.Option("--list", help="Show the files; fetch nothing.")]
Peers = Annotated[
    list[str] | None,
    typer.Option("--peer", metavar="HOST:PORT", help="Connect to this BitTorrent peer."),
]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Give up after so long without progress.")
]
Name = Annotated[str | None, typer.Option(help="Name of the folder; the dataset's own if absent.")]
Verify = Annotated[bool, typer.Option("--verify", help="Hash again what is here, and mend it.")]


def fetch(
    ctx: typer.Context,
    what: What,
    files: Files = None,
    list_: List = False,
    peer: Peers = None,
    timeout: Timeout = None,
    name: Name = None,
    verify: Verify = False,
) -> None:
    """Download a dataset, whole or in part; run it again to continue."""
    from dallebaby_cli.stages import fetch as stage

    settings: Settings = ctx.obj
    config = settings.load("fetch", {"timeout_s": timeout})
    asked: dict[str, Any] = {
        "patterns": files or (),
        "peers": [address(p) for p in peer or []],
        "name": name,
    }
    if list_:
        with settings.reporter() as report:
            listed = stage.listing(what, settings.home, config, **asked, report=report)
        table = Table("file", "size", "wanted", "note", box=None)
        for row in listed:
            size = "?" if row.size_bytes is None else amount(row.size_bytes, "B")
            wanted = "yes" if row.wanted else "no"
            table.add_row(Text(one_line(row.path)), size, wanted, Text(one_line(row.note)))
        settings.result({"files": [asdict(row) for row in listed]}, table)
        return
    with settings.reporter() as report:
        done = stage.fetch(what, settings.home, config, **asked, verify=verify, report=report)
    count, size = len(done.manifest.counts["files"]), done.manifest.counts["bytes"]
    settings.result(
        {
            "folder": done.folder,
            "id": done.manifest.id,
            "fresh": done.fresh,
            "bytes": size,
            "files": count,
        },
        f"{done.folder}: {count:,} files, {amount(size, 'B')}"
        + ("" if done.fresh else ", already complete"),
    )
    settings.hint(f"dallebaby prep {done.folder.name}")


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, an IPv6 host in brackets, as the host's number and the port. Raises UsageError."""
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise UsageError(f"--peer {text}: write it as HOST:PORT, for example 192.0.2.7:51413")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--peer {text}: no host is known by this name") from error
    return str(found[0][4][0]), int(port)
