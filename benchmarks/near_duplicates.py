"""Our near-duplicate prints beside the hashes of cv2.img_hash, imagehash and pdqhash.

Each picture is changed as copies on the web are, and made into the 64 px square that prep looks at;
a change is found if its hash is within the method's limit of the original's. Beside its customary
limit every method gets the one at which it calls no more pairs of different pictures the same than
ours does at its own. Pairs that look alike pixel by pixel are not counted as different; the same
drawing in other colours is. Times are one core's, from a 64 px picture to its hash.

    python benchmarks/near_duplicates.py FOLDER... [--pictures 2000]

Methods whose library is not installed are left out (`pip install imagehash pdqhash
opencv-contrib-python-headless`).
"""

import argparse
import importlib.util
import io
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dallebaby_cli.prep import archives, duplicates, images

PX = 64
MAX_PIXELS = 1_000_000  # of a picture, so that this ends soon
ALIKE = 20  # levels (root mean square) under which two pictures are not surely different

Hash = Callable[[np.ndarray], bytes | None]


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        return Image.open(out).convert("RGB")

    return change


def brighter(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.point(lambda level: min(255, int(level * factor)))


def cropped(left: float, right: float) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        return image.crop(
            (
                round(width * left),
                round(height * left),
                round(width * (1 - right)),
                round(height * (1 - right)),
            )
        )

    return change


def marked(image: Image.Image) -> Image.Image:
    """A small watermark in a corner."""
    copy = image.copy()
    width, height = copy.size
    size = max(6, height // 16)
    at = (int(width * 0.68), int(height * 0.9))
    ImageDraw.Draw(copy).text(at, "(c) somebody", "white", font_size=size, stroke_width=1,
                              stroke_fill="black")  # fmt: skip
    return copy


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "jpeg 90": jpeg(90),
    "jpeg 60": jpeg(60),
    "jpeg 40": jpeg(40),
    "−20 % light": brighter(0.8),
    "+20 % light": brighter(1.2),
    "crop 3 %": cropped(0.015, 0.015),
    "crop 5 %": cropped(0.025, 0.025),
    "one-sided 3 %": cropped(0.03, 0),
    "watermark": marked,
}


def by_cv2(method: Any, pixels: np.ndarray) -> bytes:
    return method.compute(pixels).tobytes()


def by_imagehash(side: int, pixels: np.ndarray) -> bytes:
    import imagehash

    return np.packbits(imagehash.phash(Image.fromarray(pixels), side).hash).tobytes()


def methods() -> dict[str, tuple[Hash, int]]:
    """Name → a picture's hash, the limit in bits that is customary."""
    found: dict[str, tuple[Hash, int]] = {"ours": (duplicates.fingerprint, duplicates.FAR)}
    if importlib.util.find_spec("cv2"):
        import cv2

        for name, made, limit in (
            ("cv2 pHash", cv2.img_hash.PHash_create(), 8),
            ("cv2 BlockMeanHash", cv2.img_hash.BlockMeanHash_create(0), 31),
            ("cv2 BlockMeanHash 1", cv2.img_hash.BlockMeanHash_create(1), 116),
            ("cv2 MarrHildrethHash", cv2.img_hash.MarrHildrethHash_create(), 104),
            ("cv2 AverageHash", cv2.img_hash.AverageHash_create(), 5),
        ):
            found[name] = (partial(by_cv2, made), limit)
    if importlib.util.find_spec("imagehash"):
        for side, limit in ((8, 8), (16, 31)):
            found[f"imagehash.phash {side}"] = (partial(by_imagehash, side), limit)
    if importlib.util.find_spec("pdqhash"):
        import pdqhash

        found["pdqhash"] = (lambda pixels: np.packbits(pdqhash.compute(pixels)[0]).tobytes(), 31)
    return found


def square(image: Image.Image) -> np.ndarray:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=0)
    return images.decode(out.getvalue(), PX)


def pictures(folders: list[Path]) -> Iterator[Image.Image]:
    """All pictures of at least twice PX, shuffled, opened as prep opens them."""
    found = [m for folder in folders for m in archives.members(folder) if m.is_picture]
    random.Random(0).shuffle(found)
    for member in found:
        try:
            with Image.open(io.BytesIO(member.content())) as image:
                wide = max(image.size) > images.MAX_RATIO * min(image.size)
                if min(image.size) < 2 * PX or wide or image.width * image.height > MAX_PIXELS:
                    continue
                opened = images._to_rgb(image, None).convert("RGB")  # a copy that outlives the file
        except (OSError, Image.DecompressionBombError):
            continue
        yield opened


def distances(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.bitwise_count(one ^ others).sum(-1, dtype=np.int64)


def pairs_apart(squares: np.ndarray) -> np.ndarray:
    """Whether two pictures surely differ, bool (N, N)."""
    flat = squares.reshape(len(squares), -1, 3).mean(-1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    norms = (flat**2).sum(1)
    squared = (norms[:, None] + norms[None] - 2 * flat @ flat.T) / flat.shape[1]
    return np.triu(squared > ALIKE**2, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--pictures", type=int, default=2000)
    arguments = parser.parse_args()
    first: list[np.ndarray] = []
    changed: dict[str, list[np.ndarray]] = {name: [] for name in CHANGES}
    for image in itertools.islice(pictures(arguments.folders), arguments.pictures):
        first.append(square(image))
        for name, change in CHANGES.items():
            changed[name].append(square(change(image)))
    squares = np.stack(first)
    apart = pairs_apart(squares)
    print(f"{len(squares):,} pictures, {apart.sum():,} pairs of different ones\n")
    columns = ["method", "bits", "µs", "limit", "false per million", *CHANGES]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    allowed = None  # share of different pairs that ours, the first, calls the same
    for name, (hashed, customary) in methods().items():
        prints, told = as_array([hashed(pixels) for pixels in squares])
        false = false_pairs(prints, told, apart)
        allowed = false[customary] if allowed is None else allowed
        evened = int(np.searchsorted(false, allowed, side="right")) - 1
        again = [as_array([hashed(p) for p in others]) for others in changed.values()]
        facts = [name, str(8 * prints.shape[1]), f"{microseconds(hashed, squares[:500]):.0f}"]
        for limit in sorted({customary, evened} - {-1}):
            noted = [f"{limit}" + " (evened)" * (limit != customary), f"{1e6 * false[limit]:.1f}"]
            for others, seen in again:
                near = told & seen & (distances(prints, others) <= limit)
                noted.append(f"{100 * near.mean():.1f}")
            print("| " + " | ".join([*facts, *noted]) + " |", flush=True)


def false_pairs(prints: np.ndarray, told: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """The share of different pairs within each limit."""
    counted = np.zeros(8 * prints.shape[1] + 1, np.int64)
    for row in np.flatnonzero(told):
        others = prints[apart[row] & told]
        counted += np.bincount(distances(prints[row], others), minlength=len(counted))
    return np.cumsum(counted) / counted.sum()


def microseconds(hashed: Hash, squares: np.ndarray) -> float:
    took = []
    for _ in range(5):
        began = time.process_time()
        for pixels in squares:
            hashed(pixels)
        took.append((time.process_time() - began) / len(squares) * 1e6)
    return statistics.median(took)


def as_array(hashes: list[bytes | None]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes, uint8 (N, bytes), and which of them there are."""
    told = np.array([h is not None for h in hashes])
    width = max(len(h) for h in hashes if h is not None)
    content = b"".join(h or bytes(width) for h in hashes)
    return np.frombuffer(content, np.uint8).reshape(-1, width), told


if __name__ == "__main__":
    main()
