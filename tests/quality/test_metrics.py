"""Figures against their plain definitions."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dallebaby_cli.quality import metrics


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 6), st.integers(1, 9), st.integers(1, 5), st.integers(1, 10))
def test_nearest_is_the_least_share_of_differing_codes(
    data: st.DataObject, count: int, known_count: int, places: int, chunk: int
) -> None:
    near = st.sampled_from([0, 1, 2, 65535])
    codes = data.draw(arrays(np.uint16, (count, places), elements=near))
    known = data.draw(arrays(np.uint16, (known_count, places), elements=near))
    told: list[int] = []
    parts = (known[start : start + chunk] for start in range(0, known_count, chunk))
    found, place = metrics.nearest(torch.from_numpy(codes.astype(np.int64)), parts, told.append)
    slow = [
        min(sum(a != b for a, b in zip(row, other, strict=True)) for other in known) / places
        for row in codes
    ]
    np.testing.assert_allclose(found, slow, rtol=1e-6)
    first = [int((known != row).mean(1).argmin()) for row in codes]
    assert place.tolist() == first
    assert told[-1] == known_count


def test_neighbouring_codes_are_as_different_as_any() -> None:
    known = np.array([[65534, 7]], np.uint16)
    assert metrics.nearest(torch.tensor([[65535, 7], [0, 7]]), [known])[0].tolist() == [0.5, 0.5]
