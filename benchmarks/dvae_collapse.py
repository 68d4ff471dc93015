"""Does the dVAE collapse? Three quantizers, three learning rates a decade apart, three seeds.

`scenes` at 32 px, preset `scenes`, each run 90 seconds on one core. Figures are of the hold-out
pictures; the median of the seeds, and the worst.

    python benchmarks/dvae_collapse.py [HOME] [--minutes 1.5] [--seeds 3]
"""

import argparse
import collections
import itertools
import statistics
from pathlib import Path

import dvae_runs
from dvae_runs import Run

RATES = (5e-4, 5e-3, 5e-2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", nargs="?", type=Path, default=Path("experiments"))
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    dvae_runs.prepare(options.home, "scenes32", "scenes", 32)
    cases = list(itertools.product(("fsq", "vq", "gumbel"), RATES))
    runs = [
        Run(
            f"{quantizer}-{rate:g}-{seed}",
            "scenes32",
            options.minutes,
            (f"model.quantizer={quantizer}", f"optim.lr={rate}", f"seed={seed}"),
        )
        for seed in range(options.seeds)
        for quantizer, rate in cases
    ]
    outcomes = dvae_runs.train_side_by_side(options.home, runs)
    print("\n| quantizer | lr | PSNR dB | worst | codes used | worst | perplexity | warned |")
    print("|---|---|---|---|---|---|---|---|")
    said: collections.Counter[str] = collections.Counter()
    for index, (quantizer, rate) in enumerate(cases):
        same = outcomes[index :: len(cases)]
        psnr, used, spread = (
            [outcome.figures.get(name, 0.0) for outcome in same]
            for name in ("psnr", "codes_used", "perplexity")
        )
        warned = sum(bool(outcome.warnings) for outcome in same)
        said.update(warning for outcome in same for warning in outcome.warnings[-1:])
        middle = statistics.median
        print(
            f"| {quantizer} | {rate:g} | {middle(psnr):.1f} | {min(psnr):.1f} | {middle(used):.0%} "
            f"| {min(used):.0%} | {middle(spread):.0f} | {warned} of {len(same)} |"
        )
    print("\nLast warnings of the runs:")
    for warning, count in said.most_common():
        print(f"{count} × {warning}")


if __name__ == "__main__":
    main()
