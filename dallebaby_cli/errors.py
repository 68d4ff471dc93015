"""What can go wrong, as types. Each message is one sentence for the person at the keyboard.

DallebabyError            exit code 1
├── UsageError            exit code 2: the command line or a setting is wrong
├── MissingInput          a stage's input is not there, or not finished
├── BadInput              an input is there but cannot be used (damaged, unsafe, another format)
├── Mismatch              two inputs that do not belong together
├── Busy                  another process is working on the same artefact
├── DiskFull              no room left
├── FetchFailed           a download that could not be finished
├── Diverged              training that could not be kept on the rails
├── OutOfMemory           what was asked for does not fit into memory
└── ProcessLost           one of several processes of a run has gone

Interrupted               exit code 128 + signal: stopped by Ctrl-C or SIGTERM
"""

import re


class DallebabyError(Exception):
    """Base of every expected failure: the message names what, why, and what to do."""

    exit_code = 1


class UsageError(DallebabyError):
    """The command line or a setting is wrong."""

    exit_code = 2


class MissingInput(DallebabyError):
    """A stage's input is not there, or not finished."""


class BadInput(DallebabyError):
    """An input is there but cannot be used."""


class Mismatch(DallebabyError):
    """Two inputs that do not belong together."""


class Busy(DallebabyError):
    """Another process is working on the same artefact."""


class DiskFull(DallebabyError):
    """No room left on the disk."""


class FetchFailed(DallebabyError):
    """A download that could not be finished."""


class Diverged(DallebabyError):
    """Training that could not be kept on the rails."""


class OutOfMemory(DallebabyError):
    """What was asked for does not fit into memory."""


class ProcessLost(DallebabyError):
    """One of several processes of a run has gone."""


class Interrupted(BaseException):
    """Work that a signal stopped, after its state was saved where it has one. No `Exception`: what
    goes on after errors, such as with the next picture, must not go on after Ctrl-C."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of ours, Python, numpy or torch, on a CPU or a GPU, says that memory does
    not hold what was asked for."""
    words = r"out of memory|can't allocate memory|not enough memory|ALLOC_FAILED"
    words += r"|could not (create|execute) a (primitive|memory)(?! desc)"  # oneDNN has no better
    return isinstance(error, MemoryError | OutOfMemory) or (
        isinstance(error, RuntimeError) and re.search(words, str(error)) is not None
    )
