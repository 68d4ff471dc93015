"""Pictures a second of the training loader beside the bare decoding and beside webdataset.

The pictures of benchmarks/prep.py, prepared once by ours, are read in shuffled batches by as many
threads (ours, the bare loop) or processes (webdataset with Pillow) as ours has, in turns, several
rounds; medians count. The bare loops decode the same stored bytes from memory and make
no batches. Time runs from the first batch that is ready to the last, so that no start counts.

    python benchmarks/loader.py [PICTURES] [--count 5120] [--px 64] [--rounds 3] [--encoding png]
"""

import argparse
import io
import itertools
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import prep

BATCH = 64
WARM = 10  # batches before the clock starts
THREADS = 2


def rate(batches: Iterable[object]) -> float:
    """Pictures a second, without the first few batches."""
    running = iter(batches)
    for _ in itertools.islice(running, WARM):
        pass
    began = time.perf_counter()
    count = sum(1 for _ in running)
    return count * BATCH / (time.perf_counter() - began)


def ours(folder: Path, batches: int) -> float:
    from dallebaby_cli.store.shards import Shards
    from dallebaby_cli.training.batches import Order, Pictures, prefetch

    pictures = Pictures([Shards(folder)], "train")
    order = Order(len(pictures), BATCH, seed=0)
    return rate(prefetch(lambda number: pictures.read(order.batch(number)), 0, batches))


def bare(folder: Path, batches: int, decode: Callable[[bytes], object]) -> float:
    stored = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = (member for member in tar if not member.name.endswith(".json"))
            opened = filter(None, map(tar.extractfile, files))
            stored += [file.read() for file in opened]

    def decode_batch(first: int) -> None:
        for number in range(first * BATCH, (first + 1) * BATCH):
            decode(stored[number % len(stored)])

    found = []
    for threads in (1, THREADS):  # many threads are slower where they wait for the interpreter
        with ThreadPoolExecutor(threads) as pool:
            found.append(rate(pool.map(decode_batch, range(batches))))
    return max(found)


def bare_pillow(folder: Path, batches: int) -> float:
    import numpy as np
    from PIL import Image

    return bare(folder, batches, lambda png: np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))


def bare_ours(folder: Path, batches: int) -> float:
    from dallebaby_cli.store import codec

    return bare(folder, batches, codec.read_stored)


def webdataset(folder: Path, batches: int) -> float:
    import numpy as np
    import torch
    import webdataset as wds

    def pixels(sample: dict[str, object]) -> torch.Tensor:
        image = next(value for key, value in sample.items() if key in ("png", "jpg", "webp"))
        return torch.from_numpy(np.asarray(image)).permute(2, 0, 1)

    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset = wds.WebDataset(shards, shardshuffle=100, resampled=True).shuffle(1000)
    dataset = dataset.decode("pil").map(pixels).batched(BATCH, collation_fn=torch.stack)
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=THREADS, prefetch_factor=4)
    return rate(itertools.islice(loader, batches))


LOADERS = {
    "**dallebaby**": ours,
    "bare decoding, ours": bare_ours,
    "bare decoding, Pillow": bare_pillow,
    "webdataset + Pillow": webdataset,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pictures", type=Path, nargs="?", default=prep.STAMPS)
    parser.add_argument("--count", type=int, default=5120)
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--encoding", default="png")
    parser.add_argument("--cache", type=Path, default=prep.CACHE)
    parser.add_argument("--compete", choices=LOADERS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    batches = WARM + asked.count // BATCH
    if asked.compete:
        return print(LOADERS[asked.compete](asked.pictures, batches))
    folder = asked.cache / f"jpegs-{asked.count}"
    prep.make_data(asked.pictures, folder, asked.count)
    python = prep.others_python(asked.cache)
    rates: dict[str, list[float]] = {name: [] for name in LOADERS}
    with tempfile.TemporaryDirectory(dir=asked.cache) as home:
        command = prep.ours(folder, Path(home), asked.px, False)
        # many shards, so that webdataset has something to shuffle and to share out
        command += ["--set", f"encoding={asked.encoding}", "--set", "shard_mb=2"]
        prep.seconds(command, asked.cache / "log")
        images = Path(home) / "images" / folder.name
        for _, name in itertools.product(range(asked.rounds), LOADERS):
            runner = python if name.startswith("webdataset") else sys.executable
            script = [str(runner), __file__, str(images), "--compete", name]
            command = [*script, "--count", str(asked.count)]
            ran = subprocess.run(command, check=True, capture_output=True, text=True, env=prep.HERE)
            rates[name].append(float(ran.stdout.split()[-1]))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print(f"{asked.count:,} pictures of {asked.px} px as {asked.encoding}, {THREADS} workers\n")
    bound = max(rate for name, rate in medians.items() if name.startswith("bare"))
    print("| | images/s | of the fastest bare decoding | of webdataset |\n|---|---|---|---|")
    for name, found in medians.items():
        share, times = found / bound, found / medians["webdataset + Pillow"]
        print(f"| {name} | {found:,.0f} | {share:.2f} | {times:.2f} × |")


if __name__ == "__main__":
    main()
