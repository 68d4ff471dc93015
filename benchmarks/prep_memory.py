"""Whether the memory that `dallebaby prep` takes stays the same however many pictures there are.

Drawn scenes, and a tar of small JPEGs (the same scenes, stored), are prepared twice: few and many.
Peaks are of the main process and of its largest worker: all of it as the kernel counts it, and
without the pages of files that it maps, which the kernel takes back whenever it likes. Ends with 1
if the main process grows by more than BYTES a picture, or a worker by more than WORKER_MB.

    python benchmarks/prep_memory.py [--few 20000] [--many 100000]
"""

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from PIL import Image

from dallebaby_cli.scenes import spec

PX = 32
SOURCES = ("scenes", "a tar of JPEGs")
BYTES, WORKER_MB = 1000, 30


def fill(path: Path, count: int) -> None:
    with tarfile.open(path, "w") as tar:
        for index in range(count):
            out = io.BytesIO()
            Image.fromarray(spec.draw(0, index, 64)[0]).save(out, "JPEG", quality=90)
            member = tarfile.TarInfo(f"{index:06}.jpg")
            member.size = len(out.getvalue())
            tar.addfile(member, io.BytesIO(out.getvalue()))
            tar.getmembers().clear()  # which it would keep


def peaks(*arguments: object) -> list[float]:
    """MB: main process in all and its own, largest worker in all and its own."""
    command = [sys.executable, "-m", "dallebaby_cli", *map(str, arguments)]
    highest = [0.0] * 4
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as main:
        while main.poll() is None:
            workers = Path(f"/proc/{main.pid}/task/{main.pid}/children")
            try:
                theirs = workers.read_text(encoding="utf-8").split()
                for place, pids in ((0, [main.pid]), (2, theirs)):
                    for pid in pids:
                        about = status(pid)
                        for offset, key in enumerate(("VmHWM", "RssAnon")):
                            found = about.get(key, 0.0)
                            highest[place + offset] = max(highest[place + offset], found)
            except (FileNotFoundError, ProcessLookupError):
                pass
            time.sleep(0.02)
    if main.returncode:
        raise SystemExit(f"{command} ended with {main.returncode}")
    return highest


def status(pid: int | str) -> dict[str, float]:
    about = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    lines = [line.split() for line in about.splitlines()]
    return {line[0][:-1]: int(line[1]) / 1000 for line in lines if line[-1] == "kB"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--few", type=int, default=20_000)
    parser.add_argument("--many", type=int, default=100_000)
    arguments = parser.parse_args()
    steady = True
    print("| source | pictures | main MB | main own MB | worker MB | worker own MB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for source in SOURCES:
            found = []
            for count in (arguments.few, arguments.many):
                options: list[object] = ["scenes", "--limit", count]
                if source != "scenes":
                    (folder / "tar").mkdir(exist_ok=True)
                    fill(folder / "tar" / "pictures.tar", count)
                    options = [folder / "tar"]
                home = folder / f"{source}-{count}"
                figures = peaks("--home", home, "prep", *options, "--px", PX)
                found.append(figures)
                columns = " | ".join(f"{figure:.0f}" for figure in figures)
                print(f"| {source} | {count:,} | {columns} |", flush=True)
            few, many = found
            growth = (many[1] - few[1]) * 1e6 / (arguments.many - arguments.few)
            print(f"\n{source}: {growth:.0f} bytes a picture in the main process\n", flush=True)
            steady &= growth < BYTES and many[3] - few[3] < WORKER_MB
    raise SystemExit(not steady)


if __name__ == "__main__":
    main()
