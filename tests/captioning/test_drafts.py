"""What a draft must be to become a caption."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dallebaby_cli.captioning import drafts


@pytest.mark.parametrize(
    ("draft", "labels", "reason"),
    [
        ("a polar bear on the ice", ["polar bear"], None),
        ("Two POLAR bears!", ["polar_bear"], None),
        ("the bear is polar", ["a polar bear"], None),
        ("a bear on the ice", ["polar bear"], "label lost"),
        ("a cat and a carpet", ["car"], "label lost"),
        ("a grassy field", ["grass"], "label lost"),
        ("two buses and a fox", ["bus"], None),
        ("some ponies at a church", ["churches"], None),
        ("a cat on a sofa", ["dog", "cat"], None),
        ("whatever it may be", [], None),
        ("", [], "no words"),
        ("dog", ["dog"], "no words"),
        ("a dog \ufffd\ufffd", ["dog"], "no words"),
        ("... !!! ...", [], "no words"),
        ("a dog a dog a dog", ["dog"], "goes in circles"),
        ("a dog is very very very big", ["dog"], "goes in circles"),
        ("a dog and a cat and a bird", ["dog"], None),
        ("A photo, of a DOG.", ["dog"], "repeat"),
    ],
)
def test_each_reason(draft: str, labels: list[str], reason: str | None) -> None:
    kept, dropped = drafts.sift([draft], ["a photo of a dog"], labels)
    assert (kept, dropped) == ([draft], {}) if reason is None else ([], {reason: 1})


def test_a_draft_that_repeats_another() -> None:
    kept, dropped = drafts.sift(["the  dog", "The dog.", "a dog\nruns"], [], ["dog"])
    assert kept == ["the dog", "a dog runs"] and dropped == {"repeat": 1}


@given(
    written=st.lists(st.text(max_size=30) | st.text("a b.", max_size=12), max_size=6),
    known=st.lists(st.text("ab ", max_size=6), max_size=3),
    labels=st.lists(st.sampled_from(["a", "b", "a b"]), max_size=2),
)
def test_nothing_is_lost_and_sifting_again_changes_nothing(
    written: list[str], known: list[str], labels: list[str]
) -> None:
    kept, dropped = drafts.sift(written, known, labels)
    assert len(kept) + sum(dropped.values()) == len(written)
    assert drafts.sift(kept, known, labels) == (kept, {})
    assert drafts.sift(kept, [*known, *kept], labels)[0] == []


def test_subjects() -> None:
    both = ["people wrote this", "a photo of a polar bear", "a polar bear"]
    sources = ["human", "template", "template"]
    assert drafts.subject("polar_bear", both, sources) == "a polar bear"
    assert drafts.subject("polar_bear", ["people wrote this"], ["human"]) == "a polar bear"
    assert drafts.subject(None, ["people wrote this"], ["human"]) is None
    assert drafts.subject(None, ["a red car on grass"], ["template"]) == "a red car on grass"
    assert drafts.subject(None, [], []) is None
