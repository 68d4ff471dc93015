"""What a prompt asks for, what the classifier reads off a picture, and where the two agree."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from dallebaby_cli.scenes import spec
from dallebaby_cli.scenes.captions import article
from dallebaby_cli.scenes.spec import BACKGROUNDS, COLOURS, THINGS, Pairs, Scene

UNSEEN = 2_000_000  # seed of what is asked; small ones belong to `prep`
QUESTIONS = ("thing", "colour", "background", "relation", "all")


@dataclass(frozen=True)
class Asked:
    """A prompt, and a scene that it describes."""

    prompt: str
    scene: Scene
    names_background: bool


@dataclass(frozen=True)
class Found:
    """One thing that was read off a picture."""

    thing: str
    colour: str
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """All that was read off a picture."""

    background: str
    things: tuple[Found, ...]
    """the surest first"""

    def __str__(self) -> str:
        things = " and ".join(f"{article(f'{f.colour} {f.thing}')}" for f in self.things)
        return f"{things or 'nothing'} on {self.background}"


def ask(seed: int, count: int, pairs: Pairs, things: int) -> list[Asked]:
    """Prompts for scenes of one or two things, every second one naming the background. The scenes
    are none that `prep` or the classifier's training draws."""
    drawn = (spec.scene(UNSEEN + seed, i, pairs) for i in itertools.count())
    wanted = itertools.islice((s for s in drawn if len(s.things) == things), count)
    return [_ask(scene, bool(number % 2)) for number, scene in enumerate(wanted)]


def _ask(scene: Scene, names_background: bool) -> Asked:
    prompt = spec.captions(scene, Random(0))[0]
    if names_background:
        prompt += f" on {article(scene.background)} background"
    return Asked(prompt, scene, names_background)


def labels(drawn: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the classifier is to say of B scenes: the thing of each colour, int64 (B, colours), -1
    for none; its centre, float32 (B, colours, 2); the background, int64 (B,)."""
    things = np.full((len(drawn), len(COLOURS)), -1, np.int64)
    centres = np.zeros((*things.shape, 2), np.float32)
    colours, backgrounds = list(COLOURS), list(BACKGROUNDS)
    for number, scene in enumerate(drawn):
        for placed in scene.things:
            colour = colours.index(placed.colour)
            things[number, colour] = THINGS.index(placed.thing)
            centres[number, colour] = placed.x, placed.y
    return things, centres, np.array([backgrounds.index(scene.background) for scene in drawn])


def readings(
    present: np.ndarray, things: np.ndarray, centres: np.ndarray, background: np.ndarray
) -> list[Reading]:
    """Readings of B pictures from log odds (B, colours) that there is something of a colour, which
    thing (B, colours), where (B, colours, 2) and which background (B,)."""
    colours, backgrounds = list(COLOURS), list(BACKGROUNDS)
    read = []
    for odds, which, where, behind in zip(present, things, centres, background, strict=True):
        surest = [c for c in np.argsort(-odds, kind="stable") if odds[c] > 0]
        found = (Found(THINGS[which[c]], colours[c], *map(float, where[c])) for c in surest)
        read.append(Reading(backgrounds[behind], tuple(found)))
    return read


def agreement(asked: Asked, reading: Reading) -> dict[str, bool]:
    """Which of QUESTIONS, of those that the prompt asks, the picture answers rightly.

    Things and colours are judged apart, by the surest readings, as many as were asked for; "all"
    wants nothing else in the picture, and each colour on its own thing.
    """
    wanted = asked.scene.things
    read = reading.things[: len(wanted)]
    pairs = {(w.thing, w.colour) for w in wanted}
    right = {
        "thing": sorted(f.thing for f in read) == sorted(w.thing for w in wanted),
        "colour": {f.colour for f in read} == {w.colour for w in wanted},
    }
    if asked.names_background:
        right["background"] = reading.background == asked.scene.background
    if asked.scene.relation:
        ordered = sorted(read, key=lambda f: f.colour != wanted[0].colour)
        bound = {(f.thing, f.colour) for f in read} == pairs
        right["relation"] = bound and holds(asked.scene.relation, *ordered)
    exactly = {(f.thing, f.colour) for f in reading.things} == pairs
    return {**right, "all": exactly and all(right.values())}


def holds(relation: str, first: Found, second: Found) -> bool:
    """Whether the first is on its side of the picture's middle and the second on the other, as in
    all scenes; of two things placed anywhere, one relation holds in a quarter of the pictures."""
    if relation in ("right of", "below"):
        first, second = second, first
    if relation in ("left of", "right of"):
        return first.x < 0.5 < second.x
    return first.y < 0.5 < second.y


def shares(answers: Iterable[dict[str, bool]]) -> dict[str, float]:
    """The share of right answers to each of QUESTIONS that was asked at all."""
    answers = list(answers)
    asked = {q: [a[q] for a in answers if q in a] for q in QUESTIONS}
    return {question: sum(a) / len(a) for question, a in asked.items() if a}
