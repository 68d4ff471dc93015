"""Pictures a second that `scenes` draws on one core: python benchmarks/scenes.py"""

import statistics
import time

from dallebaby_cli.scenes import spec

COUNT, ROUNDS = 1000, 5

for px in (32, 64, 128):
    rates = []
    for start in range(0, ROUNDS * COUNT, COUNT):
        began = time.process_time()
        for index in range(start, start + COUNT):
            spec.draw(0, index, px)
        rates.append(COUNT / (time.process_time() - began))
    print(f"{px:4} px: {statistics.median(rates):,.0f} pictures a second on one core (median of 5)")
