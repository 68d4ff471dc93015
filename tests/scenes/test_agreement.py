"""Agreement is counted as a person would count it; labels and readings are each other's mirror."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dallebaby_cli.scenes import spec
from dallebaby_cli.scenes.agreement import (
    Asked,
    Found,
    Reading,
    agreement,
    ask,
    labels,
    readings,
    shares,
)
from dallebaby_cli.scenes.spec import BACKGROUNDS, COLOURS, HELD_OUT_PAIRS, OPPOSITE, Placed, Scene

CAR, TREE = Placed("car", "red", 0.2, 0.6, 0.3), Placed("tree", "green", 0.8, 0.4, 0.3)
RED_CAR, GREEN_TREE = Found("car", "red", 0.2, 0.6), Found("tree", "green", 0.8, 0.4)
ONE = Asked("a red car on a sand background", Scene("sand", (CAR,)), True)
TWO = Asked("…", Scene("sand", (CAR, TREE), "left of"), False)


@pytest.mark.parametrize(
    "things, background, thing, colour, everything",
    [
        ([RED_CAR], "sand", True, True, True),
        ([RED_CAR], "peach", True, True, False),
        ([RED_CAR, GREEN_TREE], "sand", True, True, False),  # there is more than was asked for
        ([GREEN_TREE, RED_CAR], "sand", False, False, False),  # the surest counts
        ([Found("car", "blue", 0.2, 0.6)], "sand", True, False, False),
        ([Found("cup", "red", 0.2, 0.6)], "sand", False, True, False),
        ([], "sand", False, False, False),
    ],
)
def test_one_thing(
    things: list[Found], background: str, thing: bool, colour: bool, everything: bool
) -> None:
    right = agreement(ONE, Reading(background, tuple(things)))
    assert right == {
        "thing": thing,
        "colour": colour,
        "background": background == "sand",
        "all": everything,
    }


@pytest.mark.parametrize(
    "things, right",
    [
        ([RED_CAR, GREEN_TREE], "thing colour relation all"),
        ([GREEN_TREE, RED_CAR], "thing colour relation all"),
        ([RED_CAR, replace(GREEN_TREE, x=0.1)], "thing colour"),
        ([replace(RED_CAR, x=0.9), replace(GREEN_TREE, x=0.1)], "thing colour"),
        # each colour on the other thing
        ([replace(RED_CAR, colour="green"), replace(GREEN_TREE, colour="red")], "thing colour"),
        ([RED_CAR, replace(GREEN_TREE, thing="car")], "colour"),
        ([RED_CAR, GREEN_TREE, Found("cup", "blue", 0.5, 0.5)], "thing colour relation"),
        ([RED_CAR], ""),
    ],
)
def test_two_things(things: list[Found], right: str) -> None:
    found = agreement(TWO, Reading("peach", tuple(things)))
    assert {question for question, yes in found.items() if yes} == set(right.split())
    assert "background" not in found, "nobody asked for one"


def perfect(drawn: list[Scene]) -> list[Reading]:
    """What a classifier that makes no mistakes reads."""
    things, centres, background = labels(drawn)
    return readings(np.where(things >= 0, 1.0, -1.0), things, centres, background)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["seen", "held-out", "any"]))
def test_a_perfect_reader_finds_what_was_drawn(index: int, pairs: spec.Pairs) -> None:
    drawn = spec.scene(5, index, pairs)
    (reading,) = perfect([drawn])
    assert all(agreement(Asked("", drawn, True), reading).values())
    if drawn.relation:  # and that reader cannot be told the opposite
        wrong = replace(drawn, relation=OPPOSITE[drawn.relation])
        assert not agreement(Asked("", wrong, True), reading)["relation"]


def test_what_is_asked_for() -> None:
    seen, held_out, two = ask(0, 200, "seen", 1), ask(0, 200, "held-out", 1), ask(0, 200, "seen", 2)
    for asked, unseen in ((seen, False), (held_out, True), (two, False)):
        pairs = {(p.thing, p.colour) for a in asked for p in a.scene.things}
        assert pairs <= HELD_OUT_PAIRS if unseen else not pairs & HELD_OUT_PAIRS
        for number, a in enumerate(asked):
            assert all(f"{p.colour} {p.thing}" in a.prompt for p in a.scene.things)
            assert a.names_background == bool(number % 2)
            assert (f"{a.scene.background} background" in a.prompt) == a.names_background
            assert (a.scene.relation or "") in a.prompt
    assert {(p.thing, p.colour) for a in held_out for p in a.scene.things} == HELD_OUT_PAIRS
    assert seen == ask(0, 200, "seen", 1) != ask(1, 200, "seen", 1)
    assert {a.scene.background for a in held_out} == set(BACKGROUNDS), "each shows some such pair"


def test_shares_are_of_those_that_were_asked() -> None:
    assert shares([{"thing": True, "background": False}, {"thing": False}]) == {
        "thing": 0.5,
        "background": 0.0,
    }


def test_a_reading_can_be_read() -> None:
    assert str(Reading("sand", (RED_CAR, GREEN_TREE))) == "a red car and a green tree on sand"
    assert str(Reading("dark blue", ())) == "nothing on dark blue"
    assert len(COLOURS) == len(set(COLOURS))
