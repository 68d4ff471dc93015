"""Images a second of `train-vae` where another program keeps one core busy, and where none does.

    python benchmarks/busy.py [--seconds 40] [--rounds 3]

Three ways to choose the number of threads, each in a process of its own, idle and busy in turns:
`all` threads, as the version before did; `passive`, all threads that sleep where they wait for one
another (OMP_WAIT_POLICY=passive); and as the planner does it now (`planned`). Beside them
`planned, later`: the busy program starts when the run is under way, which has to notice.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOWS = ("all", "passive", "planned")
PICTURES, PX = "2000", "64"
BUSY = [sys.executable, "-c", "while True: pass"]


def child(home: Path, how: str) -> None:
    """Train, with the planner's choice taken away where threads are to be all."""
    from dallebaby_cli.app import main
    from dallebaby_cli.training import pace

    if how != "planned":
        pace.counts = lambda most: [most]
    main(["--home", str(home), "--quiet", "train-vae", "--preset", "scenes", "--run", how])


def rate(home: Path, how: str, seconds: float, busy: bool, later: float = 0.0) -> float:
    """Median images a second in the last half of a run that trains for so many seconds."""
    log = home / "vae" / how / "log.jsonl"
    shutil.rmtree(log.parent, ignore_errors=True)
    waiting = {"OMP_WAIT_POLICY": "passive"} if how == "passive" else {}
    other = subprocess.Popen(BUSY) if busy and not later else None
    training = subprocess.Popen(
        [sys.executable, __file__, "--child", str(home), how],
        env=os.environ | waiting,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not log.exists() or not rates(log):
            time.sleep(0.2)
        if later:
            time.sleep(5)
            other = subprocess.Popen(BUSY)
            time.sleep(later)
        time.sleep(seconds)
    finally:
        training.kill()
        training.wait()
        if other:
            other.kill()
    found = rates(log)
    recent = [images for at, images in found if at > found[-1][0] - seconds / 2]
    return statistics.median(recent)


def rates(log: Path) -> list[tuple[float, float]]:
    """Time and images a second of each line about steps."""
    lines = log.read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [(e["time"], e["images_per_s"]) for e in events if e["event"] == "step"]


def main() -> None:
    """Measure all, print medians over the rounds and what is left of the idle rate."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=40)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--child", nargs=2, metavar=("HOME", "HOW"))
    chosen = options.parse_args()
    if chosen.child:
        return child(Path(chosen.child[0]), chosen.child[1])
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        prepare = ["prep", "scenes", "--limit", PICTURES, "--px", PX]
        command = [sys.executable, "-m", "dallebaby_cli", "--home", str(home), "--quiet", *prepare]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, list[float]] = {}
        for _ in range(chosen.rounds):
            for how in HOWS:
                for busy in (False, True):
                    name = f"{how}, {'busy' if busy else 'idle'}"
                    found.setdefault(name, []).append(rate(home, how, chosen.seconds, busy))
            later = rate(home, "planned", chosen.seconds, busy=True, later=20)
            found.setdefault("planned, later", []).append(later)
    best = max(statistics.median(found[f"{how}, idle"]) for how in HOWS)
    print(f"{os.cpu_count()} cores, {chosen.rounds} rounds; images/s: median (all)")
    for name, values in found.items():
        middle = statistics.median(values)
        each = ", ".join(f"{value:.0f}" for value in values)
        print(f"{name:16} {middle:6.0f} ({each})  {middle / best:4.2f} x the best idle rate")


if __name__ == "__main__":
    main()
