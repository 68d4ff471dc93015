"""How many codes a picture gets, and of how many, where nobody says: by its size, fewer where it is
a drawn scene; of more where it is a photograph."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Ran, draw_folder

from dallebaby_cli.config import PrepConfig, settings
from dallebaby_cli.errors import Mismatch, UsageError
from dallebaby_cli.progress import ignore
from dallebaby_cli.stages import train_vae
from dallebaby_cli.stages.prep import prep
from dallebaby_cli.store import manifest
from dallebaby_cli.training import identity, peak

Cli = Callable[..., Ran]
CPU = torch.device("cpu")
SMALL = ("model.width=8", "batch_size=4", "eval_images=4")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with pictures and drawn scenes of several sizes, called by them."""
    folder = tmp_path_factory.mktemp("grid")
    shapes = draw_folder(folder / "shapes", 12, px=64)
    for name, source, px in (
        *((f"shapes{px}", str(shapes), px) for px in (32, 34, 48, 64, 128)),
        *((f"drawn{px}", "scenes", px) for px in (32, 64, 128)),
    ):
        asked = PrepConfig(image_px=px, limit=12, workers=1)
        prep(folder / "home", source, asked, name=name, report=ignore)
    return folder / "home"


def prepare(home: Path, *names: str, sets: tuple[str, ...] = (), **more: str) -> train_vae.VaeTask:
    config = settings.load("train-vae", preset="scenes", settings=[*SMALL, *sets])
    return train_vae.prepare(home, config, [*names], device=CPU, report=ignore, **more)[0]


@pytest.mark.parametrize(
    ("names", "grid"),
    [
        *((["shapes32"], 8), (["shapes48"], 12), (["shapes64"], 16), (["shapes128"], 16)),
        *((["drawn32"], 8), (["drawn64"], 8), (["drawn128"], 16)),
        (["drawn64", "shapes64"], 16),
    ],
)
def test_pictures_choose_their_grid(home: Path, names: list[str], grid: int) -> None:
    task = prepare(home, *names)
    pictures = task.batch(0)[0]
    assert task.model.encode(pictures).shape == (4, grid, grid)
    assert task.config.model.grid == task.model.describe()["grid"] == grid


def test_whoever_chooses_one_has_it_and_names_do_not_tell_who_chose(home: Path) -> None:
    chosen = prepare(home, "shapes64", sets=("model.grid=8",))
    assert chosen.config.model.grid == 8
    for name, usual in (("shapes32", 8), ("shapes64", 16), ("drawn64", 8)):
        one, other = prepare(home, name), prepare(home, name, sets=(f"model.grid={usual}",))
        names = [identity.name([name], "scenes", task.config, {}) for task in (one, other)]
        assert names[0] == names[1] and one.config == other.config


@pytest.fixture(scope="module")
def photos(home: Path, photo_folder: Path) -> str:
    """Photographs in that workspace."""
    asked = PrepConfig(image_px=32, limit=12, workers=1)
    prep(home, str(photo_folder), asked, name="photos32", report=ignore)
    return "photos32"


def test_photographs_choose_more_codes(home: Path, photos: str) -> None:
    many, few = (8, 8, 8, 5, 5, 5), (8, 5, 5, 5)
    for name, levels in ((photos, many), ("shapes32", few), ("drawn32", few)):
        task = prepare(home, name)
        assert task.config.model.levels == task.model.levels == levels
        assert task.model.codes == math.prod(levels)
        assert task.model.encode(task.batch(0)[0]).max() < task.model.codes
    chosen = prepare(home, photos, sets=("model.levels=[8,6,5]",))
    assert chosen.model.codes == 240
    learned = prepare(home, photos, sets=("model.quantizer=vq",))
    assert (learned.config.model.levels, learned.model.levels) == (few, ())


def test_a_run_keeps_the_levels_that_it_was_begun_with(home: Path, photos: str, cli: Cli) -> None:
    def levels(*arguments: object) -> list[int]:
        sets = (word for setting in SMALL for word in ("--set", setting))
        asked = ("train-vae", photos, "--preset", "scenes", "--set", "finish.share=0", *arguments)
        ran = cli("--home", home, "--device", "cpu", *asked, *sets, "--json")
        assert ran.code == 0, ran.err
        folder = Path(json.loads(ran.out)["folder"])
        return json.loads((folder / "config.json").read_text())["model"]["levels"]

    few, many = [8, 5, 5, 5], [8, 8, 8, 5, 5, 5]
    assert levels("--run", "few", "--steps", 1, "--set", "model.levels=[8,5,5,5]") == few
    assert levels("--run", "few", "--steps", 2) == few
    assert levels("--run", "from-few", "--from", "few", "--steps", 1) == few
    assert levels("--run", "many", "--steps", 1) == many


def test_a_size_that_no_grid_suits_is_refused_with_advice(home: Path) -> None:
    words = r"model.grid=0: pictures of 34 px cannot be .* about 8 x 8 codes; .* --px, such as 32"
    with pytest.raises(UsageError, match=words):
        prepare(home, "shapes34")
    assert prepare(home, "shapes34", sets=("model.grid=17",)).config.model.grid == 17


def test_a_run_keeps_the_grid_that_it_was_begun_with(home: Path, cli: Cli) -> None:
    """As those do that an older version began, which took 8 x 8 codes whatever the pictures."""

    def train(*arguments: object) -> dict:
        sets = (word for setting in SMALL for word in ("--set", setting))
        asked = ("train-vae", "shapes64", "--preset", "scenes", *arguments, *sets)
        ran = cli("--home", home, "--device", "cpu", *asked, "--json")
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    def grid(folder: str) -> int:
        found = manifest.read(Path(folder))
        said = json.loads((Path(folder) / "config.json").read_text())
        assert found and found.config["model"]["grid"] == said["model"]["grid"]
        return said["model"]["grid"]

    old = train("--run", "old", "--steps", 1, "--set", "model.grid=8")["folder"]
    assert train("--run", "old", "--steps", 1)["fresh"] is False
    assert train("--run", "old", "--steps", 2)["fresh"] is True and grid(old) == 8
    assert grid(train("--from", "old", "--steps", 1)["folder"]) == 8
    assert grid(train("--steps", 1)["folder"]) == 16
    with pytest.raises(Mismatch, match="a code for every 8 x 8 pixels, which does not divide"):
        prepare(home, "shapes34", start_from="old")
    assert prepare(home, "shapes128", start_from="old").config.model.grid == 16


def test_doctor_says_the_grid_and_estimates_with_it(
    home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak, "PATIENCE_S", 0.0)
    small = (*SMALL, "steps=2", "model.dim=32", "model.heads=2", "model.depth=1")
    sets = [word for setting in small for word in ("--set", setting)]
    for name, side in (("shapes64", 16), ("drawn64", 8)):
        ran = cli("--home", home, "doctor", name, "--preset", "scenes", "--json", *sets)
        facts = json.loads(ran.out)
        (row,) = (check for check in facts["checks"] if check["name"] == f"images/{name}")
        assert row["found"].endswith(f"64 px, {side} x {side} codes each")
        dalle = facts["runs"][1]
        assert dalle["units_per_s"] * dalle["step_s"] == pytest.approx(4 * (20 + side**2))
