"""Pictures that one dataset trains on and another one, of the same run, holds out."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NAMES = ("key", "group")


def leaks(datasets: Sequence[pa.Table]) -> list[np.ndarray]:
    """Of each dataset, which rows (bool) are in training there though the picture, or one that
    is nearly the same, is held out in any of them.

    The tables have the columns key, split ("train" or "holdout") and group (shared by near
    duplicates within a dataset). Two groups that have a picture in common are one.
    """
    kept_out = [pc.equal(table["split"], "holdout") for table in datasets]
    found, before, names = kept_out, 0, _names(datasets, kept_out)
    while len(names) > before:  # what is in a group with one of them is one of them
        found = [pc.or_(*(pc.is_in(table[c], names) for c in NAMES)) for table in datasets]
        before, names = len(names), _names(datasets, found)
    return [pc.and_not(rows, out).to_numpy() for rows, out in zip(found, kept_out, strict=True)]


def _names(datasets: Sequence[pa.Table], rows: Sequence[pa.ChunkedArray]) -> pa.Array:
    """Keys and groups of some rows (bool) of each dataset."""
    parts = [t[c].filter(chosen) for t, chosen in zip(datasets, rows, strict=True) for c in NAMES]
    return pc.unique(pa.chunked_array([chunk for p in parts for chunk in p.chunks], pa.string()))
