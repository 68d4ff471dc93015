"""The command: how the server begins, whom it lets in, how it ends."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from conftest import Ran, start
from test_benchmarks import BENCHMARKS
from web import Client, names

from dallebaby_cli.commands import serve
from dallebaby_cli.serving.server import listen

Cli = Callable[..., Ran]
WISH = {"prompt": "a red circle", "n": 4}


@contextmanager
def served(home: Path, *arguments: object) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    """`dallebaby serve` in a process of its own."""
    process = start(home, "--device", "cpu", "serve", "--port", 0, *arguments)
    assert process.stdout
    try:
        line = process.stdout.readline()
        address = re.search(r"http://[^:]+:(\d+)/", line)
        assert address, line + (process.stderr.read() if process.stderr else "")
        client = Client(int(address[1]))
        client.said = line
        yield client, process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def home(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained, tmp_path_factory.mktemp("command") / "home")


@pytest.fixture(scope="module")
def served_once(home: Path) -> Iterator[Client]:
    with served(home) as (client, process):
        client.process = process.pid
        assert client.said.endswith("d draws; Ctrl-C ends it\n")
        yield client


def test_it_says_where_it_is_and_ends_with_ctrl_c(home: Path) -> None:
    with served(home, "--json") as (client, process):
        facts = json.loads(client.said)
        assert facts["url"] == f"{client.url}/" and facts["token"] is None
        assert Path(facts["model"]).name == "d"
        assert names(client.draw(WISH))[-1] == "done"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert process.returncode == 0 and "Traceback" not in err and "error" not in err, err


def test_sigterm_under_load_tells_all_who_wait(home: Path) -> None:
    with served(home) as (client, process):
        ends: list[tuple[str, int]] = []

        def ask(seed: int) -> None:
            wish = {**WISH, "n": 16, "seed": seed, "guidance": 1 + seed / 100}
            if seed % 2:
                told = client.draw(wish)
                ends.append((told[-1][0], told[-1][1].get("status", 200)))
            else:
                answer = client.post("/v1/images/generations", {**wish, "n": 10})
                ends.append(("answer", answer.status))

        threads = [threading.Thread(target=ask, args=[seed]) for seed in range(30)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        counted = re.compile(r"(?:waiting|drawing|done\"}) (\d+)")
        while sum(map(int, counted.findall(metrics(client)))) < 30:  # all have been let in
            assert time.monotonic() < end
            time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(20)
        assert process.wait(20) == 0 and time.monotonic() - began < 8
        assert len(ends) == 30, "none was cut off"
        assert {status for _, status in ends} <= {200, 503}
        assert sum(status == 503 for _, status in ends) >= 5


def metrics(client: Client) -> str:
    return client.get("/metrics").content.decode()


def test_clients_that_are_killed_free_their_places(served_once: Client) -> None:
    client = served_once
    code = (
        "import http.client, json, sys\n"
        "c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))\n"
        "wish = {'prompt': 'a', 'n': 16, 'seed': int(sys.argv[2]), 'top_k': int(sys.argv[2])}\n"
        "kind = {'Content-Type': 'application/json'}\n"
        "c.request('POST', '/api/drawings', json.dumps(wish), kind)\n"
        "r = c.getresponse(); print(r.readline(), flush=True); r.read()"
    )
    command = [sys.executable, "-c", code, str(client.port)]
    asking = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE) for seed in range(1, 9)
    ]
    for process in asking:
        assert process.stdout and b"queued" in process.stdout.readline()
    for process in asking:
        process.kill()
        process.communicate()
    began = time.monotonic()
    while "dallebaby_waiting 0" not in metrics(client) or "_drawing 0" not in metrics(client):
        assert time.monotonic() - began < 2
    assert names(client.draw(WISH))[-1] == "done"


@pytest.mark.slow
def test_200_clients_are_answered_for_a_minute_and_it_rests_afterwards(
    served_once: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wish after the other from each, who come again where the line is full."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    used = psutil.Process(served_once.process)
    before = used.memory_info().rss
    took, lost = __import__("serve").loaded(served_once.port, 200, 60)
    assert not lost and len(took) >= 200
    assert used.memory_info().rss - before < 200 << 20
    print(f"{len(took)} answers, 95 % of them within {took[int(0.95 * len(took))]:.1f} s")
    time.sleep(0.3)
    before = sum(used.cpu_times()[:2])
    time.sleep(2)
    assert sum(used.cpu_times()[:2]) - before < 0.1, "an idle server does nothing"


def test_a_port_that_is_taken_is_said(cli: Cli, home: Path, served_once: Client) -> None:
    ran = cli("--home", home, "serve", "--port", served_once.port)
    assert ran.code == 2 and f"--port {served_once.port}: cannot listen there" in ran.err


def test_who_listens_for_other_machines_has_a_token() -> None:
    place = listen("0.0.0.0", 0, None)
    with place.listener:
        assert place.token and len(place.token) > 30 and place.token in place.url
        assert {"localhost", "127.0.0.1", socket.gethostname().lower()} <= place.names
    place = listen("0.0.0.0", 0, "my own token")
    place.listener.close()
    assert place.token == "my own token" and place.url.endswith("?token=my%20own%20token")
    place = listen("localhost", 0, None)
    place.listener.close()
    assert place.token is None and re.fullmatch(r"http://localhost:\d+/", place.url)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--token", "short"], "--token: must have 8 to 200"),
        (["--host", "1.2.3.4"], "cannot listen there"),
        (["--host", "x" * 300], "cannot listen there"),
        (["--port", "70000"], "70000"),
        (["--model", "nowhere"], "nowhere holds no finished model"),
        (["--set", "guidance=-1"], "guidance=-1"),
    ],
)
def test_what_cannot_be_served_is_said(
    cli: Cli, home: Path, arguments: list[str], says: str
) -> None:
    ran = cli("--home", home, "serve", *arguments)
    assert ran.code in (1, 2) and says in ran.err and "Traceback" not in ran.err


def test_without_the_extra_it_says_what_to_install(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else name)
    ran = cli("--home", home, "serve")
    assert ran.code == 1 and "pip install 'dallebaby[serve]'" in ran.err
