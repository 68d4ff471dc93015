"""Our transformer beside DALLE-pytorch's and Hugging Face's GPT-2: the same width, depth and heads,
16 words and 64 or 256 codes. Each piece of work is a process of its own, in turns; medians. In fp32
and, where this CPU computes in it, in bf16; elsewhere bf16 is emulated, and of that one round is
enough, of the others alone.

    python benchmarks/transformer_speed.py [HOME] [--rounds 3] [--only train sample growth]
        [--without DALLE-pytorch]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import baseline_environment
import torch

from dallebaby_cli.models import device as devices

BASELINES = Path(__file__).parent / "baselines"
PROGRAMS = {
    "dallebaby": "ours.py",
    "DALLE-pytorch": "dalle_pytorch_transformer.py",
    "HF GPT-2": "gpt2.py",
}
OURS, DALLE, GPT2 = PROGRAMS
BOTH = ("fp32", "bf16")
NATIVE = BOTH if devices.native_bf16(torch.device("cpu")) else BOTH[:1]


@dataclass(frozen=True)
class Job:
    """What one process does."""

    who: str
    work: str
    grid: int
    batch: int
    precision: str = "fp32"
    guidance: float = 1.0
    cache: bool = True
    compiled: bool = False

    def __str__(self) -> str:
        words = [self.who, self.precision]
        words += [f"guidance {self.guidance:g}"] * (self.guidance != 1)
        words += ["no cache"] * (not self.cache) + ["compiled"] * self.compiled
        return ", ".join(words)


TRAINING = [
    job
    for grid, batch in ((8, 64), (16, 8))
    for job in (
        # compiled as in runs of five minutes and more
        *(Job(OURS, "train", grid, batch, p, compiled=True) for p in NATIVE),
        *(Job(OURS, "train", grid, batch, p) for p in NATIVE),
        *(Job(who, "train", grid, batch, p) for who in (DALLE, GPT2) for p in BOTH),
    )
]
SAMPLING = [
    *(Job(OURS, "sample", 8, 8, p) for p in NATIVE),
    *(Job(OURS, "sample", 8, 8, p, guidance=3) for p in NATIVE),
    Job(DALLE, "sample", 8, 8),
    Job(DALLE, "sample", 8, 8, "bf16"),
    Job(DALLE, "sample", 8, 8, guidance=3),
    Job(DALLE, "sample", 8, 8, cache=False),
    Job(DALLE, "sample", 8, 8, guidance=3, cache=False),
    Job(GPT2, "sample", 8, 8),
    Job(GPT2, "sample", 8, 8, "bf16"),
]
GROWTH = [Job(OURS, "sample", 8, batch, NATIVE[-1]) for batch in (1, 8, 64)]
GROWTH += [Job(OURS, "sample", grid, 8, NATIVE[-1]) for grid in (16, 32)]
GROWTH += [Job(who, "sample", grid, 8) for who in (DALLE, GPT2) for grid in (8, 16)]
TABLES = {"train": TRAINING, "sample": SAMPLING, "growth": GROWTH}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", nargs="?", type=Path, default=Path("experiments"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--without", nargs="+", choices=(DALLE, GPT2), default=[])
    options = parser.parse_args()
    tables = {name: [j for j in TABLES[name] if j.who not in options.without] for name in TABLES}
    jobs = list(dict.fromkeys(job for name in options.only for job in tables[name]))
    baselines = baseline_environment.python(options.home)
    found: dict[Job, list[dict[str, float]]] = defaultdict(list)
    for number in range(options.rounds):
        for job in jobs:
            if number and job.precision not in NATIVE:
                continue
            found[job].append(run(job, baselines))
            print(f"round {number + 1}: {job}: {found[job][-1]}", file=sys.stderr, flush=True)
    medians = {
        job: {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        for job, turns in found.items()
    }
    for name in options.only:
        TELL[name](tables[name], medians)


def run(job: Job, baselines: Path) -> dict[str, float]:
    """The answer of one process."""
    command: list[object] = [sys.executable if job.who == OURS else baselines, "-W", "ignore"]
    command += [BASELINES / PROGRAMS[job.who], job.work, "--grid", job.grid, "--batch", job.batch]
    command += ["--precision", job.precision, "--guidance", job.guidance]
    command += ["--no-cache"] * (not job.cache) + ["--compile"] * job.compiled
    here = os.environ | ({"PYTHONPATH": str(BASELINES.parents[1])} if job.who == OURS else {})
    done = subprocess.run(
        [str(word) for word in command], env=here, check=True, stdout=subprocess.PIPE, text=True
    )
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def tell_training(table: list[Job], medians: dict[Job, dict[str, float]]) -> None:
    for grid, batch in ((8, 64), (16, 8)):
        print(f"\nTraining, 16 + {grid**2} tokens, {batch} pictures a step\n")
        print("| | tokens/s | ours / theirs | of the matmul peak | peak memory |")
        print("|---|---|---|---|---|")
        jobs = [job for job in table if job.grid == grid]
        best = max(medians[job]["rate"] for job in jobs if job.who == OURS)
        for job in jobs:
            facts = medians[job]
            share = ""
            if job.who == OURS:
                share = f"{facts['rate'] * facts['flops'] / facts['peak_flops']:.0%}"
            print(
                f"| {job} | {facts['rate']:,.0f} | {best / facts['rate']:.2f} | {share} "
                f"| {facts['peak_mb']:,.0f} MB |"
            )


def tell_sampling(table: list[Job], medians: dict[Job, dict[str, float]]) -> None:
    print("\nDrawing 8 pictures of 64 codes\n")
    print("| | images/s | ours / theirs, alike guided | peak memory |\n|---|---|---|---|")
    ours = {job.guidance: medians[job]["rate"] for job in table if job.who == OURS}  # best last
    for job in table:
        facts = medians[job]
        ratio = ours[job.guidance] / facts["rate"]
        print(f"| {job} | {facts['rate']:.2f} | {ratio:.2f} | {facts['peak_mb']:,.0f} MB |")


def tell_growth(table: list[Job], medians: dict[Job, dict[str, float]]) -> None:
    print("\nMilliseconds a code of one picture (all of a batch are drawn at once)\n")
    print("| | codes | batch | images/s | ms a code and picture |\n|---|---|---|---|---|")
    for job in table:
        rate = medians[job]["rate"]
        each = 1e3 / rate / job.grid**2
        print(f"| {job} | {job.grid**2} | {job.batch} | {rate:.2f} | {each:.2f} |")


TELL = {"train": tell_training, "sample": tell_sampling, "growth": tell_growth}

if __name__ == "__main__":
    main()
