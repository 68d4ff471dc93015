"""What nobody expected, signals, charsets and hostile names, where the program meets the person."""

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main
from conftest import Ran
from PIL import Image

from dallebaby_cli.app import app
from dallebaby_cli.commands import prompts
from dallebaby_cli.commands.live import Bars, Lines
from dallebaby_cli.commands.output import Screen
from dallebaby_cli.errors import BadInput, Interrupted
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.progress import Note, Progress, Transfer
from dallebaby_cli.store import manifest
from dallebaby_cli.store.manifest import Manifest

Cli = Callable[..., Ran]
HOSTILE = "\x1b]0;owned\x07[b]x[/b] [/c]\x1b[2J\u202e\r\nerror: all is lost"


def failing(monkeypatch: pytest.MonkeyPatch, fail: Callable[[], object]) -> None:
    """`dallebaby status` does that."""
    monkeypatch.setattr("dallebaby_cli.stages.status.status", lambda home: fail())


def said(ran: Ran) -> str:
    """The one line that a failed command says."""
    (line,) = ran.err.splitlines()
    return line


# ---------------------------------------------------------------- errors


def test_what_nobody_expected_is_one_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError(HOSTILE)

    failing(monkeypatch, fail)
    ran = cli("status")
    assert ran.code == 1 and ran.out == ""
    assert said(ran) == (
        "error: unexpected ZeroDivisionError: ]0;owned[b]x[/b] [/c][2J error: all is lost; this is "
        "a fault of dallebaby: run again with --debug and report it"
    )
    with pytest.raises(ZeroDivisionError):
        cli("status", "--debug")


def test_a_library_that_cannot_be_loaded_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dallebaby_cli.stages.status", None)
    ran = cli("status")
    assert ran.code == 1 and "dallebaby_cli.stages.status" in said(ran)
    assert ran.err.endswith("; install dallebaby again\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free"),
        RuntimeError("could not create a primitive"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_full_memory_is_one_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> None:
        raise error

    failing(monkeypatch, fail)
    ran = cli("status")
    assert ran.code == 1 and said(ran).startswith("error: memory is full")
    assert "take less at a time" in ran.err and "unexpected" not in ran.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_one_sentence_in_every_command(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def fail() -> None:
        try:
            signal.raise_signal(number)
        except Exception:  # what goes on after errors does not go on after Ctrl-C
            return

    failing(monkeypatch, fail)
    before = signal.getsignal(number)
    ran = cli("status")
    assert ran.code == 128 + number and signal.getsignal(number) == before
    assert said(ran) == "error: stopped; run the same command again to go on"


def test_a_second_ctrl_c_is_a_sentence_too() -> None:
    with pytest.raises(Interrupted, match="stopped at once") as stopped, Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    assert stopped.value.exit_code == 130


# ---------------------------------------------------------------- charsets


CHARSETS: dict[str, dict[str, str]] = {
    "utf-8": {"PYTHONUTF8": "1"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # for files, too
    "gbk": {"PYTHONIOENCODING": "gbk:strict"},
}


def test_the_locales_charset_changes_no_picture(model: Path, tmp_path: Path) -> None:
    words = tmp_path / "prompts.txt"
    words.write_text("ein grüner Baum → 木", encoding="utf-8")
    asked = ("a red café car → 😀", "--file", words, "-n", 1, "--seed", 5, "--model", model)
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "PYTHONUTF8"))}
    running = []
    for name, charset in CHARSETS.items():
        command = [sys.executable, "-m", "dallebaby_cli", "--home", tmp_path, "generate", *asked]
        command += ["--out", tmp_path / f"{name}.png"]
        running.append(
            subprocess.Popen([*map(str, command)], env=plain | charset, stderr=subprocess.PIPE)
        )
    for process in running:
        err = process.communicate()[1]
        assert process.returncode == 0, err
    for end in (".png", "-00.png", "-01.png"):
        assert len({(tmp_path / f"{name}{end}").read_bytes() for name in CHARSETS}) == 1
    with Image.open(tmp_path / "ascii.png") as picture:
        assert picture.info["prompt"] == "a red café car → 😀\nein grüner Baum → 木"


