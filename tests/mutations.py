"""Files as they come broken: what the fuzz tests draw from real ones, and for how long.

A fuzz test is a hypothesis test of one parser, over `mutated(real file)` or a strategy of its own,
with `@fuzz(...)` in place of `@given(...)`, in a file `tests/ROOM/test_fuzz_*.py`. Whatever comes
in, the parser returns or raises one of errors.py's; anything else fails. In CI a test draws
EXAMPLES files; `FUZZ_MINUTES=20` goes on drawing others for so long.
"""

import itertools
import os
import time
import unicodedata
from collections.abc import Callable
from functools import wraps
from typing import Any

import psutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dallebaby_cli.text import one_line

EXAMPLES = 60
MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
MOST_BYTES = 400_000_000  # that a test may have the process grow by
NASTY = [
    *(b"\0", b"\xff", b"\n", b'"', b"[", b"{", b"}", b"]", b":", b",", b"-1", b"1e999", b"NaN"),
    *(b"null", b"true", b'""', b"[]", b"{}", b"\xed\xa0\x80", "\u202e".encode(), b"\x1b[2J"),
    *(b"9" * 5000, b"[" * 5000, b"../../x", b"/dev/zero", b"\0" * 512, b"A" * 70_000),
]


@st.composite
def mutated(draw: st.DrawFn, *originals: bytes) -> bytes:
    """One of the originals with up to six changes: bytes flipped, cut out, doubled, zeroed, moved,
    or something nasty put in or in their place; often none of its end is left."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        where = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 64) | st.integers(0, max(len(content) - where, 0)))
        change = draw(
            st.sampled_from(["flip", "cut", "double", "zero", "insert", "replace", "end"])
        )
        piece = bytes(content[where : where + length])
        if change == "flip" and where < len(content):
            content[where] ^= draw(st.integers(1, 255))
        elif change == "cut":
            del content[where : where + length]
        elif change == "double":
            content[where:where] = piece
        elif change == "zero":
            content[where : where + length] = bytes(len(piece))
        elif change == "insert":
            content[where:where] = draw(st.sampled_from(NASTY))
        elif change == "replace":
            content[where : where + length] = draw(st.sampled_from(NASTY) | st.binary(max_size=16))
        elif change == "end":
            del content[where:]
    return bytes(content)


# what JSON can say, to be dumped where a parser expects other shapes
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def is_sentence(error: Exception) -> bool:
    """Whether an error can be shown as it is: one line, nothing that deceives a terminal."""
    return unicodedata.normalize("NFC", str(error)) == one_line(str(error))


def fuzz(*, examples: int = EXAMPLES, **strategies: Any) -> Callable[[Callable], Callable]:
    """Run a test on `examples` drawn inputs, or for FUZZ_MINUTES, within MOST_BYTES of memory; it
    prints how many there were."""

    def decorate(test: Callable) -> Callable:
        inputs = itertools.count()

        @wraps(test)
        def counted(*arguments: Any, **named: Any) -> None:
            next(inputs)
            test(*arguments, **named)

        many = examples if not MINUTES else 500
        checks = [
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ]
        once = settings(max_examples=many, deadline=None, suppress_health_check=checks)(
            given(**strategies)(counted)
        )

        @wraps(once)
        def lasting(*arguments: Any, **named: Any) -> None:
            end, before = time.monotonic() + 60 * MINUTES, psutil.Process().memory_info().rss
            once(*arguments, **named)
            while time.monotonic() < end:
                once(*arguments, **named)
            print(f"{test.__name__}: {next(inputs):,} inputs")
            grown = psutil.Process().memory_info().rss - before
            assert grown < MOST_BYTES, f"the process grew by {grown:,} bytes"

        return lasting

    return decorate
