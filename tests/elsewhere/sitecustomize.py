"""What Windows would be like, as far as it can be had on Linux: with this folder on PYTHONPATH,
every Python process starts with it, workers of a pool too.

To modules of `dallebaby_cli`, and to them alone, modules and names that only POSIX has are gone:
libraries have their own ways on each system, and need these here. Below the folder that ELSEWHERE
names, nobody removes or replaces a file that is open or mapped, renames over another, or writes
text with bare ends of lines unless that is asked for. Reading or writing text in the system's own
encoding is an error.
"""

import builtins
import errno
import io
import ntpath
import os
import shutil
import signal
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

PLACE = os.path.join(os.environ["ELSEWHERE"], "")
GONE = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "posix", "posixpath", "syslog"}
KEPT_SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}
KEPT_SIGNALS |= {"signal", "getsignal", "raise_signal", "default_int_handler", "Signals"}
NOT_ON_WINDOWS = """
    sysconf confstr pathconf sched_getaffinity sched_setaffinity nice getloadavg getpriority uname
    getuid geteuid getgid getegid getgroups getlogin_r initgroups setuid setgid setsid getsid
    fork forkpty wait wait3 wait4 waitid killpg getpgid setpgid getpgrp posix_spawn
    pread preadv pwrite pwritev readv writev sendfile copy_file_range posix_fadvise posix_fallocate
    fchmod fchown chown lchown chroot mkfifo mknod statvfs fstatvfs fchdir sync fdatasync
    ttyname openpty tcgetpgrp ctermid getxattr setxattr listxattr lockf pipe2 memfd_create
    O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_SYNC O_DSYNC O_TMPFILE O_PATH O_DIRECT
    EX_OK WNOHANG WIFEXITED WEXITSTATUS RTLD_LAZY
""".split()


def _fsync(descriptor: int) -> None:
    import fcntl

    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    os.fsync(descriptor)


def _open(path: Any, *arguments: Any, **more: Any) -> int:
    if not isinstance(path, int) and os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
    return os.open(path, *arguments, **more)


def _symlink(source: Any, *arguments: Any, **more: Any) -> None:
    raise OSError(errno.EPERM, "A required privilege is not held by the client", os.fspath(source))


class Seen(types.ModuleType):
    """A module as it is on Windows: without some names, with others of another value."""

    def __init__(self, real: types.ModuleType, gone: set[str], other: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update({k: v for k, v in vars(real).items() if k not in gone})
        self.__dict__.update(other)


SEEN: dict[str, types.ModuleType] = {
    "os": Seen(
        os,
        set(NOT_ON_WINDOWS),
        {
            "name": "nt",
            "sep": "\\",
            "altsep": "/",
            "linesep": "\r\n",
            "path": ntpath,
            "O_BINARY": 0,
            "fsync": _fsync,
            "open": _open,
            "symlink": _symlink,
        },
    ),
    "signal": Seen(signal, set(vars(signal)) - KEPT_SIGNALS, {}),
}


def _ours(scope: Any) -> bool:
    return str((scope or {}).get("__name__", "")).partition(".")[0] == "dallebaby_cli"


_import = builtins.__import__


def _import_as_there(name: str, globals: Any = None, *more: Any, **named: Any) -> Any:
    if _ours(globals):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in SEEN:
            return SEEN[name]
    return _import(name, globals, *more, **named)


builtins.__import__ = _import_as_there

# ---------------------------------------------------------------- files


def _held(path: str) -> bool:
    """Whether this process has the file open or mapped."""
    try:
        about = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if os.path.samestat(os.fstat(int(descriptor)), about):
                return True
        except OSError:
            continue
    with io.FileIO("/proc/self/maps") as maps:
        lines = [line.split(maxsplit=5) for line in maps.readall().splitlines()]
    name = os.fsencode(os.path.basename(path))
    return any(
        int(line[4]) == about.st_ino and line[5].endswith(name) for line in lines if len(line) == 6
    )


def _guarded(call: Callable[..., Any], overwrites: bool = True) -> Callable[..., Any]:
    def guarded(*paths: Any, **more: Any) -> Any:
        for path in map(os.path.abspath, map(os.fsdecode, paths)):
            if path.startswith(PLACE) and _held(path):
                raise PermissionError(errno.EACCES, "The process cannot access the file", path)
        if not overwrites and os.path.exists(paths[1]):
            raise FileExistsError(errno.EEXIST, "File exists", os.fspath(paths[1]))
        return call(*paths, **more)

    return guarded


for _name in ("unlink", "remove", "replace"):
    setattr(os, _name, _guarded(getattr(os, _name)))
os.rename = _guarded(os.rename, overwrites=False)
shutil._use_fd_functions = False  # type: ignore[attr-defined]  # rmtree as it is there

_io_open = io.open


def _open_text(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    if "b" not in mode:
        encoding = io.text_encoding(encoding, 2)
    if newline is None and "b" not in mode and set(mode) & set("wax+"):
        if not isinstance(file, int) and os.path.abspath(os.fsdecode(file)).startswith(PLACE):
            newline = "\r\n"
    return _io_open(file, mode, buffering, encoding, errors, newline, closefd, opener)


io.open = builtins.open = _open_text
assert sys.flags.warn_default_encoding, "start Python with PYTHONWARNDEFAULTENCODING=1"
warnings.filterwarnings("error", category=EncodingWarning, module=r"dallebaby_cli\b")
