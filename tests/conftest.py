"""Fixtures that many tests share: a small model with lively weights, a workspace, the real CLI."""

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

# models of tests are tiny: threads would only wait for one another, and every core has its tests
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from filelock import FileLock
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from dallebaby_cli import app
from dallebaby_cli.config import DVAEConfig, TransformerConfig
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.models import device as devices
from dallebaby_cli.models import tokenizers
from dallebaby_cli.models.digits import split
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.transformer import Pick, Transformer
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.manifest import Manifest
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.training import peak, plan

# what every training does beside learning, as short as it can be: there are hundreds of them
peak.PATIENCE_S = 0.0
plan.MAX_TIMED = 2

NATIVE_BF16 = devices.native_bf16(torch.device("cpu"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked `precisions` runs in bf16, too, where this machine computes in it."""
    if metafunc.definition.get_closest_marker("precisions"):
        here = ["fp32", *(["bf16"] if NATIVE_BF16 else [])]
        metafunc.parametrize("precision", here, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no process ends with minutes of work while others
    wait."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Bytes are named by their number: some hold the time, and every process must name alike."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `--set precision=auto` is: fp32 on every machine, but for tests marked `precisions`."""
    chosen: str = getattr(request, "param", "fp32")
    monkeypatch.setattr(devices, "native_bf16", lambda device: chosen == "bf16")
    monkeypatch.setattr(devices, "native_fp16", lambda device: False)
    return chosen


@dataclass
class Ran:
    """What one command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `dallebaby ARGUMENTS...` in this process."""

    def run(*arguments: object) -> Ran:
        code = exit_code(*arguments)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


def exit_code(*arguments: object) -> int:
    """Run `dallebaby ARGUMENTS...` in this process, to its exit code."""
    try:
        app.main([str(a) for a in arguments])
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    return 0


def make(home: Path, *arguments: object) -> None:
    """Run `dallebaby ARGUMENTS...` to its good end in this process, for what tests begin with: a
    process of its own would load torch again, for seconds."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
        code = exit_code("--home", home, *arguments)
    assert code == 0, f"{arguments}\n{err.getvalue()}"


def start(home: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start `dallebaby ARGUMENTS...` in a process of its own, for tests that kill it."""
    return subprocess.Popen(
        [sys.executable, "-m", "dallebaby_cli", "--home", str(home), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(home: Path, *arguments: object, expect: int = 0) -> Ran:
    """Run `dallebaby ARGUMENTS...` to its end in a process of its own."""
    process = start(home, *arguments)
    out, err = process.communicate()
    assert process.returncode == expect, f"{arguments}\n{out}\n{err}"
    return Ran(process.returncode, out, err)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Where FAIL_ON_SKIP is set (CI), a test that skips has failed: nothing is left unproven."""
    report = yield
    if report.skipped and os.environ.get("FAIL_ON_SKIP"):
        report.outcome = "failed"
        report.longrepr = f"skipped where every test must run: {report.longrepr}"
    return report


def photographs(name: str) -> Path:
    """An archive of real photographs, which lie beside the checkout and are no part of it."""
    path = Path(__file__).parents[2] / "shared" / "data" / name
    if not path.exists():
        pytest.skip(f"no {path}: real photographs are not part of the repository")
    return path


def same(a: dict, b: dict) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


SHAPES = {"circle": ImageDraw.ImageDraw.ellipse, "square": ImageDraw.ImageDraw.rectangle}


def draw_folder(folder: Path, count: int, px: int = 40) -> Path:
    """A folder of small pictures of shapes, each with its captions beside it."""
    folder.mkdir(parents=True)
    random = Random(0)
    for number in range(count):
        shape, colour = random.choice([*SHAPES]), random.choice(["red", "green", "blue", "gold"])
        picture = Image.new("RGB", (px, px), random.choice(["white", "black", "#ddeeff"]))
        left, top, side = random.randrange(px // 2), random.randrange(px // 2), px // 3
        SHAPES[shape](ImageDraw.Draw(picture), (left, top, left + side, top + side), fill=colour)
        picture.save(folder / f"{number:04}.png")
        (folder / f"{number:04}.txt").write_text(f"a {colour} {shape}\nthe {shape} is {colour}\n")
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder that is filled by the first of the test processes that asks for it, for all."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, fill: Callable[[Path], None]) -> Path:
        made, whole = base / name, base / f"{name}.whole"
        with FileLock(base / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(made, ignore_errors=True)
                made.mkdir()
                fill(made)
                whole.touch()
        return made

    return folder


@pytest.fixture(scope="session")
def prepared(made_once: Callable[..., Path]) -> Path:
    """A workspace with 400 prepared pictures of 32 px; copy it before changing it."""

    def fill(folder: Path) -> None:
        shapes = draw_folder(folder / "shapes", 400)
        make(folder / "home", "prep", shapes, "--px", "32", "--workers", "1")

    return made_once("prepared", fill) / "home"


@pytest.fixture(scope="session")
def trained(prepared: Path, made_once: Callable[..., Path]) -> Path:
    """A workspace with every artefact, hardly trained: vae/v, its tokens, dalle/d; copy it before
    changing it."""

    def fill(folder: Path) -> None:
        home = shutil.copytree(prepared, folder / "home")
        short = ("--preset", "tiny", "--steps", 4)
        make(home, "train-vae", *short, "--run", "v")
        make(home, "encode")
        make(home, "train", *short, "--run", "d")

    return made_once("trained", fill) / "home"


def give_decoder(home: Path, run: str, name: str) -> Path:
    """vae/NAME: the encoder and codes of the dVAE vae/RUN with a decoder of its own, which was
    trained for another loss."""
    folder, old = home / "vae" / name, home / "vae" / run
    shape = tokenizers.config_of(weights.read_model(old, "vae")["model"], old)
    torch.manual_seed(7)
    model = DVAE(replace(shape, loss="laplace"))
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    kept = {n: t for n, t in load_file(old / "model.safetensors").items() if n[:8] != "decoder."}
    weights.save_weights(folder / "model.safetensors", model.state_dict() | kept)
    identity = weights.write_model(folder, "vae", {"model": model.describe()})
    parents = {f"vae/{run}": weights.model_id(old)}
    about = Manifest(kind="vae", name=name, id=identity, complete=True, parents=parents)
    manifest.write(folder, about)
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 300 real photographs of 32 px in class folders, 30 a class."""
    folder = tmp_path_factory.mktemp("photographs")
    with zipfile.ZipFile(photographs("cifar10-photos.zip")) as archive:
        for name in archive.namelist():
            if name.startswith("train/") and name.endswith(".jpg") and Path(name).stem < "0030":
                archive.extract(name, folder)
    return folder / "train"


KINDS = {"whole": ((), ()), "digits": ((8, 6, 5), ()), "digits of numbers": ((48, 5), (8, 6, 5))}
"""Digits and numbers of the 240 codes of a `lively_sampler`."""


def lively_sampler(
    digits: tuple[int, ...] = (), any_order: bool = False, numbers: tuple[int, ...] = ()
) -> Sampler:
    """A model with lively random weights, ready to draw 240 codes, whole or in such digits, read by
    themselves or by such numbers, in raster order or in any."""
    torch.manual_seed(1)
    tokenizer = TextTokenizer.train(["a red car", "a blue house left of a green tree"], 300)
    shape = TransformerConfig(
        text_tokens=10,
        vocabulary=tokenizer.vocabulary,
        dim=48,
        depth=3,
        heads=3,
        dropout=0,
        codes=240,
        digits=digits,
        numbers=numbers,
        grid=4,
        any_order=any_order,
    )
    model = Transformer(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vae = DVAE(DVAEConfig(image_px=16, grid=4, width=8, depth=1, levels=(8, 6, 5)))
    return Sampler(model.eval(), vae.eval(), tokenizer)


@pytest.fixture(scope="session")
def sampler() -> Sampler:
    """One that predicts codes whole; do not change it."""
    return lively_sampler()


def forced(model: Transformer, codes: torch.Tensor, logits: list[torch.Tensor]) -> Pick:
    """What picks codes (B,) that are given, and notes the logits (B, R) of all their digits."""
    digits = split(codes, model.config.radices)
    found: list[torch.Tensor] = []

    def pick(number: int, of_digit: torch.Tensor) -> torch.Tensor:
        found.append(of_digit)
        if number == len(digits) - 1:
            logits.append(torch.cat(found, dim=-1))
        return digits[number]

    return pick


@pytest.fixture(scope="session")
def model(sampler: Sampler, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that draws 16 px pictures of 4 x 4 codes."""
    return save_model(sampler, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def free_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise, of a model that knows codes in any order."""
    return save_model(lively_sampler(any_order=True), tmp_path_factory.mktemp("free"))


def save_model(sampler: Sampler, folder: Path) -> Path:
    """The folder, filled as `train` does but for the manifest."""
    weights.save_weights(folder / "model.safetensors", sampler.model.state_dict())
    weights.save_weights(folder / "vae.safetensors", sampler.image_tokenizer.state_dict())
    sampler.text_tokenizer.save(folder / "tokenizer.json")
    shapes = {"model": asdict(sampler.model.config), "vae": sampler.image_tokenizer.describe()}
    weights.write_model(folder, "dalle", shapes)
    return folder
