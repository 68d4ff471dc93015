"""Images a second of `dallebaby prep` beside others and beside the bare work, on the same JPEGs.

All of them read the same files, keep the centre, shrink it to PX x PX and make PNGs, in one process
a core; each is timed as a whole, from the start of its program to its end, in turns, several
rounds, and medians count; the ratios leave out what starting takes (a run of a few pictures). The
bare loops decode, shrink and encode, but write nothing.

    python benchmarks/prep.py [PICTURES] [--count 5120] [--px 64] [--rounds 3]
    python benchmarks/prep.py [PICTURES] --memory 100000
    python benchmarks/prep.py [PICTURES] --beside CHECKOUT [--photos FOLDER]

PICTURES is a folder of PNGs with transparency (Debian's tuxpaint stamps, if none is named): five of
them on a blurred, noisy background make a JPEG of 640 x 480 pixels and about 80 kB. The others get
a virtual environment of their own (uv). `--memory` prints how much memory ours takes on the way,
`--beside` how much slower or faster ours is than in another checkout of it, on those JPEGs or on
the files of a folder (run by this Python, so that only `dallebaby_cli` differs).
"""

import argparse
import io
import itertools
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from multiprocessing import Pool
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BASELINES = ["img2dataset", "webdataset", "torchvision", "simplejpeg", "pyvips", "pyvips-binary"]
SIZE = (640, 480)
CORES = os.cpu_count() or 1
CACHE = Path(tempfile.gettempdir()) / "bench-prep"
BYTECODE = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(CACHE / "bytecode")}
HERE = {**os.environ, "PYTHONPATH": str(REPOSITORY), **BYTECODE}  # compiled once, as installed
STAMPS = Path("/usr/share/tuxpaint/stamps")  # of Debian's tuxpaint-stamps-default
START = 256 * CORES  # in the run that shows what starting takes: each process has work

Shrink = Callable[[bytes], bytes]  # a JPEG → a square PNG


