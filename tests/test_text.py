"""What outside text becomes before it is stored or shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dallebaby_cli.text import clean, one_line


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a red car", "a red car"),
        ("cafe\u0301", "café"),
        ("half \ud800 pair", "half � pair"),
        ("\ud83d\ude00", "😀"),
        ("nul\0 bell\a \x1b[2Jcleared", "nul bell [2Jcleared"),
        ("in\u202evoice\u200b\ufeff", "invoice"),
        ("👨\u200d👩 می\u200cخواهم", "👨\u200d👩 می\u200cخواهم"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_text_is_cleaned(text: str, kept: str) -> None:
    assert clean(text) == kept


@given(text=st.text(st.characters()))
def test_clean_text_is_utf_8_and_stays(text: str) -> None:
    kept = clean(text)
    assert kept.encode().decode() == kept == clean(kept)


def test_one_line_is_one_line() -> None:
    assert one_line(" a\r\n b\u2028c\x85\td ") == "a b c d"
    assert one_line("a\rb\x0bc\x1cd\x85e") == "a b c d e"
