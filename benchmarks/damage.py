"""How much damage to JPEGs `prep` notices, and whether it refuses any that are whole.

    python benchmarks/damage.py PATH... [--most 2000]

PATH is a folder or a zip with JPEGs. All are decoded; then up to MOST are damaged, at a place of
their compressed data that chance chooses. An error is how far the picture, at 64 px, is from the
whole one on average, in levels of 255.
"""

import argparse
import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dallebaby_cli.prep import images, kinds
from dallebaby_cli.prep.images import Rejected

PX = 64
WAYS = ("a bit flipped", "100 bytes zeroed", "100 bytes cut out", "16 bytes put in")


def files(path: Path) -> Iterator[bytes]:
    if path.is_file():
        with zipfile.ZipFile(path) as opened:
            yield from (opened.read(name) for name in opened.namelist() if name[-1] != "/")
    else:
        yield from (found.read_bytes() for found in sorted(path.rglob("*")) if found.is_file())


def damaged(content: bytes, way: str, chance: random.Random) -> bytes:
    start = content.rfind(b"\xff\xda") + 14
    at = chance.randrange(start, max(start + 1, len(content) - 102))
    if way == "a bit flipped":
        return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
    if way == "16 bytes put in":
        return content[:at] + chance.randbytes(16).replace(b"\xff", b"\0") + content[at:]
    gap = bytes(100) if way == "100 bytes zeroed" else b""
    return content[:at] + gap + content[at + 100 :]


def shown(content: bytes) -> np.ndarray:
    """What a decoder that hears no warning shows."""
    with Image.open(io.BytesIO(content)) as opened:
        return np.asarray(opened.convert("RGB").resize((PX, PX)), float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--most", type=int, default=2000)
    asked = parser.parse_args()
    chance, count = random.Random(0), 0
    sample, refused = list[bytes](), dict[str, int]()
    for content in (content for path in asked.paths for content in files(path)):
        if kinds.of(content[: kinds.BEGINNING]) != "JPEG":
            continue
        try:
            images.decode(content, PX)
        except Rejected as rejected:
            refused[rejected.reason] = refused.get(rejected.reason, 0) + 1
            continue
        count += 1
        if len(sample) < asked.most:
            sample.append(content)
        elif (place := chance.randrange(count)) < asked.most:
            sample[place] = content
    print(f"{count:,} whole JPEGs taken, others refused: {refused or 'none'}\n")
    print("| damage | refused | median error of these | median error of those taken |")
    print("|---|---|---|---|")
    for way in WAYS:
        errors: dict[bool, list[float]] = {True: [], False: []}
        for content in sample:
            hurt = damaged(content, way, chance)
            try:
                images.decode(hurt, PX)
                noticed = False
            except Rejected:
                noticed = True
            try:
                errors[noticed].append(float(np.abs(shown(hurt) - shown(content)).mean()))
            except OSError:  # nobody can show it
                errors[noticed].append(255.0)
        share = len(errors[True]) / len(sample)
        known, unknown = (np.median(errors[noticed] or [0]) for noticed in (True, False))
        print(f"| {way} | {share:.0%} | {known:.1f} | {unknown:.1f} |")


if __name__ == "__main__":
    main()