def make(numbered: tuple[int, Path, list[Path]]) -> None:
    """Write JPEG number n: octaves of coloured noise, grain, and five stamps."""
    import numpy as np
    from PIL import Image

    number, path, stamps = numbered
    chance = np.random.default_rng(number)
    total = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
    for octave in range(1, 9):
        across = 2**octave
        layer = chance.normal(size=(across * 3 // 4 + 1, across, 3))
        layer = 128 + 40 * (0.75 * layer.mean(2, keepdims=True) + 0.25 * layer)
        small = Image.fromarray(layer.clip(0, 255).astype(np.uint8))
        total += (np.asarray(small.resize(SIZE), np.float32) - 128) * (1.8 / octave)
    total += chance.normal(size=(*total.shape[:2], 1)) * 3 + chance.uniform(60, 190, 3)
    picture = Image.fromarray(total.clip(0, 255).astype(np.uint8))
    for stamp in chance.choice(len(stamps), 5):
        with Image.open(stamps[stamp]) as opened:
            shape = opened.convert("RGBA")
        scale = chance.integers(80, 260) / max(shape.size)
        shape = shape.resize([max(1, int(side * scale)) for side in shape.size])
        left, top = chance.integers(-40, SIZE[0] - 60), chance.integers(-40, SIZE[1] - 60)
        picture.paste(shape, (int(left), int(top)), shape)
    picture.save(path, quality=90)


def make_data(pictures: Path, folder: Path, count: int) -> None:
    """The JPEGs that are not there yet."""
    stamps = sorted(pictures.rglob("*.png"))
    if not stamps:
        raise SystemExit(
            f"{pictures} holds no PNGs; name a folder that does, or install the Debian package "
            "tuxpaint-stamps-default"
        )
    paths = [folder / f"{n // 1000:03}" / f"{n:06}.jpg" for n in range(count)]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    wanted = [(n, path, stamps) for n, path in enumerate(paths) if not path.exists()]
    with Pool(CORES) as pool:
        pool.map(make, wanted, 16)


# ---------------------------------------------------------------- the bare work


def pillow(px: int) -> Shrink:
    import numpy as np
    from PIL import Image

    def shrink(content: bytes) -> bytes:
        image = Image.open(io.BytesIO(content))
        image.draft("RGB", (px * SIZE[0] // SIZE[1], px))
        side, (width, height) = min(image.size), image.size
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        small = image.resize((px, px), Image.Resampling.LANCZOS, box)
        out = io.BytesIO()
        Image.fromarray(np.asarray(small)).save(out, "PNG", compress_type=zlib.Z_RLE)
        return out.getvalue()

    return shrink


def opencv(px: int, decode: Callable[[bytes], object] | None = None) -> Shrink:
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    ratio = next((r for r in (8, 4, 2) if SIZE[1] // r >= px), 1)
    flag = getattr(cv2, f"IMREAD_REDUCED_COLOR_{ratio}") if ratio > 1 else cv2.IMREAD_COLOR

    def shrink(content: bytes) -> bytes:
        if decode is None:
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
        else:
            pixels = decode(content)
        height, width, _ = pixels.shape
        left = (width - height) // 2
        square = pixels[:, left : left + height]
        return cv2.imencode(".png", cv2.resize(square, (px, px), interpolation=cv2.INTER_AREA))[1]

    return shrink


def simplejpeg(px: int) -> Shrink:
    from functools import partial

    import simplejpeg

    size = {"min_height": px, "min_width": px, "min_factor": 1}
    fast = {"fastdct": True, "fastupsample": True, "colorspace": "BGR"}
    return opencv(px, partial(simplejpeg.decode_jpeg, **size, **fast))


def vips(px: int) -> Shrink:
    os.environ["VIPS_CONCURRENCY"] = "1"
    import pyvips

    def shrink(content: bytes) -> bytes:
        image = pyvips.Image.thumbnail_buffer(content, px, height=px, crop="centre")
        return image.pngsave_buffer(compression=1)

    return shrink


BARE = {"Pillow": pillow, "OpenCV": opencv, "simplejpeg + OpenCV": simplejpeg, "libvips": vips}


def bare(name: str, paths: list[Path], out: Path, px: int) -> int:
    shrink = BARE[name](px)
    return sum(len(shrink(path.read_bytes())) > 0 for path in paths)


# ---------------------------------------------------------------- the others


def torchvision(name: str, paths: list[Path], out: Path, px: int) -> int:
    import torch
    import webdataset
    from torchvision.io import ImageReadMode, decode_jpeg, encode_png
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(out / f"{os.getpid()}.tar")) as tar:
        for path in paths:
            data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
            pixels = decode_jpeg(data, ImageReadMode.RGB)
            square = functional.center_crop(functional.resize(pixels, [px], antialias=True), [px])
            png = encode_png(square, compression_level=1).numpy().tobytes()
            about = {"captions": [], "source": str(path)}
            tar.write({"__key__": path.stem, "png": png, "json": about})
    return len(paths)


def img2dataset(folder: Path, paths: list[Path], out: Path, px: int) -> None:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from img2dataset import download

    out.mkdir()
    (out / "list.txt").write_text("".join(f"file://{path}\n" for path in paths))
    download(
        url_list=str(out / "list.txt"),
        output_folder=str(out / "shards"),
        output_format="webdataset",
        image_size=px,
        resize_mode="center_crop",
        encode_format="png",
        encode_quality=1,
        processes_count=CORES,
        thread_count=2 * CORES,
        number_sample_per_shard=-(-len(paths) // (2 * CORES)),
        compute_hash=None,
    )


def compete(name: str, folder: Path, out: Path, px: int) -> None:
    """Be one of those beside ours, in this process and its children."""
    paths = sorted(folder.rglob("*.jpg"))
    if name == "img2dataset":
        return img2dataset(folder, paths, out, px)
    work = bare if name in BARE else torchvision
    with Pool(CORES) as pool:
        shares = [(name, paths[core::CORES], out, px) for core in range(CORES)]
        assert sum(pool.starmap(work, shares)) == len(paths)


# ---------------------------------------------------------------- the race

OURS = "**dallebaby prep**"
OURS_PLAIN = "**dallebaby prep**, near duplicates not looked for"
RACERS = (OURS_PLAIN, OURS, *BARE, "torchvision + webdataset", "img2dataset")


def ours(folder: Path, out: Path, px: int, near: bool) -> list[str]:
    command = [sys.executable, "-m", "dallebaby_cli", "--home", str(out), "--quiet", "prep"]
    return [*command, str(folder), "--px", str(px), "--set", f"near_duplicates={near}".lower()]


def others_python(cache: Path) -> Path:
    python = cache / "baselines" / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "-q", "-p", sys.executable, cache / "baselines"], check=True)
        subprocess.run(["uv", "pip", "install", "-q", "-p", python, *BASELINES], check=True)
    return python


def seconds(command: list[str], log: Path, repository: Path = REPOSITORY) -> float:
    os.sync()
    environment = HERE | {"PYTHONPATH": str(repository)}
    began = time.perf_counter()
    with log.open("wb") as out:
        ran = subprocess.run(command, stdout=out, stderr=out, env=environment, cwd=repository)
    if ran.returncode:
        raise SystemExit(f"{command} failed, see {log}")
    return time.perf_counter() - began


def race(
    folder: Path, few: Path, cache: Path, px: int, rounds: int
) -> dict[str, tuple[float, float]]:
    """Name → images a second of the whole program, and without its start: medians of all rounds.
    What the start takes is the time for the `few` pictures."""
    python, out = str(others_python(cache)), cache / "out"
    counts = {data: sum(1 for _ in data.rglob("*.jpg")) for data in (folder, few)}

    def command(name: str, data: Path) -> list[str]:
        if name in (OURS, OURS_PLAIN):
            return ours(data, out, px, name == OURS)
        script = [python, str(Path(__file__).resolve()), str(data), "--px", str(px)]
        return [*script, "--compete", name, "--out", str(out)]

    took: dict[str, list[tuple[float, float]]] = {name: [] for name in RACERS}
    for _, name in itertools.product(range(rounds), RACERS):
        times = []
        for data in (few, folder):
            shutil.rmtree(out, ignore_errors=True)
            times.append(seconds(command(name, data), cache / "log"))
        more = counts[folder] - counts[few]
        took[name].append((counts[folder] / times[1], more / (times[1] - times[0])))
        print(name, *(f"{rate:,.0f}" for rate in took[name][-1]), file=sys.stderr, flush=True)
    shutil.rmtree(out, ignore_errors=True)
    return {
        name: tuple(map(statistics.median, zip(*found, strict=True)))
        for name, found in took.items()
    }


def beside(checkout: Path, data: list[Path], cache: Path, px: int, rounds: int) -> Iterator[str]:
    """This checkout and another in turns: medians of what a run takes, on the clock and of all
    processors together, for each folder of `data`."""
    yield "| folder | checkout | seconds | processor seconds |\n|---|---|---|---|"
    out = cache / "out"
    for folder in data:
        took: dict[Path, list[tuple[float, float]]] = {checkout: [], REPOSITORY: []}
        for _, repository in itertools.product(range(rounds), took):
            shutil.rmtree(out, ignore_errors=True)
            command = ours(folder, out, px, near=True)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            clock = seconds(command, cache / "log", repository)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            took[repository].append((clock, worked))
            print(folder, repository, f"{clock:.2f} {worked:.2f}", file=sys.stderr, flush=True)
        medians = [[statistics.median(each) for each in zip(*took[r], strict=True)] for r in took]
        for name, (clock, worked) in zip(("the other", "this"), medians, strict=True):
            yield f"| {folder.name} | {name} | {clock:.2f} | {worked:.2f} |"
        ratios = [new / old for old, new in zip(*medians, strict=True)]
        yield f"| {folder.name} | this / the other | {ratios[0]:.3f} | {ratios[1]:.3f} |"
    shutil.rmtree(out, ignore_errors=True)


def table(rates: dict[str, tuple[float, float]]) -> Iterator[str]:
    fastest = max(BARE, key=lambda name: rates[name][1])
    yield "| | images/s, whole | images/s, no start | of the fastest bare loop | of img2dataset |"
    yield "|---|---|---|---|---|"
    for name, (whole, steady) in sorted(rates.items(), key=lambda item: -item[1][1]):
        label = f"bare loop, {name}" if name in BARE else name
        share, times = steady / rates[fastest][1], steady / rates["img2dataset"][1]
        yield f"| {label} | {whole:,.0f} | {steady:,.0f} | {share:.2f} | {times:.2f} × |"


def memory(folder: Path, cache: Path, count: int, px: int) -> Iterator[str]:
    """Run ours on `count` files (the same pictures again, each with other bytes at its end)."""
    originals = sorted(folder.rglob("*.jpg"))
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        many = Path(temporary) / "many"
        for number in range(count):
            path = many / f"{number // 1000:03}" / f"{number:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            content = originals[number % len(originals)].read_bytes()
            path.write_bytes(content + number.to_bytes(4))
        process = subprocess.Popen(ours(many, Path(temporary) / "home", px, True), env=HERE)
        began, seen = time.perf_counter(), []
        while process.poll() is None:
            seen.append((time.perf_counter() - began, own_megabytes(process.pid)))
            threading.Event().wait(0.5)
        assert process.returncode == 0
    yield "| part of the time | most memory, all processes |\n|---|---|"
    for tenth in range(10):
        part = [mb for at, mb in seen if tenth <= 10 * at / seen[-1][0] < tenth + 1] or [0]
        yield f"| {tenth * 10}–{tenth * 10 + 10} % | {max(part):,.0f} MB |"


def own_megabytes(pid: int) -> float:
    """Memory of a process and its children that is no mapped file."""
    total = 0.0
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        total += int(status.split("RssAnon:")[1].split()[0]) / 1e3
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except (FileNotFoundError, ProcessLookupError, IndexError):  # it has just ended
        return total
    return total + sum(own_megabytes(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pictures", type=Path, nargs="?", default=STAMPS)
    parser.add_argument("--count", type=int, default=5120)
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, metavar="COUNT")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", action="append")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--compete", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.cache = asked.cache.resolve()
    if asked.compete:
        return compete(asked.compete, asked.pictures, asked.out, asked.px)
    folder = asked.cache / f"jpegs-{asked.count}"
    make_data(asked.pictures, folder, asked.count)
    sizes = [path.stat().st_size for path in folder.rglob("*.jpg")]
    print(f"{len(sizes):,} JPEGs of 640 x 480, {statistics.mean(sizes) / 1e3:.0f} kB each, to")
    print(f"{asked.px} px, {CORES} processes, Python {platform.python_version()}\n")
    if asked.beside:
        data = [photos.resolve() for photos in asked.photos or [folder]]
        lines = beside(asked.beside.resolve(), data, asked.cache, asked.px, asked.rounds)
    elif asked.memory:
        lines = memory(folder, asked.cache, asked.memory, asked.px)
    else:
        few = asked.cache / f"jpegs-{START}"
        make_data(asked.pictures, few, START)
        lines = table(race(folder, few, asked.cache, asked.px, asked.rounds))
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
