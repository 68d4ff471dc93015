"""Does a run take as long as doctor estimates? Asks it how many steps fit the minutes, then takes
so many and looks at the clock. Takes prepared pictures (draws `scenes` if there are none), and
encoded ones for `--stage train`. The runs stay in HOME, with their pictures, as doctor-NAME.

    python benchmarks/doctor.py [HOME [NAME]...] [--minutes 5] [--stage train-vae]
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDERS = {"train-vae": "vae", "train": "dalle"}


def dallebaby(home: Path, *arguments: object) -> str:
    """One command line in a process of its own; what it prints."""
    command = [sys.executable, "-m", "dallebaby_cli", "--home", home, "--quiet", *arguments]
    return subprocess.run(
        [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def estimated(home: Path, name: str, stage: str, minutes: float) -> tuple[dict[str, Any], float]:
    """What doctor says of that stage's run, and the seconds that it took to say so."""
    began = time.monotonic()
    facts = json.loads(dallebaby(home, "doctor", name, "--json", "--set", f"minutes={minutes}"))
    return next(r for r in facts["runs"] if r["stage"] == stage), time.monotonic() - began


def taken(home: Path, name: str, stage: str, steps: int) -> float:
    """Seconds of the whole command, start and end included."""
    run = f"doctor-{name}"
    shutil.rmtree(home / FOLDERS[stage] / run, ignore_errors=True)
    began = time.monotonic()
    dallebaby(home, stage, name, "--steps", steps, "--run", run)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", type=Path, nargs="?", default=Path("dallebaby"))
    parser.add_argument("names", nargs="*", default=["scenes"])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--stage", choices=FOLDERS, default="train-vae")
    options = parser.parse_args()
    if not (options.home / "images").exists():
        dallebaby(options.home, "prep", "scenes")
    print("| dataset | doctor took | steps | estimated | it took | took / estimated |")
    print("|---|---|---|---|---|---|")
    for name in options.names:
        run, asked_s = estimated(options.home, name, options.stage, options.minutes)
        took = taken(options.home, name, options.stage, run["steps"])
        print(
            f"| {name} | {asked_s:.0f} s | {run['steps']:,} | {run['seconds']:.0f} s "
            f"| {took:.0f} s | {took / run['seconds']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
