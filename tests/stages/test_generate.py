"""`generate` as people use it: where prompts come from, what is left behind, what is refused."""

import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Ran, run
from PIL import Image

from dallebaby_cli.config import SampleConfig, settings
from dallebaby_cli.drawing.pretrained import from_pretrained
from dallebaby_cli.drawing.sampler import Sampler, Sketch, first_rows
from dallebaby_cli.errors import Interrupted
from dallebaby_cli.models.tokenizers.image_tokenizer import GREY
from dallebaby_cli.prep.images import decode
from dallebaby_cli.progress import Event, Progress
from dallebaby_cli.stages import generate as stage
from dallebaby_cli.store import weights
from dallebaby_cli.store.pictures import GAP

Cli = Callable[..., Ran]


@pytest.fixture
def generate(cli: Cli, model: Path, tmp_path: Path) -> Cli:
    """Run `dallebaby generate ARGUMENTS...` with that model."""
    return lambda *given: cli("--home", tmp_path, "generate", "--model", model, *given)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Put bytes on stdin."""
    return lambda content: monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    )


def text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG."""
    with Image.open(path) as picture:
        picture.load()
        return dict(picture.text)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def drawn(ran: Ran) -> dict:
    """The facts of a run with --json that went well."""
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def refused(ran: Ran, code: int, *words: str) -> None:
    """The run failed with one line that says these words, and wrote no picture."""
    (line,) = (row for row in ran.err.splitlines() if row.lower().startswith("error: "))
    assert ran.code == code and all(word in line for word in words), ran.err
    assert "Traceback" not in ran.err


# ---------------------------------------------------------------- prompts


def prompts_of(ran: Ran) -> list[str]:
    return [text(Path(path))["prompt"] for path in drawn(ran)["pictures"]]


