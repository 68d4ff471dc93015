"""Images a second of `train-vae` by one process and by two, of one thread each, in one run.

    python benchmarks/ranks.py [--steps 80] [--rounds 3]

In turns: one process; two that hold the whole model each (DistributedDataParallel); two that split
it (FSDP2, `shard=true`). The batch of a step is the same for all.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HOWS = {
    "one process": (),
    "two, DDP": ("--processes", "2"),
    "two, FSDP2": ("--processes", "2", "--set", "shard=true"),
}
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def dallebaby(home: Path, *arguments: str) -> None:
    """Run a command to its good end."""
    command = [sys.executable, "-m", "dallebaby_cli", "--home", str(home), "--quiet", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ONE_THREAD)


def rate(home: Path, how: str, steps: int) -> float:
    """Median images a second over the lines of a run's log, but for the first."""
    shutil.rmtree(home / "vae", ignore_errors=True)
    run = ("--preset", "scenes", "--steps", str(steps), "--set", "eval_every=100000")
    dallebaby(home, "train-vae", *run, "--run", "r", *HOWS[how])
    lines = (home / "vae" / "r" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    told = [
        event["images_per_s"] for line in lines if (event := json.loads(line))["event"] == "step"
    ]
    return statistics.median(told[1:])


def main() -> None:
    """Measure all in turns; print medians, and ratios to one process."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=80)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    found: dict[str, list[float]] = {how: [] for how in HOWS}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        dallebaby(home, "prep", "scenes", "--limit", "2000", "--px", "64")
        for _ in range(chosen.rounds):
            for how, rates in found.items():
                rates.append(rate(home, how, chosen.steps))
    one = statistics.median(found["one process"])
    print(f"{os.cpu_count()} cores, one thread a process, {chosen.rounds} rounds; images/s")
    for how, rates in found.items():
        each = ", ".join(f"{value:.0f}" for value in rates)
        middle = statistics.median(rates)
        print(f"{how:12} {middle:6.0f} ({each})  {middle / one:.2f} x")


if __name__ == "__main__":
    main()
