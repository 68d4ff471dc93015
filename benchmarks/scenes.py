"""Pictures a second that `scenes` draws on one core: python benchmarks/scenes.py [--count 1000]"""

import argparse
import statistics
import time

from dallebaby_cli.scenes import spec

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    for px in (32, 64, 128):
        rates = []
        for start in range(0, ROUNDS * count, count):
            began = time.process_time()
            for index in range(start, start + count):
                spec.draw(0, index, px)
            rates.append(count / (time.process_time() - began))
        rate = statistics.median(rates)
        print(f"{px:4} px: {rate:,.0f} pictures a second on one core (median of {ROUNDS})")


if __name__ == "__main__":
    main()
