"""What people would say of a drawn scene."""

from random import Random

EXTRA = 3  # captions beside the plain one

ONE = (
    "{a_sized} on {a_background} background",
    "{a_thing} on {a_background} background",
    "there is {a_thing}",
    "{a_sized}",
    "a picture of {a_thing}",
    "a drawing of {a_sized}",
    "{a_thing} {place}",
    "{a_sized} {place} of {a_background} picture",
    "one {thing}",
    "{a_background} picture with {a_thing}",
)
TWO = (
    "{a_second} {opposite} {a_first}",
    "{a_first} {relation} {a_second} on {a_background} background",
    "there is {a_first} {relation} {a_second}",
    "a picture of {a_first} {relation} {a_second}",
    "{a_first} and {a_second}",
    "{a_second} and {a_first}, the {second} is {opposite} the {first}",
    "{a_background} picture with {a_first} {relation} {a_second}",
)


def article(phrase: str) -> str:
    """ "red car" → "a red car", "orange fish" → "an orange fish" """
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def of_one(
    thing: str, x: float, y: float, size: float, background: str, random: Random
) -> tuple[str, ...]:
    """Captions of a picture with one thing, such as "red car"; the first is "a red car"."""
    sized = f"small {thing}" if size < 0.4 else f"big {thing}" if size > 0.62 else thing
    words = {
        "thing": thing,
        "a_thing": article(thing),
        "a_sized": article(sized),
        "a_background": article(background),
        "place": place(x, y),
    }
    return _some(article(thing), ONE, words, random)


def of_two(
    first: str, relation: str, second: str, opposite: str, background: str, random: Random
) -> tuple[str, ...]:
    """Captions of two things; the first is "a red car left of a blue house"."""
    words = {
        "first": first,
        "second": second,
        "a_first": article(first),
        "a_second": article(second),
        "relation": relation,
        "opposite": opposite,
        "a_background": article(background),
    }
    return _some(f"{article(first)} {relation} {article(second)}", TWO, words, random)


def place(x: float, y: float) -> str:
    """Where in the picture a point is: "in the top left", "at the bottom", "in the middle"."""
    across = "left" if x < 0.4 else "right" if x > 0.6 else ""
    down = "top" if y < 0.4 else "bottom" if y > 0.6 else ""
    if down and across:
        return f"in the {down} {across}"
    if across:
        return f"on the {across}"
    return f"at the {down}" if down else "in the middle"


def _some(
    plain: str, templates: tuple[str, ...], words: dict[str, str], random: Random
) -> tuple[str, ...]:
    order = random.sample(templates, len(templates))
    filled = (template.format(**words) for template in order)
    return tuple(list(dict.fromkeys((plain, *filled)))[: 1 + EXTRA])
