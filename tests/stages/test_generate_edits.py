"""`generate` with a picture to begin with, or of another size: what is kept is kept, the rest is
drawn from it, and files say how."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Ran, run
from PIL import Image
from test_generate import drawn, pixels, refused, text

from dallebaby_cli.config import SampleConfig, settings
from dallebaby_cli.drawing import editing, panorama
from dallebaby_cli.drawing.editing import TO_DRAW, Canvas
from dallebaby_cli.drawing.panorama import Panorama
from dallebaby_cli.drawing.pretrained import from_pretrained
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.prep.images import decode
from dallebaby_cli.store.pictures import GAP

Cli = Callable[..., Ran]
PX, GRID, CODE = 16, 4, 4  # of the model; pixels of a code


@pytest.fixture
def generate(cli: Cli, free_model: Path, tmp_path: Path) -> Cli:
    """Run `dallebaby generate "a red car" ARGUMENTS...` with a model that knows any order."""
    draw = ("--home", tmp_path, "generate", "a red car", "--model", free_model, "--seed", 3)
    return lambda *given: cli(*draw, *given)


@pytest.fixture
def free(free_model: Path) -> Sampler:
    return from_pretrained(free_model, "cpu")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of the model's own size, so that its pixels stay as they are."""
    return picture(tmp_path / "photo.png", PX, PX)


def picture(path: Path, width: int, height: int) -> Path:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def mask(path: Path, width: int, height: int, *white: tuple[int, int, int, int]) -> Path:
    """A black picture with white boxes: left, top, right, bottom."""
    found = Image.new("L", (width, height))
    for box in white:
        found.paste(255, box)
    found.save(path)
    return path


def known_of(about: dict[str, str], rows: int = GRID, columns: int = GRID) -> torch.Tensor:
    """The known codes (1, R, C) that a picture says it began with."""
    return torch.tensor([int(code) for code in about["known"].split()]).view(1, rows, columns)


def drawn_again(free: Sampler, about: dict[str, str], known: torch.Tensor) -> torch.Tensor:
    """Codes (1, R, C) of a picture, from what it says of itself."""
    _, rows, columns = known.shape
    config = settings.build(SampleConfig, json.loads(about["sampling"]))
    top, left = (int(where.min()) for where in (known[0] != TO_DRAW).nonzero().T)
    whole = (known != TO_DRAW).any() and (rows, columns) != (GRID, GRID)
    canvas = Canvas(rows, columns, GRID, *((top, left) if whole else (0, 0)))
    plan = Panorama(free, canvas, config, known)
    return plan.sketch([about["prompt"]], 1, int(about["seed"])).codes


# ---------------------------------------------------------------- masks


def test_a_jpeg_without_its_end_mark_is_taken_as_prep_takes_it(
    generate: Cli, tmp_path: Path
) -> None:
    whole, cut, torn = (tmp_path / f"{name}.jpg" for name in ("whole", "cut", "torn"))
    with Image.open(picture(tmp_path / "photo.png", 40, 30)) as photo:
        photo.save(whole, quality=95)
    cut.write_bytes(whole.read_bytes().removesuffix(b"\xff\xd9"))
    torn.write_bytes(whole.read_bytes()[:-400])
    right = mask(tmp_path / "mask.png", 40, 30, (20, 0, 40, 30))
    for way in ((), ("--mask", right), ("--outpaint", "down", 4)):
        pictures = []
        for path in (whole, cut):
            out = tmp_path / f"{path.stem}-{len(way)}.png"
            ran = generate("-n", 1, "--image", path, *way, "--out", out)
            assert ran.code == 0, ran.err
            pictures.append(out.read_bytes())
        assert pictures[0] == pictures[1]
        refused(generate("-n", 1, "--image", torn, *way), 1, "torn.jpg cannot be used (truncated")
    refused(generate("-n", 1, "--image", whole, "--mask", torn), 1, "torn.jpg cannot be used")