def test_a_prompt_in_another_charset_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `sys.argv` has them, where the locale says so."""
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("iso-8859-15", "surrogateescape"))
    assert prompts.given(["ein grüner Baum"], None) == ["ein grüner Baum"]
    assert prompts.given(["grün".encode().decode("iso-8859-15")], None) == ["grün"]
    with pytest.raises(BadInput, match="the prompt is not text"):
        prompts.given(["a \udcff car"], None)


# ---------------------------------------------------------------- names


def test_names_bring_no_escape_codes_to_the_terminal(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    name = HOSTILE.replace("/", "|")
    folder = tmp_path / "images" / name
    manifest.write(folder, Manifest(kind="images", name=HOSTILE, complete=True, parents={}))
    ran = cli("--home", tmp_path, "status")
    assert ran.code == 0 and "]0;owned[b]x[|b] [|c]" in ran.out
    assert not {"\x1b", "\x07", "\r", "\u202e"} & {*ran.out}
    assert not [line for line in ran.out.splitlines() if line.startswith("error")]


@pytest.mark.parametrize("watched", [True, False])
def test_events_bring_no_escape_codes_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    if watched:
        monkeypatch.setenv("FORCE_COLOR", "1")
    screen, written = Screen(), io.StringIO()
    screen.file = written
    events = [
        Note(HOSTILE, "warning"),
        Progress(HOSTILE, 1, 1, "images", HOSTILE),
        Transfer(HOSTILE, "downloading", waiting_for=HOSTILE, files=((HOSTILE, 1, 2),)),
    ]
    for event in events:
        if watched:
            with Bars(screen) as bars:
                bars(event)
        else:
            Lines(screen, quiet=False)(event)
    shown = written.getvalue()
    assert "[b]x[/b] [/c]" in shown, "it is no markup"
    assert not [code for code in ("\x1b]", "\x1b[2J\r", "\x07", "\u202e") if code in shown]
    assert not [line for line in shown.splitlines() if line.startswith("error: all")]


# ---------------------------------------------------------------- paths


@pytest.fixture
def tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The person's home, which `~` is."""
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "me"))
    (tmp_path / "me").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "me"


def test_a_tilde_is_the_persons_home(
    cli: Cli, model: Path, tilde: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tilde / "model")
    (tilde / "words.txt").write_text("a tree\n", encoding="utf-8")
    Image.effect_noise((20, 20), 90).convert("RGB").save(tilde / "photo.png")
    (tilde / "mine.yaml").write_text("generate: {guidance: 2}\n", encoding="utf-8")
    here = ("--home=~/work", "--config=~/mine.yaml")
    asked = ("--model=~/model", "--file=~/words.txt", "--image=~/photo.png", "-n", 1)
    ran = cli(*here, "generate", *asked, "--out=~/g.png", "--progressive=~/g.gif")
    assert ran.code == 0, ran.err
    with Image.open(tilde / "g.png") as picture:
        assert picture.info["prompt"] == "a tree" and '"guidance": 2.0' in picture.info["sampling"]
    monkeypatch.setenv("DALLEBABY_HOME", "~/work")
    assert cli("generate", *asked).code == 0
    assert {path.name for path in tilde.iterdir()} == {
        *("model", "words.txt", "photo.png", "mine.yaml", "g.png", "g-00.png", "g.gif", "work")
    }
    for arguments in (
        ("prep", "~/none"),
        ("fetch", "~/none.torrent"),
        ("caption", "--with", "~/none"),
        ("evaluate", "--model", "~/none"),
        ("generate", "a", "--model", "~/none"),
        ("generate", "--file", "~/none"),
        ("generate", "--image", "~/none"),
        ("status", "--config", "~/none"),
    ):
        ran = cli(*arguments)
        assert "~" not in ran.err, "the sentence names the folder itself"
    assert not (tilde.parent / "~").exists()
    ran = cli("status", "--home", "~nobody-of-that-name/x")
    assert ran.code == 2 and "nobody is called so here" in ran.err


def test_every_path_is_read_in_one_way() -> None:
    commands = [typer.main.get_command(app), *typer.main.get_command(app).commands.values()]  # type: ignore[attr-defined]
    own = [
        f"{command.name} {option.opts[0]}"
        for command in commands
        for option in command.params
        if "path" in type(option.type).__name__.lower()
    ]
    assert not own, "they know no ~; give them the parser of commands/options.py"


def test_prompts_without_end_are_refused(cli: Cli, model: Path) -> None:
    ran = cli("generate", "--model", model, "--file", "/dev/zero")
    assert ran.code == 1 and "/dev/zero has over 10.0 MB of prompts" in said(ran)
    ran = cli("generate", "a", "--model", model, "--image", "/dev/zero")
    assert ran.code == 1 and "--image /dev/zero cannot be used" in ran.err
