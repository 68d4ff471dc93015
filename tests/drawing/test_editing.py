"""The arithmetic of editing: masks to codes, windows of a larger picture, pixels put together."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dallebaby_cli.drawing import editing
from dallebaby_cli.drawing.editing import TO_DRAW, Canvas, Edits
from dallebaby_cli.errors import UsageError

GRIDS = st.integers(1, 9)


# ---------------------------------------------------------------- masks


def touched_slowly(white: np.ndarray, grid: int) -> list[list[bool]]:
    """By laying out the middle square in parts so small that pixels and codes have whole numbers
    of them."""
    side = min(white.shape)
    fine = white.repeat(2 * grid, 0).repeat(2 * grid, 1)
    top, left = ((length - side) * grid for length in white.shape)
    step = 2 * side
    return [
        [
            bool(fine[top + y : top + y + step, left + x : left + x + step].any())
            for x in range(0, grid * step, step)
        ]
        for y in range(0, grid * step, step)
    ]


@given(height=st.integers(1, 11), width=st.integers(1, 11), grid=GRIDS, data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_code_is_touched_where_white_lies_on_any_part_of_its_square(
    height: int, width: int, grid: int, data: st.DataObject
) -> None:
    spots = st.lists(st.tuples(st.integers(0, height - 1), st.integers(0, width - 1)), max_size=4)
    white = np.zeros((height, width), bool)
    for spot in data.draw(spots):
        white[spot] = True
    assert editing.touched(white, grid).tolist() == touched_slowly(white, grid)


def test_masks_all_white_all_black_and_white_only_where_prep_crops() -> None:
    for height, width, grid in ((64, 64, 8), (5, 7, 4), (31, 31, 8), (1, 3, 2)):
        assert editing.touched(np.ones((height, width), bool), grid).all()
        assert not editing.touched(np.zeros((height, width), bool), grid).any()
    sides = np.ones((8, 24), bool)
    sides[:, 8:16] = False
    assert not editing.touched(sides, 4).any()


def test_one_white_pixel_of_a_large_mask_redraws_one_code() -> None:
    white = np.zeros((1000, 1500), bool)
    white[999, 250] = True  # the lowest, leftmost one of the square in the middle
    found = editing.touched(white, 16)
    assert found[15, 0] and found.sum() == 1


# ---------------------------------------------------------------- what is kept


CODES = torch.arange(16).view(4, 4)


def test_rows_are_kept() -> None:
    known = editing.rows_kept(CODES, 1)
    assert known[0].tolist() == [0, 1, 2, 3] and (known[1:] == TO_DRAW).all()
    for rows in (0, 4, -1):
        with pytest.raises(UsageError, match=f"--keep {rows}: .* 4 rows; keep 1 to 3"):
            editing.rows_kept(CODES, rows)
    with pytest.raises(UsageError, match="one code each, .* --outpaint or --size"):
        editing.rows_kept(CODES[:1, :1], 1)


def test_what_is_not_redrawn_is_kept() -> None:
    redrawn = np.eye(4, dtype=bool)
    known = editing.outside_kept(CODES, redrawn)
    assert (known == TO_DRAW).numpy().tolist() == redrawn.tolist()
    assert torch.equal(
        known[~torch.eye(4, dtype=torch.bool)], CODES[~torch.eye(4, dtype=torch.bool)]
    )
    assert torch.equal(CODES, torch.arange(16).view(4, 4)), "the codes themselves stay"


def test_each_seed_keeps_as_many_codes_but_others() -> None:
    known = editing.share_kept(CODES, 0.3, [5, 6, 5])
    kept = known != TO_DRAW
    assert kept.flatten(1).sum(1).tolist() == [5, 5, 5]
    assert torch.equal(known[kept], CODES.expand(3, -1, -1)[kept])
    assert torch.equal(known[0], known[2]) and not torch.equal(known[0], known[1])
    assert torch.equal(editing.share_kept(CODES, 0.3, [6])[0], known[1]), "whatever is beside it"


def test_which_codes_are_kept_is_spread_evenly() -> None:
    kept = editing.share_kept(CODES, 0.5, range(400)) != TO_DRAW
    assert (kept.float().mean(0) - 0.5).abs().max() < 0.1


def test_some_codes_are_kept_and_some_drawn_of_any_share() -> None:
    for share, count in ((1e-9, 1), (0.5, 8), (0.999, 15)):
        assert (editing.share_kept(CODES, share, [0]) != TO_DRAW).sum() == count
    for share in (0.0, 1.0, -0.5, 2.0, float("nan")):
        with pytest.raises(UsageError, match=r"--variations .* above 0 and below 1"):
            editing.share_kept(CODES, share, [0])


def test_what_is_asked_says_what_is_kept() -> None:
    photo, white = Path("photo.png"), np.eye(4, dtype=bool)
    kept = {
        "rows": Edits(image=photo, keep=3).kept(CODES, None, [0], False),
        "half": Edits(image=photo).kept(CODES, None, [0], False),
        "all": Edits(image=photo, size="32x16").kept(CODES, None, [0], True),
        "mask": Edits(image=photo, mask=photo).kept(CODES, white, [0], False),
        "varied": Edits(image=photo, variations=0.25).kept(CODES, None, [0, 1], False),
    }
    counts = {name: (known != TO_DRAW).flatten(1).sum(1).tolist() for name, known in kept.items()}
    assert counts == {"rows": [12], "half": [8], "all": [16], "mask": [12], "varied": [4, 4]}


def test_own_pixels_are_put_back_but_where_codes_were_asked_for() -> None:
    photo, white = Path("photo.png"), np.eye(4, dtype=bool)
    assert Edits(image=photo, mask=photo).pastes(white, False)
    assert Edits(image=photo, outpaint=("left", 8)).pastes(None, True)
    for codes_alone in (Edits(image=photo), Edits(image=photo, keep=1)):
        assert not codes_alone.pastes(None, False)
    assert not Edits(image=photo, variations=0.5, size="32x16").pastes(None, True)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"mask": Path("m.png")}, "--mask needs a picture to begin with: --image FILE"),
        ({"keep": 1}, "--keep needs a picture"),
        ({"variations": 0.5}, "--variations needs a picture"),
        ({"outpaint": ("left", 8)}, "--outpaint needs a picture"),
        (
            {"image": Path("p.png"), "keep": 1, "variations": 0.5},
            "--keep and --variations each say",
        ),
        ({"image": Path("p.png"), "mask": Path("m.png"), "keep": 1}, "--mask and --keep each say"),
        (
            {"image": Path("p.png"), "outpaint": ("left", 8), "size": "32x16"},
            "--outpaint and --size each say how large",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Edits(**asked)


# ---------------------------------------------------------------- a larger picture


@given(grid=st.integers(2, 9), down=st.integers(0, 20), right=st.integers(0, 20), data=st.data())
@settings(max_examples=150, deadline=None)
def test_windows_cover_the_canvas_and_each_has_a_half_of_what_came_before(
    grid: int, down: int, right: int, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, down)), data.draw(st.integers(0, right))
    canvas = Canvas(grid + down, grid + right, grid, top, left)
    windows = canvas.windows()
    assert windows[0] == (top, left) and len(set(windows)) == len(windows)
    drawn = np.zeros((canvas.rows, canvas.columns), bool)
    for number, (y, x) in enumerate(windows):
        assert 0 <= y <= down and 0 <= x <= right
        window = drawn[y : y + grid, x : x + grid]
        assert not number or window.any(0).all() or window.any(1).all()
        assert not number or 2 * window.sum() >= grid * (grid - grid % 2)
        window[:] = True
    assert drawn.all()


def test_windows_go_outwards_from_the_picture() -> None:
    wide = Canvas(4, 12, 4, left=4)
    assert [left for _, left in wide.windows()] == [4, 2, 6, 0, 8]
    assert Canvas(4, 4, 4).windows() == [(0, 0)] and Canvas(4, 4, 4).single
    assert [left for _, left in Canvas(4, 7, 4).windows()] == [0, 2, 3]


def test_outpainting_makes_room_on_one_side() -> None:
    asked = [editing.outpainted(side, 8, 4, 4) for side in editing.SIDES]
    assert asked == [
        Canvas(4, 6, 4, 0, 2),
        Canvas(4, 6, 4, 0, 0),
        Canvas(6, 4, 4, 2, 0),
        Canvas(6, 4, 4, 0, 0),
    ]
    for pixels, near in ((0, 4), (-4, 4), (7, 8), (1, 4)):
        with pytest.raises(UsageError, match=f"squares of 4 pixels, .* such as {near}$"):
            editing.outpainted("left", pixels, 4, 4)
    with pytest.raises(UsageError, match="--outpaint top: .* left, right, up, down"):
        editing.outpainted("top", 8, 4, 4)


def test_sizes_are_width_times_height_in_pixels() -> None:
    assert editing.sized("32x16", 4, 4, False) == Canvas(4, 8, 4, 0, 0)
    assert editing.sized("20X28", 4, 4, True) == Canvas(7, 5, 4, 1, 0)
    for size, near in (("33x16", "32x16"), ("16x8", "16x16"), ("0x0", "16x16"), ("8x50", "16x48")):
        with pytest.raises(UsageError, match=f"--size {size}: .* such as {near}$"):
            editing.sized(size, 4, 4, False)
    for size in ("", "16", "16x", "axb", "16 x16", "-16x16", "16x16x16", "٣٢x16", "9" * 20 + "x16"):
        with pytest.raises(UsageError, match="write it as WIDTHxHEIGHT"):
            editing.sized(size, 4, 4, False)


def test_a_canvas_holds_the_picture_where_it_lies() -> None:
    codes = Canvas(6, 7, 4, 1, 3).holding(CODES[None])
    assert codes.shape == (1, 6, 7) and torch.equal(codes[0, 1:5, 3:7], CODES)
    assert (codes != TO_DRAW).sum() == 16


# ---------------------------------------------------------------- pixels


def windows_of(canvas: Canvas, whole: np.ndarray, px: int) -> list[np.ndarray]:
    """The windows that a large picture (B, H, W, 3) is made of."""
    code_px = px // canvas.grid
    places = [(top * code_px, left * code_px) for top, left in canvas.windows()]
    return [whole[:, top : top + px, left : left + px] for top, left in places]


@given(rows=st.integers(4, 9), columns=st.integers(4, 9), code_px=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_windows_that_agree_are_joined_exactly(rows: int, columns: int, code_px: int) -> None:
    canvas = Canvas(rows, columns, 4, rows - 4, 0)
    size = (2, rows * code_px, columns * code_px, 3)
    whole = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    found = editing.joined(canvas, windows_of(canvas, whole, 4 * code_px))
    assert found.dtype == np.uint8 and np.array_equal(found, whole)


def test_windows_that_differ_pass_into_each_other() -> None:
    canvas = Canvas(4, 6, 4)
    dark, light = (np.full((1, 16, 16, 3), level, np.uint8) for level in (40, 200))
    row = editing.joined(canvas, [dark, light])[0, 7, :, 0].astype(int)
    assert (row[:8] == 40).all() and (row[16:] == 200).all()
    steps = np.diff(row[7:17])
    assert (steps > 0).all() and steps.max() < 40


def parts(canvas: Canvas, known: torch.Tensor, code_px: int) -> tuple[np.ndarray, ...]:
    """A picture, a painted canvas and what is made of both, with which pixels were drawn."""
    random = np.random.default_rng(0)
    px = canvas.grid * code_px
    picture = random.integers(0, 256, (px, px, 3), dtype=np.uint8)
    size = (2, canvas.rows * code_px, canvas.columns * code_px, 3)
    painted = random.integers(0, 256, size, dtype=np.uint8)
    drawn = (known[0] == TO_DRAW).numpy().repeat(code_px, 0).repeat(code_px, 1)
    return picture, painted, editing.pasted(canvas, painted, picture, known[0]), drawn


@pytest.mark.parametrize("code_px", [1, 2, 4, 5])
def test_what_was_drawn_stays_and_what_is_further_away_is_the_picture_itself(code_px: int) -> None:
    canvas = Canvas(6, 8, 4, 1, 2)
    known = canvas.holding(CODES[None])
    known[0, 2, 3] = TO_DRAW
    picture, painted, result, drawn = parts(canvas, known, code_px)
    assert np.array_equal(result[:, drawn], painted[:, drawn])
    top, left, px, width = code_px, 2 * code_px, 4 * code_px, code_px // 2
    spots = np.argwhere(drawn)
    for y, x in itertools.product(range(px), range(px)):
        away = np.abs(spots - (top + y, left + x)).max(1).min()
        if away > width:
            assert (result[:, top + y, left + x] == picture[y, x]).all()
        elif away:
            both = np.stack((painted[0, top + y, left + x], picture[y, x]))
            between = result[0, top + y, left + x]
            assert (both.min(0) <= between).all() and (between <= both.max(0)).all()


def test_the_seam_fades_within_half_a_code() -> None:
    canvas, known = Canvas(1, 2, 1, 0, 0), torch.tensor([[[3, TO_DRAW]]])
    painted, picture = np.full((1, 8, 16, 3), 200, np.uint8), np.zeros((8, 8, 3), np.uint8)
    row = editing.pasted(canvas, painted, picture, known[0])[0, 0, :, 0].tolist()
    assert row == [0, 0, 0, 0, 40, 80, 120, 160, *[200] * 8]


def test_all_drawn_and_all_kept_are_exact() -> None:
    canvas = Canvas(4, 4, 4)
    picture, painted, result, _ = parts(canvas, torch.full((1, 4, 4), TO_DRAW), 4)
    assert np.array_equal(result, painted)
    result = editing.pasted(canvas, painted, picture, CODES)
    assert np.array_equal(result, np.stack((picture, picture)))
