"""Near duplicates: the same picture again, only scaled, recompressed, brightened or cropped a bit.

A picture's print is the signs of its lowest frequencies around their median, 256 bits, the core of
PDQ (Facebook, "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm", 2019);
prints at most 31 bits apart are the same picture, as PDQ recommends. (pdqhash itself has no wheels
for Linux, imagehash takes ten times as long.)
"""

from collections import defaultdict

import numpy as np
from PIL import Image

SIDE = 64  # pixels a side that are looked at
WAVES = 16  # frequencies a side that are kept
PRINT_BYTES = WAVES * WAVES // 8
FAR = 31  # bits; further apart is another picture
FLAT = 16  # levels of green from the least to the most; below it a print would be noise
GREY = ((0.299,), (0.587,), (0.114,))  # how bright red, green and blue look
BAND_BYTES = 2  # prints are compared if they share a band: near ones nearly always do
NEIGHBOURS = 32  # in a band's order that each print is compared with

_places = np.arange(SIDE)[None] + 0.5
_waves = np.cos(np.pi / SIDE * np.arange(1, WAVES + 1)[:, None] * _places).astype(np.float32)
_grey_waves = np.kron(_waves.T, GREY).astype(np.float32)  # (columns x colours, waves)
_ones = np.array([i.bit_count() for i in range(1 << 16)], np.uint8)


def fingerprint(pixels: np.ndarray) -> bytes | None:
    """The print of a picture, uint8 RGB (H, W, 3); None if there is too little to see."""
    if pixels.shape[:2] != (SIDE, SIDE):
        small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = np.asarray(small)
    green = pixels[:, :, 1]
    if int(green.max()) - int(green.min()) < FLAT:
        return None
    strengths = (_waves @ pixels.reshape(SIDE, -1).astype(np.float32) @ _grey_waves).ravel()
    middle = np.partition(strengths, strengths.size // 2)[strengths.size // 2]
    return np.packbits(strengths > middle).tobytes()


def group(prints: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """For each picture, the index of its group's leader (itself if it is alone).

    `prints` is uint8 (pictures, 32), `ranks` any order of the pictures: the first leads a group of
    all that are near to it, then the first of the rest, so that no chain of small steps ties
    different pictures together.
    """
    _, same = np.unique(prints.view(f"S{PRINT_BYTES}")[:, 0], return_inverse=True)
    later_first = np.argsort(ranks)[::-1]
    first = np.empty(same.max() + 1, np.int64)  # of the pictures with equal prints
    first[same[later_first]] = later_first
    near = _near(prints[first])
    leader = np.arange(len(first))
    free = set(near)
    for one in sorted(near, key=lambda index: ranks[first[index]]):
        if one in free:
            followers = near[one] & free
            leader[list(followers)] = one
            free -= {one, *followers}
    return first[leader[same]]


def _near(prints: np.ndarray) -> dict[int, set[int]]:
    """Each picture that has near ones → those."""
    found: dict[int, set[int]] = defaultdict(set)
    words = np.ascontiguousarray(prints).view(np.uint16)
    for band in range(0, prints.shape[1], BAND_BYTES):
        turned = np.ascontiguousarray(np.roll(prints, -band, axis=1))
        order = np.argsort(turned.view(f"S{PRINT_BYTES}")[:, 0], kind="stable")
        key = words[order, band // BAND_BYTES]
        for step in range(1, NEIGHBOURS + 1):
            (same,) = np.nonzero(key[step:] == key[:-step])
            if not len(same):
                break
            one, other = order[same], order[same + step]
            close = _ones[words[one] ^ words[other]].sum(axis=1, dtype=np.uint16) <= FAR
            for a, b in zip(one[close].tolist(), other[close].tolist(), strict=True):
                found[a].add(b)
                found[b].add(a)
    return dict(found)
