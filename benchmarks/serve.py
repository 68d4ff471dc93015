"""How quick `dallebaby serve` is, and what it takes: each figure beside its bar. Starts a server of
its own in an empty workspace, so that the baby draws, or that of HOME.

    python benchmarks/serve.py [HOME] [--runs 15] [--clients 200] [--seconds 60]
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.progress import ignore
from dallebaby_cli.serving import page_api
from dallebaby_cli.stages import generate

PROMPT = "a red circle above a blue square"
KIND = {"Content-Type": "application/json", "Connection": "close"}
IDLE_S = 10
LOADED: dict[Path, generate.Model] = {}


@contextmanager
def served(home: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The port and the process of a server."""
    command = [sys.executable, "-m", "dallebaby_cli", "--home", str(home), "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        address = re.match(r"http://[^:]+:(\d+)/", process.stdout.readline())
        assert address, "the server does not say where it is"
        yield int(address[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def post(port: int, path: str, wish: dict[str, Any]) -> http.client.HTTPResponse:
    """An answer that is to be read."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", path, json.dumps(wish), KIND)
    return connection.getresponse()


def drawn(port: int, seed: int) -> tuple[float, float]:
    """Seconds to the first unfinished picture, and to the finished one."""
    began, first = time.monotonic(), 0.0
    response = post(port, "/api/drawings", {"prompt": PROMPT, "seed": seed})
    while line := response.readline():
        if line.startswith(b"event: partial") and not first:
            first = time.monotonic() - began
        if line.startswith(b"event: done"):
            return first, time.monotonic() - began
    raise RuntimeError("it ended before its picture was there")


def median(work: Callable[[int], float], runs: int) -> float:
    """Of some runs, after one that warms up."""
    work(0)
    return statistics.median(work(run) for run in range(1, runs + 1))


def by_generate(home: Path, seed: int) -> float:
    """Seconds that `generate` takes for the same, the model loaded before."""
    model = LOADED.setdefault(home, generate.find(home, None, None, "auto", ignore))
    _ = model.sampler
    began = time.monotonic()
    generate.generate(home, SampleConfig(), [PROMPT], model=model, n=1, seed=seed, report=ignore)
    return time.monotonic() - began


def at_once(port: int, count: int, start: int) -> float:
    """Seconds that so many requests take together."""
    threads = [threading.Thread(target=drawn, args=(port, start + i)) for i in range(count)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


def stopped(port: int) -> float:
    """Seconds from the wish to stop until nothing is drawn any more."""
    response = post(port, "/api/drawings", {"prompt": PROMPT, "n": 16})
    while not (line := response.readline()).startswith(b'data: {"id"'):
        pass
    job = json.loads(line.removeprefix(b"data: "))["id"]
    while not response.readline().startswith(b"event: partial"):
        pass
    began = time.monotonic()
    assert post(port, f"/api/drawings/{job}/stop", {}).status == 204
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/metrics")
        if b"dallebaby_drawing 0" in connection.getresponse().read():
            return time.monotonic() - began


def loaded(port: int, clients: int, seconds: float) -> tuple[list[float], int]:
    """Seconds of each answer that many clients got meanwhile, and how many got none."""
    took: list[float] = []
    lost: list[Exception] = []
    until = time.monotonic() + seconds

    def ask(seed: int) -> None:
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                response = post(port, "/v1/images/generations", {"prompt": PROMPT, "seed": seed})
                response.read()
            except (OSError, http.client.HTTPException) as error:
                lost.append(error)
                continue
            if response.status == 429:
                time.sleep(min(float(response.headers["Retry-After"]), 2))
            elif response.status == 200:
                took.append(time.monotonic() - began)
            else:
                lost.append(RuntimeError(response.status))

    threads = [threading.Thread(target=ask, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(took), len(lost)


@contextmanager
def sampled(figure: Callable[[], float]) -> Iterator[list[float]]:
    """A figure, looked at ten times a second while the block runs."""
    found, ended = [figure()], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            found.append(figure())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def tell(what: str, figure: str, bar: str, kept: bool) -> None:
    """A row of the table."""
    print(f"| {what} | {figure} | {bar} | {'yes' if kept else '**missed**'} |", flush=True)


def measure(home: Path, runs: int, clients: int, seconds: float) -> None:
    """Print all figures."""
    with served(home) as (port, process):
        print("| what | figure | bar | kept |\n|---|---|---|---|")
        first = median(lambda run: drawn(port, run)[0], runs)
        tell("first partial picture", f"{first:.2f} s", "0.5 s", first <= 0.5)
        by_generate(home, 100)
        turns = [(drawn(port, seed)[1], by_generate(home, seed)) for seed in range(101, 101 + runs)]
        whole, plain = map(statistics.median, zip(*turns, strict=True))
        ratio = whole / plain
        figure = f"{whole:.2f} s, {ratio:.2f} x of `generate`'s {plain:.2f} s"
        tell("whole picture", figure, "1.1 x", ratio <= 1.1)
        turns = [
            (at_once(port, 8, seed), sum(drawn(port, seed + i)[1] for i in range(8)))
            for seed in range(200, 200 + 8 * runs, 8)
        ]
        together, after = map(statistics.median, zip(*turns, strict=True))
        figure = f"{together:.2f} s, {together / after:.2f} x of one after the other"
        tell("8 requests at once", figure, "0.5 x", together / after <= 0.5)
        stop = stopped(port)
        tell("stop", f"{stop:.2f} s", "1 s", stop <= 1)
        page = sum(path.stat().st_size for path in page_api.PAGE.glob("*.*"))
        tell("page in all", f"{page / 1000:.1f} kB", "60 kB", page <= 60_000)
        before = sum(process.cpu_times()[:2])
        time.sleep(IDLE_S)
        idle = (sum(process.cpu_times()[:2]) - before) / IDLE_S
        tell("idle server", f"{idle:.2%} of a core", "1 %", idle <= 0.01)
        with sampled(lambda: process.memory_info().rss / 2**20) as memory:
            took, lost = loaded(port, clients, seconds)
        half = len(memory) // 2  # what so many pictures at a time need comes and goes in both
        most, grown = max(memory), max(memory[half:]) - max(memory[:half])
        p95 = took[int(len(took) * 0.95)] if took else float("nan")
        figure = f"{len(took):,} answered, {lost} lost, p95 {p95:.1f} s"
        tell(f"{clients} clients for {seconds:g} s", figure, "0 lost", not lost and bool(took))
        figure = f"{most:,.0f} MiB at most, {grown:+.0f} MiB in the second half"
        tell("memory meanwhile", figure, "+100 MiB", grown <= 100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", type=Path, nargs="?")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as empty:
        home = options.home or Path(empty)
        measure(home, options.runs, options.clients, options.seconds)


if __name__ == "__main__":
    main()