@pytest.mark.parametrize("steps", [(), ("--steps", 2)])
def test_what_a_mask_leaves_black_stays_and_the_rest_is_drawn_around_it(
    generate: Cli, free: Sampler, photo: Path, tmp_path: Path, steps: tuple[object, ...]
) -> None:
    white = mask(tmp_path / "mask.png", PX, PX, (5, 5, 8, 9))  # of a code and the one below
    facts = drawn(generate("--image", photo, "--mask", white, "-n", 3, *steps, "--json"))
    given, own = decode(photo.read_bytes(), PX), free.encode(pixels(photo))
    redrawn = torch.zeros((GRID, GRID), dtype=torch.bool)
    redrawn[1:3, 1] = True
    results = []
    for path in map(Path, facts["pictures"]):
        about, result = text(path), pixels(path)
        known = known_of(about)
        assert torch.equal(known[0] == TO_DRAW, redrawn)
        assert torch.equal(known[0][~redrawn], own[~redrawn])
        assert about["pasted"] == hashlib.sha256(given.tobytes()).hexdigest()
        codes = drawn_again(free, about, known)
        assert torch.equal(codes[0][~redrawn], own[~redrawn])
        painted = free.paint(codes)
        assert np.array_equal(result, editing.pasted(Canvas(4, 4, 4), painted, given, known[0])[0])
        assert np.array_equal(result[4:12, 4:8], painted[0, 4:12, 4:8]), "as it is painted"
        far = np.ones((PX, PX), bool)
        far[2:14, 2:10] = False  # half a code around
        assert np.array_equal(result[far], given[far]), "its own pixels"
        results.append(result)
    assert not np.array_equal(results[0], results[1])


@pytest.mark.parametrize("size", [1, 2])
def test_how_many_are_drawn_at_a_time_changes_none(
    generate: Cli, photo: Path, tmp_path: Path, size: int
) -> None:
    edits = (
        ("--mask", mask(tmp_path / "mask.png", PX, PX, (3, 3, 11, 7))),
        ("--variations", 0.4),
        ("--outpaint", "left", 8),
    )
    for number, edit in enumerate(edits):
        grids = [tmp_path / str(size) / f"{number}.png", tmp_path / "all" / f"{number}.png"]
        for out, batch in zip(grids, (f"batch_size={size}", "batch_size=3"), strict=True):
            asked = ("--image", photo, *edit, "-n", 3, "--steps", 3, "--set", batch, "--out", out)
            assert generate(*asked).code == 0
        assert grids[0].read_bytes() == grids[1].read_bytes()


@pytest.mark.parametrize(
    ("size", "of_mask", "box", "codes"),
    [
        ((37, 23), (37, 23), (7, 0, 8, 1), {(0, 0)}),  # the first pixel of the middle square
        ((37, 23), (37, 23), (0, 0, 7, 23), set()),  # left of it
        ((37, 23), (74, 46), (36, 22, 38, 24), {(1, 1), (1, 2), (2, 1), (2, 2)}),
        ((23, 37), (5, 8), (0, 0, 1, 8), {(row, 0) for row in range(4)}),
        ((16, 16), (500, 500), (499, 499, 500, 500), {(3, 3)}),
    ],
)
def test_masks_of_odd_sizes_are_cropped_as_the_picture_is(
    generate: Cli,
    tmp_path: Path,
    size: tuple[int, int],
    of_mask: tuple[int, int],
    box: tuple[int, int, int, int],
    codes: set[tuple[int, int]],
) -> None:
    asked = ("--image", picture(tmp_path / "p.png", *size), "--mask")
    ran = generate(*asked, mask(tmp_path / "m.png", *of_mask, box), "-n", 1, "--json")
    if not codes:
        refused(ran, 2, "m.png: nothing is white in the part of it", "make white what")
        return
    (path,) = drawn(ran)["pictures"]
    to_draw = (known_of(text(Path(path)))[0] == TO_DRAW).nonzero().tolist()
    assert {(row, column) for row, column in to_draw} == codes


