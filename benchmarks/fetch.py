"""`dallebaby fetch` beside aria2c and transmission: the same torrents from the same seed.

Two torrents on loopback, one large file and many small ones, seeded by aria2c behind a tracker;
the clients take turns, several rounds, and medians count. Time runs from the start of the program
to the last verified byte (for aria2c and ours: to the end of the program). CPU time and memory are
the kernel's own figures of the client's process; "own memory" leaves out pages of the downloaded
files that a client has mapped, which the kernel takes back whenever it likes.

    python benchmarks/fetch.py [--gb 1.2] [--small 20000] [--rounds 3]

`--try NAME=VALUE` adds a run of ours with a libtorrent setting that differs; `--only-ours` leaves
the others out.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.append(str(REPOSITORY / "tests"))
import swarm  # noqa: E402

SMALL_BYTES = 20_000  # of each small file
TUNED = """
import json, sys
from dallebaby_cli.app import main
from dallebaby_cli.fetch import torrent
ours, tried = torrent.settings, json.loads(sys.argv.pop(1))
torrent.settings = lambda config: {**ours(config), **tried}
main()
"""


@dataclass
class Run:
    """What one download took."""

    seconds: float
    cpu_s: float
    peak_mb: float
    own_mb: float


def watch(process: subprocess.Popen[bytes], finished: Callable[[], bool] | None = None) -> Run:
    """Wait for a client (until it ends, or `finished`), looking at its memory."""
    began, own = time.perf_counter(), 0.0
    status, done = Path(f"/proc/{process.pid}/status"), threading.Event()

    def look() -> None:
        nonlocal own
        while not done.wait(0.1):
            lines = status.read_text(encoding="utf-8").splitlines()
            fields = dict(line.split(":", 1) for line in lines)
            if "RssAnon" in fields:  # gone once the process has ended
                own = max(own, int(fields["RssAnon"].split()[0]) / 1e3)

    watcher = threading.Thread(target=look)
    watcher.start()
    if finished:
        while not finished():
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        process.terminate()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    done.set()
    watcher.join()
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if not finished:
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3, own)


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(arguments, stdout=out, stderr=out)


def ours(torrent: swarm.Torrent, folder: Path, **tried: object) -> Run:
    arguments = [sys.executable, "-c", TUNED, json.dumps(tried), "--home", str(folder)]
    arguments += ["fetch", str(torrent.path), *swarm.ALONE]
    return watch(start(arguments, folder / "log"))


def aria2c(torrent: swarm.Torrent, folder: Path) -> Run:
    options = {
        "dir": folder,
        "seed-time": 0,
        "interface": "127.0.0.1",
        "listen-port": swarm.free_port(),
        "disable-ipv6": "true",
        "enable-dht": "false",
        "bt-enable-lpd": "false",
        "no-conf": "true",
        "file-allocation": "none",
        "summary-interval": 0,
    }
    arguments = ["aria2c", *(f"--{name}={value}" for name, value in options.items())]
    return watch(start([*arguments, str(torrent.path)], folder / "log"))


def transmission(torrent: swarm.Torrent, folder: Path) -> Run:
    with swarm.daemon(folder / "settings", folder) as (peer, remote):
        remote.add(torrent)
        return watch(peer.process, lambda: remote.torrents()[0]["percentDone"] == 1)


Client = Callable[[swarm.Torrent, Path], Run]
OTHERS: dict[str, Client] = {"aria2c": aria2c, "transmission": transmission}


def content(folder: Path, gigabytes: float, small: int) -> Iterator[Path]:
    """One large file, and a folder of many small ones, of bytes that cannot be compressed."""
    chance = random.Random(0)
    large = folder / "large.bin"
    with large.open("wb") as out:
        for _ in range(int(gigabytes * 1000)):
            out.write(chance.randbytes(1_000_000))
    yield large
    many = folder / "small"
    for number in range(small):
        path = many / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(SMALL_BYTES))
    yield many


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A new folder for one download, with nothing of the last one left to be written."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.sync()


def compare(
    clients: dict[str, Client], torrent: swarm.Torrent, size: int, rounds: int, parent: Path
) -> None:
    runs: dict[str, list[Run]] = {name: [] for name in clients}
    for _ in range(rounds):
        for name, client in clients.items():
            with scratch(parent) as folder:
                runs[name].append(client(torrent, folder))
                print(f"  {name}: {json.dumps(vars(runs[name][-1]))}", file=sys.stderr)
    print(f"\n{torrent.name}, {size / 1e9:.2f} GB, medians of {rounds}\n")
    print("| client | MB/s | beside the fastest other | CPU s/GB | peak MB | own MB |")
    print("|---|---|---|---|---|---|")

    def median(name: str, what: str) -> float:
        return statistics.median(getattr(run, what) for run in runs[name])

    best = min(median(n, "seconds") for n in (OTHERS.keys() & clients.keys() or clients))
    for name in clients:
        seconds = median(name, "seconds")
        print(
            f"| {name} | {size / 1e6 / seconds:.0f} | {best / seconds:.2f} | "
            f"{median(name, 'cpu_s') / size * 1e9:.1f} | {median(name, 'peak_mb'):.0f} | "
            f"{median(name, 'own_mb'):.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.2)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--try", action="append", default=[], dest="tried")
    parser.add_argument("--only-ours", action="store_true")
    asked = parser.parse_args()
    clients: dict[str, Client] = {"dallebaby": ours}
    for tried in asked.tried:
        name, _, value = tried.partition("=")
        clients[tried] = partial(ours, **{name: json.loads(value)})
    if not asked.only_ours:
        clients |= OTHERS
    with tempfile.TemporaryDirectory() as name, swarm.tracker() as tracker:
        root = Path(name)
        (root / "content").mkdir()
        for made in content(root / "content", asked.gb, asked.small):
            path, piece = root / f"{made.name}.torrent", (1 << 20 if made.is_file() else 1 << 18)
            torrent = swarm.make_torrent(made, path, trackers=[tracker.url], piece=piece)
            parts = [made] if made.is_file() else [f for f in made.rglob("*") if f.is_file()]
            size = sum(part.stat().st_size for part in parts)
            with swarm.aria2(torrent, unverified=True):
                compare(clients, torrent, size, asked.rounds, root)


if __name__ == "__main__":
    main()
