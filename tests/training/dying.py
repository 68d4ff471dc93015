"""A process that is killed before the n-th change of a name on disk: every rename and removal.

Whatever a command writes, it writes beside and renames, so these are all moments that differ. The
processes are forked from one that has loaded torch, once for all.
"""

import contextlib
import io
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

from conftest import exit_code

from dallebaby_cli.training import log

FORKS = multiprocessing.get_context("forkserver")
STAGES = [f"dallebaby_cli.stages.{name}" for name in ("prep", "train_vae", "encode", "train")]
FORKS.set_forkserver_preload(["dying", "torch._dynamo", *STAGES])
FAR = 10**6


def run(home: Path, *arguments: object, until: int = FAR) -> tuple[int, int, str]:
    """Run `dallebaby ARGUMENTS...` until it is killed at the n-th change, or to its end: its exit
    code (-9 if killed), how many changes it made, and what it said on stderr."""
    told = FORKS.SimpleQueue()
    process = FORKS.Process(target=_run, args=(home, [*map(str, arguments)], until, told))
    process.start()
    process.join()
    changes, err = told.get() if not told.empty() else (until, "")
    assert process.exitcode is not None
    return process.exitcode, changes, err


def _run(home: Path, arguments: list[str], until: int, told: Any) -> None:
    changes = 0

    def counted(change: Any) -> Any:
        def killing(*given: Any, **named: Any) -> Any:
            nonlocal changes
            changes += 1
            if changes == until:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*given, **named)

        return killing

    for name in ("replace", "rename", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    log.matmul_peak = lambda *about: 0.0
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = exit_code("--home", home, *arguments)
    told.put((changes, err.getvalue()))
    raise SystemExit(code)
