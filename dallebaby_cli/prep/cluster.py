"""Units of work on a Ray cluster (extra `ray`).

A unit is done anywhere and its bytes come back; whoever asked for it writes them to the unit's
file. Ray does a unit again when the machine that had it is lost. The machines need dallebaby with
the same libraries, and the inputs at the same path.
"""

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dallebaby_cli import __version__, files
from dallebaby_cli.errors import DallebabyError, Mismatch, MissingInput, UsageError

ATTEMPTS = 20  # at a unit whose machine was lost
KNOCK_S = 10


class Unit(Protocol):
    """A piece of work that can be sent to another machine."""

    @property
    def path(self) -> Path:
        """The file that will hold what is made."""

    @property
    def needs(self) -> Path | None:
        """The folder that the machine must see; None if nothing is read."""


@dataclass(frozen=True)
class Cluster:
    """A connected cluster."""

    processors: int
    start: Callable[[Callable[[Any], bytes], Unit], Callable[[], None]]
    """begin `make(unit)` somewhere; the result waits for it and writes the unit's file"""


@contextlib.contextmanager
def connect(where: str, *, gpu: bool = False) -> Iterator[Cluster]:
    """The cluster that `ray` or `ray:ADDRESS` means; `ray` alone starts one here unless Ray knows
    of another. With `gpu` each unit gets one, where the cluster has any. Raises MissingInput."""
    kind, _, address = where.partition(":")
    if kind != "ray":
        raise UsageError(f"--where {where}: must be local, ray or ray:ADDRESS")
    try:
        import ray
    except ImportError:
        raise MissingInput(
            "--where ray needs the ray package; install it: pip install 'dallebaby[ray]'"
        ) from None
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints what happens to its machines
        yield from _connected(ray, address, gpu)


def _connected(ray: Any, address: str, gpu: bool) -> Iterator[Cluster]:
    host, _, port = address.rpartition(":")
    try:
        if host and "//" not in host:  # Ray itself would knock for minutes
            socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
        ray.init(address or None, log_to_driver=False, logging_level="CRITICAL")
    except Exception as error:  # Ray fails to connect in many ways
        raise MissingInput(
            f"no Ray cluster can be reached at {address or 'this machine'} "
            f"({str(error).strip().splitlines()[0]}); start one with `ray start --head`"
        ) from error
    try:
        has = ray.cluster_resources()
        share = 1 if gpu and has.get("GPU") else 0
        remote = ray.remote(num_cpus=1, num_gpus=share, max_retries=ATTEMPTS)(_work)

        def start(make: Callable[[Any], bytes], unit: Unit) -> Callable[[], None]:
            coming = remote.remote(make, unit, __version__)
            return lambda: files.write_bytes(unit.path, _result(ray, coming))

        yield Cluster(max(1, int(has.get("CPU", 1))), start)
    finally:
        ray.shutdown()


def _work(make: Callable[[Any], bytes], unit: Unit, version: str) -> bytes:
    """Runs on the cluster."""
    if version != __version__:
        raise Mismatch(f"{socket.gethostname()} has dallebaby {__version__}, not {version}")
    if unit.needs is not None and not unit.needs.exists():
        raise MissingInput(
            f"{unit.needs} is not there on {socket.gethostname()}; every machine of the cluster "
            "must see it at that path, on a shared disk for example"
        )
    return make(unit)


def _result(ray: Any, coming: Any) -> bytes:
    try:
        content: bytes = ray.get(coming)
        return content
    except ray.exceptions.RayTaskError as error:  # what our own code raised there
        raise error.cause from None
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[0]
        raise DallebabyError(
            f"the Ray cluster gave up a unit of work ({why}); run the same command to continue"
        ) from error
