"""What the page is told of runs, while they learn and afterwards."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from web import Client, pixels, serving

from dallebaby_cli.serving import runs
from dallebaby_cli.store import manifest


@pytest.fixture(scope="module")
def home(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "home")


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with serving(home) as found:
        yield found


def test_all_runs_are_listed_those_at_work_first(client: Client, home: Path) -> None:
    found = client.get("/api/runs").json["runs"]
    assert [(r["kind"], r["name"], r["state"]) for r in found] == [
        ("dalle", "d", "finished"),
        ("vae", "v", "finished"),
    ]
    assert found[0]["step"] == found[0]["planned"] == 4
    going = shutil.copytree(home / "vae" / "v", home / "vae" / "going")
    about = json.loads((going / "manifest.json").read_text())
    about |= {"complete": False, "id": "", "name": "going"}
    (going / "manifest.json").write_text(json.dumps(about))
    with (going / "log.jsonl").open("a") as log:
        log.write('{"event": "step", "step": 9, "loss": NaN, "lr": 1e-3, "time": 1}\n')
    first = client.get("/api/runs").json["runs"][0]
    assert (first["name"], first["state"], first["step"]) == ("going", "running", 9)
    curve = client.get("/api/runs/vae/going").json["curves"]["loss"]
    assert curve["steps"][-1] == 9 and curve["values"][-1] is None
    page = client.get("/runs/vae/going/report.html")
    assert page.status == 200 and "unfinished" in page.content.decode()
    old = time.time() - runs.RUNNING_S - 1
    os.utime(going / "log.jsonl", (old, old))
    states = {r["name"]: r["state"] for r in client.get("/api/runs").json["runs"]}
    assert states["going"] == "stopped"
    shutil.rmtree(going)


def test_a_run_has_curves_frames_and_a_report(client: Client, home: Path) -> None:
    found = client.get("/api/runs/dalle/d").json
    assert found["name"] == "d" and found["minutes"] >= 0 and found["curves"]["loss"]["steps"]
    for curve in found["curves"].values():
        assert len(curve["steps"]) == len(curve["values"]) <= runs.POINTS
    frame = found["frames"][0]
    path = next(p for p in (home / "dalle/d/frames").iterdir() if int(p.stem) == frame["step"])
    answer = client.get(frame["url"])
    assert answer.content == path.read_bytes() and len(pixels(answer.content))
    page = client.get(found["report"])
    assert page.content == (home / "dalle/d/report.html").read_bytes()
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "sandbox" in policy and "script" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs/dalle/e",
        "/api/runs/tokens/d",
        "/api/runs/dalle/..",
        "/api/runs/dalle/%2e%2e",
        "/runs/dalle/d/frames/99999.png",
        f"/runs/dalle/d/frames/{'9' * 5000}.png",
        "/runs/dalle/d/frames/..%2f..%2fmanifest.json.png",
        "/runs/dalle/d/report.htm",
    ],
)
def test_what_is_not_there_is_not_found(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status == 404 and "error" in answer.json


def test_a_damaged_run_is_left_out_and_odd_texts_do_no_harm(client: Client, home: Path) -> None:
    odd = shutil.copytree(home / "dalle" / "d", home / "dalle" / "odd")
    with (odd / "log.jsonl").open("a") as log:
        log.write('{"event": "warning", "step": 4, "text": "half \\ud800 <b>"}\n')
    assert manifest.read(odd)
    assert client.get("/api/runs/dalle/odd").json["warning"] == "half \ud800 <b>"
    (odd / "manifest.json").write_text("{")
    assert "odd" not in [r["name"] for r in client.get("/api/runs").json["runs"]]
    shutil.rmtree(odd)