def test_prompts_come_from_arguments_files_and_pipes(
    generate: Cli, pipe: Callable[[bytes], None], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa green tree\r\n\n  ¿un árbol?  \n".encode())
    short = ("-n", 1, "--json")
    assert prompts_of(generate("a car", "--file", file, *short)) == [
        *("a car", "a green tree", "¿un árbol?")
    ]
    pipe(b"a house\na car\n")
    assert prompts_of(generate(*short)) == ["a house", "a car"]
    pipe(b"a house\n")
    assert prompts_of(generate("a tree", "-", *short)) == ["a tree", "a house"]
    pipe(b"not read\n")
    assert prompts_of(generate("a tree", *short)) == ["a tree"]


@pytest.mark.parametrize(
    "prompt", ["😀", "красная машина", "赤い車", "سيارة حمراء", "\u200b", "%s"]
)
def test_any_script_makes_a_picture(generate: Cli, prompt: str) -> None:
    assert prompts_of(generate(prompt, "-n", 1, "--json")) == [prompt]


def test_rare_words_and_long_prompts_are_drawn_and_told(generate: Cli) -> None:
    ran = generate("a RED zebu, a car", "an okapi (red)", "-n", 1)
    assert ran.code == 0
    assert "seldom or never met: zebu, an, okapi\n" in ran.err
    assert "seldom" not in generate("a blue house left of a tree", "-n", 1).err
    long = "a red car " * 3334
    ran = generate(long, "-n", 1, "--json")
    assert prompts_of(ran) == [long]
    assert "is cut to the 10 tokens" in ran.err and "a red car a red car" in ran.err


# ---------------------------------------------------------------- what is left behind


def test_metadata_suffices_to_draw_a_picture_again(
    generate: Cli, model: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.effect_noise((40, 24), 90).convert("RGB").save(photo)
    options = ("--guidance", 2, "--top-k", 50, "--set", "guidance_ramp=0.5", "--best", 2)
    ran = generate(
        "a red car", "a tree", "-n", 5, *options, "--image", photo, "--keep", 2, "--json"
    )
    facts = drawn(ran)
    assert pixels(Path(facts["grid"])).shape == (2 * 16 + GAP, 2 * 16 + GAP, 3)
    sampler = from_pretrained(model)
    top = sampler.encode(decode(photo.read_bytes(), 16))[:2]
    for path in map(Path, facts["pictures"]):
        about = text(path)
        assert about["model"] == weights.model_id(model)
        kept = torch.tensor([int(code) for code in about["kept"].split()]).view(-1, 4)
        assert torch.equal(kept, top)
        config = settings.build(SampleConfig, json.loads(about["sampling"]))
        codes = sampler.draw([about["prompt"]], [int(about["seed"])], config, first_rows(kept))
        assert np.array_equal(sampler.paint(codes)[0], pixels(path))


def test_settings_that_came_later_are_told_where_they_are_set() -> None:
    """Else each picture of before would be another one than that which is drawn now."""
    before = ("guidance", "guidance_ramp", "temperature", "top_k", "top_p")
    assert [*json.loads(stage._settings(SampleConfig()))] == [*before]
    later = SampleConfig(guidance_power=1, guidance_interval=(0, 0.5))
    assert json.loads(stage._settings(later)) == {
        **json.loads(stage._settings(SampleConfig())),
        "guidance_power": 1,
        "guidance_interval": [0, 0.5],
    }


def test_best_is_drawn_from_the_candidates(generate: Cli, tmp_path: Path) -> None:
    def seeds(*options: object) -> list[int]:
        facts = drawn(generate("a red car", "--seed", 3, "--json", *options))
        return [int(text(Path(path))["seed"]) for path in facts["pictures"]]

    assert seeds("-n", 3) == [3, 4, 5]
    best = seeds("-n", 10, "--best", 2)
    assert len(set(best)) == 2 and set(best) < set(range(3, 13))


def test_an_animation_shows_the_grid_coming_about(generate: Cli, tmp_path: Path) -> None:
    out, animation = tmp_path / "g.png", tmp_path / "new" / "g.gif"
    assert generate("a tree", "-n", 2, "--out", out, "--progressive", animation).code == 0
    grid = pixels(out).astype(int)
    with Image.open(animation) as frames:
        assert frames.n_frames == 17 and frames.size == (2 * 16 + GAP, 16)
        for number in (0, 8, 16):
            frames.seek(number)
            frame = np.asarray(frames.convert("RGB")).astype(int)
            rows = number
            assert np.abs(frame[rows:, :16] - GREY).max(initial=0) <= 2
            if rows:  # its lower edge may still change with what comes below
                assert np.abs(frame[:rows] - grid[:rows]).mean() < 40
    assert np.abs(frame - grid).mean() < 8, "a palette of 256 colours"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_at_once_with_a_sentence(
    model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    told: list[float] = []

    def stop(event: Event) -> None:
        if isinstance(event, Progress):
            told.append(event.done)
            if event.done > 2:
                signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped before .* --seed 7 draws the same") as stopped:
        stage.generate(
            *(tmp_path, SampleConfig(), ["a red car"]),
            model=stage.Model(model, "cpu"),
            n=5,
            seed=7,
            report=stop,
        )
    assert stopped.value.exit_code == 128 + number
    assert 2 < told[-1] < 5 and len(told) > 5, "in the middle of the batch"
    assert not (tmp_path / "samples").exists() and signal.getsignal(number) == before


LIKE = "a very long road past a house, a tree and a "  # more than 40 letters


@pytest.mark.parametrize(
    "prompts", [(LIKE + "car", LIKE + "cow"), ("🚗", "🏠"), ("a red car", "A red: car")]
)
def test_like_names_do_not_replace_each_other(
    generate: Cli, tmp_path: Path, prompts: tuple[str, str]
) -> None:
    grids = []
    for prompt in (*prompts, *prompts):  # the second time it is the same drawing
        facts = drawn(generate(prompt, "-n", 2, "--seed", 3, "--json"))
        grids.append(Path(facts["grid"]))
        assert [text(Path(path))["prompt"] for path in facts["pictures"]] == [prompt] * 2
    assert grids[0] != grids[1] and grids[:2] == grids[2:]
    assert [text(grid)["prompt"] for grid in grids[:2]] == [*prompts]
    assert len([*(tmp_path / "samples").iterdir()]) == 6


def test_a_grid_has_no_single_pictures_of_another_beside_it(generate: Cli, tmp_path: Path) -> None:
    def draw(*options: object) -> set[str]:
        facts = drawn(generate("a tree", "--seed", 3, "--json", *options))
        stem = Path(facts["grid"]).stem
        beside = {path.name for path in (tmp_path / "samples").glob(f"{stem}-[0-9][0-9].png")}
        assert beside == {Path(path).name for path in facts["pictures"]}
        return beside

    assert draw("-n", 3) == {f"a-tree-3-0{index}.png" for index in range(3)}
    (tmp_path / "samples" / "a-tree-3.png").unlink()
    assert draw("-n", 1) == {"a-tree-3_2-00.png"}
    assert draw("-n", 3, "--best", 2) == {"a-tree-3_3-00.png", "a-tree-3_3-01.png"}
    assert draw("-n", 3) == {f"a-tree-3-0{index}.png" for index in range(3)}, "as at first"


def test_all_of_them_in_their_order_are_another_drawing(generate: Cli, tmp_path: Path) -> None:
    asked = ("a tree", "-n", 6, "--seed", 3, "--json")
    plain, first, again = (
        drawn(generate(*asked, *more)) for more in ((), ("--best", 6), ("--best", 6))
    )
    seeds = [int(text(Path(path))["seed"]) for path in first["pictures"]]
    assert {*seeds} == {*range(3, 9)} and seeds != [*range(3, 9)], "best first, in another order"
    assert first["grid"] == again["grid"] != plain["grid"]


def test_an_animation_that_no_gif_can_hold_is_refused_at_once(
    generate: Cli, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a tree\n" * 3_700)
    asked = ("--file", prompts, "-n", 1, "--progressive", tmp_path / "a.gif")
    refused(generate(*asked), 2, "at most 65,535 pixels a side", "66,598")


@pytest.mark.parametrize("there", ["g.png", "g-01.png", "g-07.png", "g.gif"])
def test_a_file_that_another_drawing_made_is_not_replaced(
    generate: Cli, tmp_path: Path, there: str
) -> None:
    files = ("--out", tmp_path / "g.png", "--progressive", tmp_path / "g.gif")
    asked = ("a tree", "-n", 2, "--seed", 3, *files)
    Image.effect_noise((9, 9), 90).save(tmp_path / there)
    before = (tmp_path / there).read_bytes()
    refused(generate(*asked), 2, f"{there} is there already", "another file, or remove it")
    assert [*tmp_path.iterdir()] == [tmp_path / there]
    assert (tmp_path / there).read_bytes() == before
    (tmp_path / there).unlink()
    assert generate(*asked).code == generate(*asked).code == 0
    refused(generate("a house", "-n", 2, "--seed", 3, *files), 2, "g.png is there already")
    assert text(tmp_path / "g.png")["prompt"] == "a tree"


def test_pictures_that_do_not_fit_at_a_time_are_drawn_in_smaller_batches(
    generate: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("a tree", "a house", "-n", 3, "--seed", 3, "--out")
    assert generate(*asked, tmp_path / "a.png").code == 0
    sketch, tried = Sampler.sketch, []

    def with_little_memory(self: Sampler, *given: Any) -> Sketch:
        tried.append(given[3].batch_size)
        if given[3].batch_size > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return sketch(self, *given)

    monkeypatch.setattr(Sampler, "sketch", with_little_memory)
    most = 1
    ran = generate(*asked, tmp_path / "b.png")
    assert ran.code == 0 and tried == [6, 3, 1] and "--set batch_size=1" in ran.err
    for end in (".png", "-00.png", "-05.png"):
        assert (tmp_path / f"a{end}").read_bytes() == (tmp_path / f"b{end}").read_bytes()
    most = 0
    refused(generate(*asked, tmp_path / "c.png"), 1, "drawing one picture takes", "--device")


def test_two_processes_draw_what_one_does(generate: Cli, model: Path, tmp_path: Path) -> None:
    """Of three pictures one draws two and the other one; the first writes all."""

    def asked(folder: str) -> tuple[object, ...]:
        files = ("--out", tmp_path / folder / "g.png", "--progressive", tmp_path / folder / "g.gif")
        return ("a tree", "-n", 3, "--best", 2, "--seed", 3, *files)

    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    run(tmp_path, "generate", "--model", model, *asked("one"), "--device", "cpu")
    together = ("generate", "--model", model, *asked("two"), "--processes=2", "--json")
    ran = run(tmp_path, *together, "--device", "cpu")
    facts, events = json.loads(ran.out), [json.loads(line) for line in ran.err.splitlines()]
    assert [Path(path).name for path in facts["pictures"]] == ["g-00.png", "g-01.png"]
    told = [event["done"] for event in events if event["event"] == "progress"]
    assert told == sorted(told) and told[-1] == 3, "of the first process alone"
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    refused(generate("-", "--processes", 2), 2, "--processes: give the prompts here or in --file")


def test_what_a_pipe_cannot_show_is_hinted(generate: Cli) -> None:
    ran = generate("a tree", "-n", 1, "--show")
    assert ran.code == 0 and "▀" not in ran.out
    assert len(re.findall(r"open .*\.png; --show needs a terminal", ran.err)) == 1


def test_at_a_terminal_it_asks_draws_and_shows(model: Path, tmp_path: Path) -> None:
    mine, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    command = ("--home", tmp_path, "generate", "--model", model, "-n", "1", "--seed", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "dallebaby_cli", *map(str, command)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
    )
    os.close(theirs)
    seen = ""
    answers = ["a red car\n", "a tree\n", "\n"]
    while select.select([mine], [], [], 60)[0]:
        try:
            seen += os.read(mine, 65536).decode(errors="replace")
        except OSError:  # closed: it has ended
            break
        if answers and seen.count("prompt: ") == 4 - len(answers):
            os.write(mine, answers.pop(0).encode())
    os.close(mine)
    assert process.wait(timeout=60) == 0 and not answers, seen
    for name in ("a-red-car-1", "a-tree-1"):
        assert (tmp_path / "samples" / f"{name}.png").exists() and f"{name}.png" in seen
    assert seen.count("▀") > 50


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("",), 2, ["the prompt is empty"]),
        (("a", " "), 2, ["the prompt is empty"]),
        (("a \udcff car",), 1, ["the prompt is not text"]),
        (("a", "-n", 0), 2, ["-n"]),
        (("a", "--best", 0), 2, ["--best"]),
        (("a", "-n", 2, "--best", 3), 2, ["--best 3", "1 to 2"]),
        (("a", "--temperature", 1e-40), 2, ["temperature=1e-40: must be 0, or 0.001 or more"]),
        (("a", "--guidance", "nan"), 2, ["guidance", "must be a number"]),
        (("a", "--top-p", 0), 2, ["top_p=0.0: must be above 0"]),
        (("a", "--seed", 2**63), 2, ["--seed"]),
        (("a", "--seed", 2**63 - 3), 2, [f"--seed {2**63 - 3}", "2**63 - 1"]),
        (("a", "-n", 2_000_000_000), 1, ["2,000,000,000 pictures take 3.5 TB", "smaller -n"]),
        (("a", "--device", "cpu:x"), 2, ["--device cpu:x"]),
        (("a", "--set", "guidance_ramp=2"), 2, ["guidance_ramp=2.0: must be at most 1"]),
        (("a", "--keep", 2), 2, ["--keep needs a picture", "--image"]),
        (("a", "--image", "{photo}", "--keep", 0), 2, ["--keep"]),
        (("a", "--image", "{photo}", "--keep", 4), 2, ["--keep 4", "4 rows", "1 to 3"]),
        (("a", "--image", "{text}"), 1, ["text.txt cannot be used (not an image", "JPEG"]),
        (("a", "--image", "{missing}"), 2, ["--image", "missing.txt"]),
        (("--file", "{missing}"), 2, ["--file", "missing.txt"]),
        (("--file", "{empty}"), 1, ["empty.txt has no prompts", "one a line"]),
        (("--file", "{photo}"), 1, ["photo.png is not text"]),
        (("a", "--progressive", "x.png"), 2, ["--progressive x.png", "ends in .gif"]),
        (("a", "--out", "x.gif"), 2, ["--out x.gif", "ends in .png"]),
        (("a", "--out", "{folder}"), 2, ["folder.png", "must be a file"]),
        (("a", "--out", "{text}/x.png"), 2, ["text.txt is no folder that can be written to"]),
        ((), 2, ["no prompt", "--file"]),
    ],
)
def test_bad_input_is_one_sentence(
    generate: Cli,
    pipe: Callable[[bytes], None],
    tmp_path: Path,
    arguments: tuple[object, ...],
    code: int,
    words: list[str],
) -> None:
    pipe(b"\n")
    places = {name: tmp_path / f"{name}.txt" for name in ("text", "empty", "missing")}
    places |= {name: tmp_path / f"{name}.png" for name in ("photo", "folder")}
    places["text"].write_text("a red car\n")
    places["empty"].write_text("\n \n")
    places["folder"].mkdir()
    Image.effect_noise((20, 20), 90).save(places["photo"])
    refused(generate(*(str(a).format(**places) for a in arguments)), code, *words)
    assert {*tmp_path.rglob("*")} == {*places.values()} - {places["missing"]}, "nothing was made"


@pytest.mark.parametrize("part", ["model.safetensors", "vae.safetensors", "tokenizer.json"])
def test_a_model_with_a_missing_or_swapped_file_draws_nothing(
    cli: Cli, model: Path, tmp_path: Path, part: str
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    other = next(p for p in model.iterdir() if p.name not in (part, "config.json"))
    draw = ("--home", tmp_path, "generate", "a", "--model", folder)
    (folder / part).write_bytes(other.read_bytes())
    refused(cli(*draw), 1, part, "damaged or swapped")
    (folder / part).unlink()
    refused(cli(*draw), 1, part, "is missing")
    assert not (tmp_path / "samples").exists()


def test_a_description_that_lost_its_parts_is_named(cli: Cli, model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "copy")
    about = folder / "config.json"
    for part in ("files", "vae"):
        content = json.loads((model / "config.json").read_text())
        del content[part]
        about.write_text(json.dumps(content))
        ran = cli("--home", tmp_path, "generate", "a", "--model", folder)
        refused(ran, 1, "config.json is damaged", "restore it")


@pytest.mark.parametrize(
    ("drop", "guidance", "warns"), [(0, 3, True), (0, 1, False), (0.1, 3, False)]
)
def test_guidance_that_has_nothing_to_guide_against_is_told(
    cli: Cli, model: Path, tmp_path: Path, drop: float, guidance: float, warns: bool
) -> None:
    folder = shutil.copytree(model, tmp_path / "copy")
    about = json.loads((folder / "config.json").read_text())
    shapes = {name: about[name] for name in ("model", "vae")}
    weights.write_model(folder, "dalle", {**shapes, "caption_drop": drop})
    draw = ("generate", "a", "-n", 1, "--model", folder, "--set", f"guidance={guidance}")
    ran = cli("--home", tmp_path, *draw)
    assert ran.code == 0
    told = "caption_drop=0, so it has never drawn without a caption and guidance=3 can only spoil"
    assert (told in ran.err) == warns and ("take --set guidance=1" in ran.err) == warns


def test_train_keeps_what_share_of_captions_it_left_out(trained: Path) -> None:
    assert json.loads((trained / "dalle/d/config.json").read_text())["caption_drop"] == 0.1
