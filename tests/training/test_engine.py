"""Two real processes under torchrun do what one does, stop together, and go on after a kill."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Ran, make, run
from hypothesis import given
from hypothesis import strategies as st
from training import rank_at_work

from dallebaby_cli.models import collectives, device
from dallebaby_cli.store import manifest
from dallebaby_cli.training import checkpoint

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")
WORKER = Path(__file__).with_name("rank_at_work.py")
CLOSE = (
    1e-4  # of a figure, after 18 steps with Muon, which lifts rounding errors of small gradients
)
ALIKE = 0.01  # of a figure, where each rank draws random numbers of its own
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}  # and to say where it is aborted
SECONDS = 240  # most that one command may take
SHORT = ("--preset", "tiny", "--steps", "6", "--set", "eval_every=3", "--set", "precision=fp32")
SIZES = ("--set", "shard_pictures=64", "--set", "batch_size=16")
ENCODE = ("encode", *SIZES, "--set", "views=2")
LONG = (
    *("train-vae", "--preset", "tiny", "--steps", "60"),
    *(
        "--set",
        "save_every_s=0",
        "--set",
        "model.quantizer=vq",
    ),  # which talks in its forward pass
)


def start(home: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start `torchrun --nproc-per-node 2 -m dallebaby_cli ARGUMENTS...`."""
    return subprocess.Popen(
        [sys.executable, *TORCHRUN, "dallebaby_cli", "--home", str(home), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=SECONDS)
    return Ran(process.returncode, out, err)


def together(home: Path, *arguments: object) -> Ran:
    """Run a command on two processes to its good end."""
    ran = finish(start(home, *arguments))
    assert ran.code == 0, f"{arguments}\n{ran.out}\n{ran.err}"
    return ran


def by_hand(*arguments: object, own: Callable[[int], tuple] = lambda rank: ()) -> list[Ran]:
    """Run two processes without torchrun, each with arguments of its own, too."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    company = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, (*arguments, *own(rank)))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **company, "RANK": str(rank), **QUIET},
        )
        for rank in (0, 1)
    ]
    return [finish(process) for process in processes]


def errors(ran: Ran) -> list[str]:
    """The sentences that a failed run ended with; tracebacks of ours are a failure."""
    assert ran.code != 0 and "dallebaby_cli/" not in ran.err, ran.err
    return [line for line in ran.err.splitlines() if line.startswith("error:")]


def events(folder: Path, kind: str) -> list[dict]:
    log = folder / "log.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def same_run(one: Path, two: Path, tolerance: float) -> None:
    """Both runs had the same figures all along, but for rounding."""
    ours, theirs = events(one, "evaluation"), events(two, "evaluation")
    for events_ in (ours, theirs):  # what is kept is judged once more
        assert [*dict.fromkeys(event["step"] for event in events_)] == [0, 6, 12, 18]
    name = "psnr" if "psnr" in ours[0] else "bits_per_code"
    for whole, shared in zip(ours, theirs, strict=True):
        assert shared[name] == pytest.approx(whole[name], rel=tolerance), whole["step"]
    assert abs(ours[-1][name] / ours[0][name] - 1) > 0.02, "it did train"


@pytest.fixture(scope="module")
def one(prepared: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with drawn pictures and their codes, and with photographs."""
    home = shutil.copytree(prepared, tmp_path_factory.mktemp("one") / "home")
    make(home, "train-vae", *SHORT)
    make(home, *ENCODE)
    make(home, "prep", photo_folder, "--name", "photographs", "--px", "32", "--workers", "1")
    return home


TOLERANCES = {"gumbel": ALIKE, "dropout": ALIKE, "sharpen": ALIKE}
WHOLE = ("sharpen",)  # models that are never split
CASES = [
    f"{name}{how}"
    for name in rank_at_work.CASES
    for how in ("", "-sharded")
    if not (how and name in WHOLE)
]
CASES += ["vq-ahead", "dalle-sharded-ahead"]


def two_ranks(*arguments: object) -> None:
    for ran in by_hand(WORKER, *arguments):
        assert ran.code == 0, ran.err


@pytest.fixture(scope="module")
def alone(one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every case that one process has made."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "native_bf16", lambda device: False)
        rank_at_work.work(one, out, 0, [*rank_at_work.CASES])
    return out


@pytest.fixture(scope="module")
def together_all(one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every case that two ranks have made, with whole models and with split ones."""
    out = tmp_path_factory.mktemp("together")
    two_ranks(one, out, 0, *CASES)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_what_one_process_does(alone: Path, together_all: Path, case: str) -> None:
    name = case.partition("-")[0]
    same_run(alone / name, together_all / case, TOLERANCES.get(name, CLOSE))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["few", "few-sharded"])
def test_two_ranks_keep_what_one_process_keeps(alone: Path, together_all: Path, case: str) -> None:
    kept, shared = (
        checkpoint.load_state(folder / "state.pt")["best"]
        for folder in (alone / "few", together_all / case)
    )
    assert kept["step"] == shared["step"] > 0
    torch.testing.assert_close(shared["weights"], kept["weights"], atol=2e-3, rtol=0)


@pytest.mark.slow
def test_a_run_goes_from_two_ranks_to_one_and_back(one: Path, alone: Path, tmp_path: Path) -> None:
    cases = ["vq", "fsq-sharded", "dalle-sharded"]
    two_ranks(one, tmp_path, 5, *cases)
    for case in cases:
        saved = checkpoint.load_state(tmp_path / case / "state.pt")
        assert saved and saved["step"] == 5, "both stopped at the step in which one was asked to"
        saves = json.loads((tmp_path / case / "saves.json").read_text(encoding="utf-8"))
        assert saves == [0, 2, 4, 5], "once for each wish, of which they tell each other"
    rank_at_work.work(one, tmp_path, 11, cases)
    two_ranks(one, tmp_path, 0, *cases)
    for case in cases:
        same_run(alone / case.partition("-")[0], tmp_path / case, CLOSE)


@pytest.mark.slow
def test_processes_are_started_by_a_flag(
    one: Path, tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    home = shutil.copytree(one, tmp_path / "home")
    shutil.move(home / "vae", tmp_path / "away")
    ran = run(home, "train-vae", "shapes", *SHORT, "--processes", "2")
    assert ran.out.count(": trained") == 1, "one process speaks"
    whole, shared = only(tmp_path / "away"), only(home / "vae")
    assert shared.name == whole.name, "a run's name does not tell how many worked on it"
    assert ": already trained" in cli("--home", home, "train-vae", "shapes", *SHORT).out
    refused = run(home, "train-vae", "--set", "batch_size=15", "--processes=2", expect=2)
    assert errors(refused) == [
        "error: batch_size=15 cannot be shared evenly by 2 processes; take --set batch_size=16, "
        "or another number of processes"
    ]


@pytest.mark.parametrize("wanted", ["0", "-1", "two", ""])
def test_a_number_of_processes_that_is_none(cli: Callable[..., Ran], wanted: str) -> None:
    ran = cli("train", f"--processes={wanted}")
    assert ran.code == 2 and "must be auto or a number from 1" in ran.err


RAISING = """
import sys
from dallebaby_cli.app import main
from dallebaby_cli.errors import BadInput
from dallebaby_cli.stages import train_vae
from dallebaby_cli.training import engine
whole = train_vae.VaeTask.step
def step(task, *arguments):
    if engine.rank() == 1:
        raise BadInput("shard 7 is damaged")
    return whole(task, *arguments)
train_vae.VaeTask.step = step
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_an_error_of_one_rank_ends_all_and_is_said_once(prepared: Path, tmp_path: Path) -> None:
    home = shutil.copytree(prepared, tmp_path / "home")
    first, second = by_hand("-c", RAISING, "--home", home, *LONG)
    assert errors(second) == ["error: shard 7 is damaged"]
    assert errors(first) == [], "it fails because of the other, which says why"


@pytest.mark.slow
def test_two_processes_encode_what_one_does(
    one: Path, tmp_path: Path, cli: Callable[..., Ran]
) -> None:
    home = shutil.copytree(one, tmp_path / "home")
    shutil.rmtree(home / "tokens")
    run(home, *ENCODE, "shapes", "--processes", "2")
    whole, shared = only(one / "tokens"), only(home / "tokens")
    shards = {path.name: path.read_bytes() for path in whole.glob("*.arrow")}
    assert len(shards) > 2
    assert {path.name: path.read_bytes() for path in shared.glob("*.arrow")} == shards
    ours, theirs = manifest.read(whole), manifest.read(shared)
    assert ours and theirs and (ours.id, ours.counts) == (theirs.id, theirs.counts)
    assert "already complete" in cli("--home", home, *ENCODE, "shapes").out


def process_of(rank: int, launcher: subprocess.Popen[str]) -> int:
    """The id of one of the processes that torchrun started."""
    listed = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    children = listed.read_text(encoding="utf-8").split()
    mark = f"RANK={rank}".encode()
    (found,) = (c for c in children if mark in Path(f"/proc/{c}/environ").read_bytes().split(b"\0"))
    return int(found)


def saved_at(state: Path) -> int:
    return state.stat().st_mtime_ns if state.exists() else 0


def signal_one(home: Path, rank: int, number: signal.Signals) -> Ran:
    """Start or continue a run, send one process a signal in its midst, and wait for the end."""
    state = home / "vae" / "broken" / "state.pt"
    saves = {saved_at(state)}
    process = start(home, *LONG, "--run", "broken")
    end = time.monotonic() + SECONDS
    while len(saves) < 3:  # twice anew
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)
        saves.add(saved_at(state))
    os.kill(process_of(rank, process), number)
    return finish(process)


@pytest.mark.slow
def test_a_signal_to_one_ends_all_and_the_run_goes_on(prepared: Path, tmp_path: Path) -> None:
    home = shutil.copytree(prepared, tmp_path / "home")
    together(home, *LONG, "--run", "whole")
    killed = signal_one(home, 1, signal.SIGKILL)
    (sentence,) = errors(killed)
    assert "another process of this run has ended" in sentence
    stopped = signal_one(home, 1, signal.SIGTERM)
    (sentence,) = errors(stopped)
    saved = checkpoint.load_state(home / "vae" / "broken" / "state.pt")
    assert saved and f"stopped at step {saved['step']}; run it again to continue" in sentence
    assert 0 < saved["step"] < 60
    together(home, *LONG, "--run", "broken")
    folders = [home / "vae" / name for name in ("whole", "broken")]
    whole, broken = (folder / "model.safetensors" for folder in folders)
    assert broken.read_bytes() == whole.read_bytes(), "bit for bit"


VQ_ALONE = """
import os, torch
from dallebaby_cli.errors import ProcessLost
from dallebaby_cli.models.tokenizers.quantizers import VQ
from dallebaby_cli.training import engine
with engine.session():
    quantizer, features = VQ(8, 4, 0.25).train(), torch.randn(2, 4, 3, 3)
    quantizer(features)
    if engine.rank() == 1:
        os._exit(9)
    try:
        quantizer(features)
    except ProcessLost as error:
        print(error, flush=True)
        os._exit(0)
"""


@pytest.mark.slow
def test_a_quantizer_that_waits_for_a_dead_process_says_so() -> None:
    first, _ = by_hand("-c", VQ_ALONE)
    assert first.code == 0, first.err
    assert "another process of this run has ended" in first.out


@pytest.mark.slow
def test_the_one_that_fails_alone_says_why(prepared: Path, tmp_path: Path) -> None:
    """As on two machines with different command lines."""
    home = shutil.copytree(prepared, tmp_path / "home")
    command = ("-m", "dallebaby_cli", "--home", home, *LONG)
    first, second = by_hand(*command, own=lambda rank: ("--seed", rank))
    assert errors(first) == [], "it fails because of the other, which says why"
    (sentence,) = errors(second)
    assert "process 1 has other settings or inputs than process 0" in sentence


def test_other_commands_are_not_done_twice(
    cli: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ran = cli("prep", "scenes")
    assert ran.code == 2
    assert "run `dallebaby prep` alone" in ran.err


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
def test_shares_are_without_overlap_or_loss(world: int, accumulate: int, each: int) -> None:
    batch = np.arange(world * accumulate * each)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collectives, "together", lambda: True)
        patch.setattr(torch.distributed, "get_world_size", lambda: world)
        shares = []
        for rank in range(world):
            patch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            shares.append(batch[collectives.share()].reshape(accumulate, each))
    parts = np.concatenate(shares, axis=1)  # of an accumulated batch, the processes' side by side
    assert np.array_equal(np.sort(parts, axis=1).reshape(-1), batch)
