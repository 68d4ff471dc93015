"""The tables of photographs in miniature, and what their figures mean."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import draw_folder, make
from PIL import Image
from test_benchmarks import BENCHMARKS, ran

SMALL = ("--row", "small: model.width=8 finish.share=0.5 finish.width=8")
MINIATURE = ("--px", 32, "--minutes", 1, "--steps", 2, "--pictures", 4, "--threads", 1)
JUDGED = ("--judges", "trained", "--judge-steps", 2)


def here(home: Path, *arguments: object) -> str:
    """`dallebaby ARGUMENTS...` in this process, which has loaded torch already."""
    make(home, *arguments)
    return ""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Modules of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(__import__("baby"), "dallebaby", here)
    return __import__


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder for each of two classes; the same captions for all of a class."""
    made = tmp_path_factory.mktemp("photos")
    for name, count in (("bird", 50), ("ship", 60)):
        for path in draw_folder(made / name, count).glob("*.txt"):
            path.unlink()
    return made


@pytest.mark.slow
def test_tokenizers_of_photographs_are_compared(
    photos: Path,
    tmp_path: Path,
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = (photos, tmp_path, *MINIATURE, *JUDGED, *SMALL, "--only", "small", "vqgan")
    out = ran(BENCHMARKS / "photos_vae.py", asked, monkeypatch, capsys)
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    small, vqgan, real, blurred = rows[2:]
    assert [row[3] for row in (small, vqgan)] == ["64", "8"], "seen, the finish included"
    assert small[0].startswith("| dallebaby, model.width=8 ") and real[0] == "| real pictures"
    assert blurred[0] == "| real pictures, blurred"
    folder = tmp_path / "photos-vae" / "photos-32-2"
    assert (folder / "sheet.png").exists()
    key = json.loads((folder / "pairs.json").read_text())
    assert all({*sides.values()} == {"small", "vqgan"} for sides in key.values())
    sheet = np.array(Image.open(folder / "pairs.png"))
    rebuilt = np.load(folder / f"{key['1']['left']}-8-2steps-0" / "rebuilt.npy")[0]
    left = sheet[16 : 16 + 96 : 3, 4 : 4 + 96 : 3]
    assert (left == rebuilt.transpose(1, 2, 0)).all(), "the key says who is on the left"

    again = ran(BENCHMARKS / "photos_vae.py", asked, monkeypatch, capsys)
    assert "vqgan.py" not in again and again.splitlines()[-6:] == out.splitlines()[-6:]


@pytest.mark.slow
def test_chains_on_photographs_are_compared(
    photos: Path,
    tmp_path: Path,
    script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    smaller = ("--train", "model.dim=32", "model.depth=1", "model.heads=1")
    asked = (photos, tmp_path, *MINIATURE, *JUDGED, *SMALL, *smaller, "--drawn", 2)
    out = ran(
        BENCHMARKS / "photos.py", (*asked, "--only", "small", "diffusion"), monkeypatch, capsys
    )
    ours, diffusion = [line.split(" | ") for line in out.splitlines()[-4:-2]]
    assert ours[0].startswith("| dallebaby, ") and diffusion[0].startswith("| diffusion of pixels")
    assert all(row[-1].endswith("% |") for row in (ours, diffusion)), "the class asked for is seen"
    assert diffusion[1] == "" != diffusion[2], "it has no tokenizer"
    drawn = [*(tmp_path / "photos-chain").rglob("drawn/grid-*.png")]
    prompts = next((tmp_path / "photos-chain").rglob("prompts.txt")).read_text().splitlines()
    assert len(prompts) == len(drawn) > 1
    assert all("bird" in text or "ship" in text for text in prompts)


def test_kid_is_the_unbiased_estimate(script: Callable[[str], ModuleType]) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(5, 3)), random.normal(0.5, size=(4, 3))

    def kernel(u: np.ndarray, v: np.ndarray) -> float:
        return float((u @ v / 3 + 1) ** 3)

    within = [
        sum(kernel(u, v) for i, u in enumerate(z) for j, v in enumerate(z) if i != j)
        / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    across = np.mean([kernel(u, v) for u in x for v in y])
    found = script("photo_judges").kid(x, y)
    assert found == pytest.approx(1000 * (sum(within) - 2 * across))


def test_a_tenth_of_the_codes_is_replaced_and_always_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS / "baselines"))
    rebuilding = __import__("rebuilding")
    codes = np.zeros((100, 8, 8), np.int64)
    slipped = rebuilding.slip(codes, 1000)
    assert 0.09 < (slipped != 0).mean() < 0.11 and slipped.max() < 1000
    flat = rebuilding.slip(codes.reshape(100, 64), 1000)
    assert (flat.reshape(codes.shape) == slipped).all()


def test_real_pictures_are_blurred_to_what_a_row_reached(
    script: Callable[[str], ModuleType],
) -> None:
    compared = script("photos_vae")
    pictures = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    soft = compared.blurred(pictures, 12.0)
    assert compared.rebuilding.psnr(soft, pictures) == pytest.approx(12.0, abs=0.1)
    assert soft.std() < pictures.std()


def test_captions_are_told_to_other_programs_as_numbers_of_words(
    script: Callable[[str], ModuleType],
) -> None:
    told = script("photo_judges").words_by_number(["a red car", "a car", "car"])
    assert told.tolist() == [[1, 3, 2], [1, 2, 0], [2, 0, 0]]


def test_a_judge_needs_classes(
    tmp_path: Path, script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_folder(tmp_path / "pictures", 40)
    judges = script("photo_judges")
    photos = judges.prepare(tmp_path / "home", tmp_path / "pictures", 32, 4)
    with pytest.raises(judges.BadInput, match="a judge needs classes; give a folder for each"):
        _ = photos.classes