def test_a_white_mask_draws_all_and_a_black_one_is_refused(
    generate: Cli, photo: Path, tmp_path: Path
) -> None:
    white = mask(tmp_path / "white.png", 31, 31, (0, 0, 31, 31))
    black = mask(tmp_path / "black.png", 31, 31)
    (anew,) = drawn(generate("--image", photo, "--mask", white, "-n", 1, "--json"))["pictures"]
    (plain,) = drawn(generate("-n", 1, "--json"))["pictures"]
    assert anew != plain and np.array_equal(pixels(Path(anew)), pixels(Path(plain)))
    there = sorted((tmp_path / "samples").iterdir())
    refused(generate("--image", photo, "--mask", black), 2, "--mask", "black.png: nothing is white")
    larger = ("--image", photo, "--mask", black, "--outpaint", "right", 8)
    refused(generate(*larger), 2, "--mask", "black.png: nothing is white")
    assert sorted((tmp_path / "samples").iterdir()) == there


def test_what_is_transparent_is_drawn_where_nothing_else_is_asked(
    generate: Cli, photo: Path, tmp_path: Path
) -> None:
    layer = Image.open(photo).convert("RGBA")
    layer.paste((0, 0, 0, 0), (9, 0, 10, 16))
    clear = tmp_path / "clear.png"
    layer.save(clear)
    (path,) = drawn(generate("--image", clear, "-n", 1, "--json"))["pictures"]
    about, result = text(Path(path)), pixels(Path(path))
    to_draw = known_of(about)[0] == TO_DRAW
    assert to_draw[:, 2].all() and to_draw.sum() == GRID
    assert np.array_equal(result[:, :6], pixels(photo)[:, :6])
    (path,) = drawn(generate("--image", clear, "--keep", 1, "-n", 1, "--json"))["pictures"]
    assert len(text(Path(path))["kept"].split()) == GRID and "known" not in text(Path(path))
    opaque = tmp_path / "opaque.png"
    layer.putalpha(200)
    layer.save(opaque)
    (path,) = drawn(generate("--image", opaque, "-n", 1, "--json"))["pictures"]
    assert len(text(Path(path))["kept"].split()) == 2 * GRID, "the upper half"


# ---------------------------------------------------------------- variations


def test_variations_keep_a_share_of_codes_each_another(
    generate: Cli, free: Sampler, photo: Path
) -> None:
    facts = drawn(generate("--image", photo, "--variations", 0.5, "-n", 3, "--json"))
    own = free.encode(pixels(photo))
    for path in map(Path, facts["pictures"]):
        about = text(path)
        assert [int(code) for code in about["varied"].split()] == own.flatten().tolist()
        share, seed = float(about["variations"]), int(about["seed"])
        known = editing.share_kept(own, share, [seed])
        assert (known != TO_DRAW).sum() == 8
        codes = drawn_again(free, about, known)
        assert torch.equal(codes[known != TO_DRAW], known[known != TO_DRAW])
        assert np.array_equal(free.paint(codes)[0], pixels(path)), "painted throughout"


# ---------------------------------------------------------------- larger pictures


