"""The embedded dataset: the same everywhere, true to its captions, readable by its own ruler."""

import hashlib
import subprocess
import sys
from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dallebaby_cli.scenes import spec
from dallebaby_cli.scenes.captions import article
from dallebaby_cli.scenes.spec import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    OPPOSITE,
    THINGS,
    Placed,
    Scene,
)

SCENES = [spec.scene(0, index) for index in range(20_000)]


def test_another_process_draws_the_same() -> None:
    code = (
        "import hashlib; from dallebaby_cli.scenes import spec\n"
        "drawn = [spec.draw(7, i, 48) for i in range(40)]\n"
        "print(hashlib.sha256(b''.join(p.tobytes() + str(c).encode() for p, c in drawn))"
        ".hexdigest())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    drawn = [spec.draw(7, i, 48) for i in range(40)]
    here = hashlib.sha256(b"".join(p.tobytes() + str(c).encode() for p, c in drawn)).hexdigest()
    assert ran.stdout.strip() == here


def test_held_out_pairs_never_occur_and_everything_else_does() -> None:
    assert ("car", "red") in HELD_OUT_PAIRS and len(HELD_OUT_PAIRS) >= 6
    seen = Counter((p.thing, p.colour) for scene in SCENES for p in scene.things)
    assert set(seen) == set(product(THINGS, COLOURS)) - HELD_OUT_PAIRS
    assert {scene.background for scene in SCENES} == set(BACKGROUNDS)
    assert {scene.relation for scene in SCENES} == {None, *OPPOSITE}
    alone = sum(scene.relation is None for scene in SCENES) / len(SCENES)
    assert 0.68 < alone < 0.76
    assert len(THINGS) >= 12 and len(COLOURS) >= 10


def test_things_stay_inside_and_relations_are_true() -> None:
    for scene in SCENES:
        for placed in scene.things:
            half = placed.size / 2
            assert -1e-9 <= placed.x - half and placed.x + half <= 1 + 1e-9
            assert -1e-9 <= placed.y - half and placed.y + half <= 1 + 1e-9
            assert 0.25 <= placed.size <= 0.8
        if scene.relation:
            a, b = scene.things
            apart = (a.size + b.size) / 2 - 1e-9
            true = {
                "left of": b.x - a.x >= apart,
                "right of": a.x - b.x >= apart,
                "above": b.y - a.y >= apart,
                "below": a.y - b.y >= apart,
            }
            assert true[scene.relation] and a.colour != b.colour


@given(st.integers(0, 10**6), st.integers(0, 10**9), st.integers(8, 96))
@settings(deadline=None, max_examples=60)
def test_pictures_and_captions_fit_their_spec(seed: int, index: int, px: int) -> None:
    scene = spec.scene(seed, index)
    picture, captions = spec.draw(seed, index, px)
    assert picture.shape == (px, px, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, spec.render(scene, px))
    assert len(set(captions)) == len(captions) == 4
    phrases = [f"{p.colour} {p.thing}" for p in scene.things]
    plain = [article(phrase) for phrase in phrases]
    assert captions[0] == (f" {scene.relation} ".join(plain))
    for caption in captions:
        assert all(phrase in caption for phrase in phrases)
        words = caption.split()
        for word, following in pairwise(words):
            if word in ("a", "an"):
                assert word == ("an" if following[0] in "aeiou" else "a"), caption


def test_both_sides_of_a_relation_are_told() -> None:
    told = Counter()
    for index, scene in enumerate(SCENES[:3000]):
        if scene.relation:
            first, second = (article(f"{p.colour} {p.thing}") for p in scene.things)
            captions = spec.draw(0, index, 8)[1]
            told["forth"] += f"{first} {scene.relation} {second}" in captions
            told["back"] += f"{second} {OPPOSITE[scene.relation]} {first}" in captions
    assert told["forth"] > 700 and told["back"] > 200


def test_colours_are_read_right_off_real_pictures_and_blurred_ones() -> None:
    random = np.random.default_rng(0)
    right = blurred_right = count = 0
    for thing, colour, background in product(THINGS, COLOURS, BACKGROUNDS):
        if colour not in spec.visible_colours(background):
            continue
        size = random.uniform(0.25, 0.8)
        x, y = random.uniform(size / 2, 1 - size / 2, 2)
        picture = spec.render(Scene(background, (Placed(thing, colour, x, y, size),)), 64)
        small = Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR)
        blurred = np.asarray(small.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
        noisy = (blurred + random.integers(-8, 9, blurred.shape)).clip(0, 255)
        count += 1
        right += spec.colour_of(picture) == colour
        blurred_right += spec.colour_of(noisy.astype(np.uint8)) == colour
    assert right / count >= 0.99
    assert blurred_right / count >= 0.97


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_picture_has_no_colour(background: str) -> None:
    assert spec.colour_of(spec.render(Scene(background, ()), 64)) is None


def test_prompts_are_of_the_kind_that_was_asked_for() -> None:
    for held_out in (False, True):
        for prompt, colour in spec.prompts(0, 50, held_out):
            thing = prompt.removeprefix(article(colour)).strip()
            assert prompt == article(f"{colour} {thing}")
            assert ((thing, colour) in HELD_OUT_PAIRS) == held_out
    assert spec.prompts(3, 10) == spec.prompts(3, 10) != spec.prompts(4, 10)