@pytest.mark.parametrize(
    ("side", "size", "corner"),
    [
        ("left", (28, 16), (0, 12)),
        ("right", (28, 16), (0, 0)),
        ("up", (16, 28), (12, 0)),
        ("down", (16, 28), (0, 0)),
    ],
)
def test_outpainting_keeps_the_picture_and_goes_on(
    generate: Cli,
    free: Sampler,
    photo: Path,
    side: str,
    size: tuple[int, int],
    corner: tuple[int, int],
) -> None:
    facts = drawn(generate("--image", photo, "--outpaint", side, 12, "-n", 2, "--json"))
    given, (top, left) = pixels(photo), corner
    for path in map(Path, facts["pictures"]):
        about, result = text(path), pixels(path)
        assert result.shape == (size[1], size[0], 3) and about["size"] == f"{size[0]}x{size[1]}"
        inner = result[top : top + PX, left : left + PX]
        far = {"left": np.s_[:, 2:], "right": np.s_[:, :-2], "up": np.s_[2:], "down": np.s_[:-2]}
        assert np.array_equal(inner[far[side]], given[far[side]])
        known = known_of(about, size[1] // CODE, size[0] // CODE)
        codes = drawn_again(free, about, known)
        assert (codes >= 0).all()
        assert torch.equal(codes[known != TO_DRAW], known[known != TO_DRAW])
        canvas = Canvas(size[1] // CODE, size[0] // CODE, GRID, top // CODE, left // CODE)
        painted = panorama.paint(free, canvas, codes)
        assert np.array_equal(result, editing.pasted(canvas, painted, given, known[0])[0])


def test_a_panorama_begins_as_a_picture_does_and_goes_on_from_half_of_it(
    generate: Cli, free: Sampler
) -> None:
    facts = drawn(generate("--size", "40x24", "-n", 2, "--json"))
    assert pixels(Path(facts["grid"])).shape == (24, 2 * 40 + GAP, 3)
    config = SampleConfig()
    plan = Panorama(free, Canvas(6, 10, GRID), config)
    codes = plan.sketch(["a red car"], 2, 3).codes
    assert torch.equal(codes[:, :4, :4], free.sketch("a red car", 2, 3).codes)
    window = codes[:, :4, 2:6].clone()
    window[:, :, 2:] = TO_DRAW
    seeds = [3 + panorama.APART, 4 + panorama.APART]
    again = free.draw(["a red car"] * 2, seeds, config, window)
    assert torch.equal(again, codes[:, :4, 2:6]), "by seeds of its own"
    painted = panorama.paint(free, plan.canvas, codes)
    for path, expected in zip(facts["pictures"], painted, strict=True):
        assert np.array_equal(pixels(Path(path)), expected)
        assert text(Path(path))["size"] == "40x24"


def test_a_picture_with_a_size_lies_in_its_middle_masked_or_not(
    generate: Cli, photo: Path, tmp_path: Path
) -> None:
    around = ("--image", photo, "--size", "24x32", "-n", 1, "--json")
    (path,) = drawn(generate(*around))["pictures"]
    assert np.array_equal(pixels(Path(path))[10:22, 6:18], pixels(photo)[2:14, 2:14])
    hole = mask(tmp_path / "m.png", PX, PX, (0, 0, 4, 4))
    (path,) = drawn(generate(*around, "--mask", hole))["pictures"]
    to_draw = known_of(text(Path(path)), 8, 6)[0] == TO_DRAW
    assert to_draw.sum() == 8 * 6 - 16 + 1 and to_draw[2, 1]


def test_the_best_panoramas_are_those_whose_windows_fit_best(free: Sampler) -> None:
    plan = Panorama(free, Canvas(4, 8, GRID), SampleConfig(top_k=20))
    prompts = ["a red car", "a green tree"]
    every, best = plan.sketch(prompts, 4, 3), plan.sketch(prompts, 4, 3, best=2)
    wanted = [prompt for prompt in prompts for _ in range(4)]
    windows = (every.codes[:, :, left : left + 4] for left in (0, 2, 4))
    scores = torch.stack([free.score(wanted, codes.contiguous()) for codes in windows]).sum(0)
    for number in range(2):
        part = scores[4 * number : 4 * number + 4]
        expected = [3 + 4 * number + place for place in part.argsort(descending=True)[:2].tolist()]
        assert best.seeds[2 * number : 2 * number + 2] == expected
    for seed, codes in zip(best.seeds, best.codes, strict=True):
        assert torch.equal(codes, every.codes[seed - 3])


def test_an_animation_shows_a_panorama_coming_about(
    generate: Cli, photo: Path, tmp_path: Path
) -> None:
    out, animation = tmp_path / "g.png", tmp_path / "g.gif"
    asked = ("--image", photo, "--outpaint", "right", 16, "--steps", 4, "-n", 2)
    assert generate(*asked, "--out", out, "--progressive", animation).code == 0
    grid = pixels(out).astype(int)
    with Image.open(animation) as frames:
        assert frames.n_frames == 1 + 2 * 4, "two windows of four passes"
        assert frames.size == (2 * 32 + GAP, 16)
        first = np.asarray(frames.convert("RGB")).astype(int)
        assert np.abs(first[:, :14] - grid[:, :14]).mean() < 20, "what is kept is there at once"
        frames.seek(frames.n_frames - 1)
        assert np.abs(np.asarray(frames.convert("RGB")).astype(int) - grid).mean() < 30


def test_two_processes_draw_the_same_panorama(
    generate: Cli, free_model: Path, photo: Path, tmp_path: Path
) -> None:
    asked = ("--image", photo, "--variations", 0.5, "--size", "24x16", "-n", 3, "--best", 2)
    assert generate(*asked, "--out", tmp_path / "one.png", "--device", "cpu").code == 0
    there = ("generate", "a red car", "--model", free_model, "--seed", 3, "--device", "cpu")
    run(tmp_path, *there, *asked, "--out", tmp_path / "two.png", "--processes", 2)
    for end in (".png", "-00.png", "-01.png"):
        assert (tmp_path / f"one{end}").read_bytes() == (tmp_path / f"two{end}").read_bytes()


# ---------------------------------------------------------------- what is refused


def test_a_model_of_raster_order_goes_on_downwards_alone(
    cli: Cli, model: Path, photo: Path, tmp_path: Path
) -> None:
    def draw(*given: object) -> Ran:
        return cli("--home", tmp_path, "generate", "a", "--model", model, "-n", 1, *given)

    hole = mask(tmp_path / "m.png", PX, PX, (0, 0, 4, 4))
    for asked in (("--mask", hole), ("--variations", 0.5), ("--outpaint", "up", 8)):
        refused(draw("--image", photo, *asked), 2, "learned raster order alone", "random_order")
    refused(draw("--size", "24x16"), 2, "learned raster order alone")
    assert not (tmp_path / "samples").exists()
    (path,) = drawn(draw("--image", photo, "--outpaint", "down", 12, "--json"))["pictures"]
    assert np.array_equal(pixels(Path(path))[:14], pixels(photo)[:14])
    (path,) = drawn(draw("--size", "16x32", "--json"))["pictures"]
    assert pixels(Path(path)).shape == (32, 16, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--mask", "{photo}"), 2, ["--mask needs a picture to begin with", "--image"]),
        (("--image", "{photo}", "--mask", "{text}"), 1, ["--mask", "text.txt cannot be used"]),
        (("--image", "{photo}", "--mask", "{wide}"), 1, ["40 x 20 pixels", "16 x 16", "shape"]),
        (("--image", "{photo}", "--mask", "{missing}"), 2, ["--mask", "missing.png"]),
        (("--image", "{photo}", "--keep", 2, "--variations", 0.5), 2, ["--keep and --variations"]),
        (("--image", "{photo}", "--variations", 1), 2, ["--variations 1: ", "below 1"]),
        (("--image", "{photo}", "--outpaint", "left", 9), 2, ["--outpaint left 9", "such as 8"]),
        (("--image", "{photo}", "--outpaint", "up", "4" * 400), 2, ["--outpaint up: give fewer"]),
        (("--image", "{photo}", "--outpaint", "in", 8), 2, ["--outpaint in: ", "left, right"]),
        (("--image", "{photo}", "--outpaint", "up", -4), 2, ["--outpaint up -4", "such as 4"]),
        (
            ("--image", "{photo}", "--outpaint", "up", 4, "--outpaint", "left", 4),
            2,
            ["--outpaint adds to one side", "--size"],
        ),
        (("--size", "24"), 2, ["--size 24: write it as WIDTHxHEIGHT"]),
        (("--size", "25x16"), 2, ["--size 25x16", "multiples of 4", "such as 24x16"]),
        (("--size", "8x16"), 2, ["--size 8x16", "16 or more", "such as 16x16"]),
        (("--size", "400000000x400000000"), 1, ["of memory", "smaller ones"]),
        (("--image", "{photo}", "--steps", 17), 2, ["--steps 17", "16 codes"]),
    ],
)
def test_bad_edits_are_one_sentence(
    generate: Cli,
    photo: Path,
    tmp_path: Path,
    arguments: tuple[object, ...],
    code: int,
    words: list[str],
) -> None:
    places = {"photo": photo, "text": tmp_path / "text.txt", "missing": tmp_path / "missing.png"}
    places["wide"] = mask(tmp_path / "wide.png", 40, 20)
    places["text"].write_text("a red car\n")
    refused(generate(*(str(a).format(**places) for a in arguments)), code, *words)
    assert not (tmp_path / "samples").exists()
