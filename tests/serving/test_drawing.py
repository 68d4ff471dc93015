"""Drawing as the page asks for it: how pictures come about, what is kept of them, how they end."""

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran
from web import Brake, Client, Told, kept_of, names, of, pixels, png, serving

from dallebaby_cli.drawing.pretrained import from_pretrained
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.prep.images import decode
from dallebaby_cli.serving import gallery, line
from dallebaby_cli.store.pictures import read_metadata

Cli = Callable[..., Ran]
WISH = {"prompt": "a red circle", "seed": 7}


@pytest.fixture(scope="module")
def home(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained, tmp_path_factory.mktemp("served") / "home")


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with serving(home) as found:
        yield found


@pytest.fixture
def brake(monkeypatch: pytest.MonkeyPatch, client: Client) -> Iterator[Brake]:
    made = Brake(monkeypatch)
    yield made
    made.go.set()
    rest(client)


def rest(client: Client) -> None:
    """Wait until nothing is drawn."""
    end = time.monotonic() + 30
    while client.house.line.lengths() != (0, 0) or client.house.line._drawn:
        assert time.monotonic() < end
        time.sleep(0.01)


def grid_of(client: Client) -> int:
    return int(client.get("/api/models").json["models"][0]["grid"])


def finished(told: Told) -> list[dict[str, Any]]:
    assert told[-1][0] == "done", told[-1]
    return of(told, "picture")


# ---------------------------------------------------------------- a picture forms


def test_a_picture_forms_row_by_row_and_is_what_generate_draws(
    client: Client, home: Path, cli: Cli, tmp_path: Path
) -> None:
    told, rows = client.draw({**WISH, "n": 2}), grid_of(client)
    kinds = names(told)
    assert kinds[:2] == ["queued", "started"] and kinds[-3:] == ["picture", "picture", "done"]
    started = of(told, "started")[0]
    assert started["seed"] == "7" and started["n"] == 2 and started["model"] == "d"
    for index in (0, 1):
        partials = [p for p in of(told, "partial") if p["index"] == index]
        shares = [p["done"] for p in partials]
        assert shares == [round(row / rows, 4) for row in range(1, rows)]
        seen = [pixels(p["image"]) for p in partials]
        whole = pixels(client.get(finished(told)[index]["url"]).content)
        side = len(whole) // rows
        for row, picture in enumerate(seen, start=1):
            assert (picture[row * side :] == 128).all(), "what is not drawn yet is grey"
        assert all((a != b).any() for a, b in zip(seen, [*seen[1:], whole], strict=True))

    other = shutil.copytree(home / "dalle", tmp_path / "other" / "dalle").parent
    ran = cli("--home", other, "generate", "a red circle", "-n", 2, "--seed", 7)
    assert ran.code == 0, ran.err
    assert sorted(p.name for p in (other / "samples").iterdir()) == [
        *("a-red-circle-7-00.png", "a-red-circle-7-01.png", "a-red-circle-7.png")
    ]
    for path in (other / "samples").iterdir():
        assert (home / "samples" / path.name).read_bytes() == path.read_bytes(), path.name


def test_what_a_picture_says_draws_it_again(client: Client) -> None:
    wish = {
        "prompt": "  a gold\tsquare ",
        "guidance": 2,
        "temperature": 0.9,
        "top_k": 50,
        "top_p": 0.9,
    }
    (picture,) = finished(client.draw(wish))
    content = client.get(picture["url"]).content
    told = client.post("/api/settings", content).json
    assert told == {"settings": picture["settings"], "kept": 0, "apart": False, "grid": False}
    assert told["settings"]["prompt"] == "a gold square" and told["settings"]["model"] == "d"
    (again,) = finished(client.draw(told["settings"]))
    assert again["name"] == picture["name"] and client.get(again["url"]).content == content
    whole = client.get(f"/pictures/{picture['name'].replace('-00.png', '.png')}").content
    assert client.post("/api/settings", whole).json["grid"] is True


def test_without_a_seed_every_picture_is_another(client: Client) -> None:
    seeds = [of(client.draw({"prompt": "a circle"}), "started")[0]["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1] and all(int(seed) < 2**31 for seed in seeds)
    (picture,) = finished(client.draw({"prompt": "a circle", "seed": str(2**63 - 17)}))
    assert picture["settings"]["seed"] == str(2**63 - 17), "JSON of browsers has no such numbers"


def test_words_that_the_model_hardly_knows_are_told(client: Client) -> None:
    told = client.draw({"prompt": "a red zeppelin " + "and a circle " * 40})
    started = of(told, "started")[0]
    assert "zeppelin" in started["unknown"] and "red" not in started["unknown"]
    assert started["read"] and len(started["read"]) < 300
    assert finished(told)[0]["unknown"] == started["unknown"]


# ---------------------------------------------------------------- a picture to begin with


def begins_with(client: Client, home: Path, **wish: Any) -> tuple[np.ndarray, int, dict[str, Any]]:
    """What is drawn from a picture of noise: codes (G, G), of which so many rows are its own."""
    sampler = from_pretrained(home / "dalle" / "d", "cpu")
    px, rows = sampler.image_tokenizer.image_px, sampler.model.config.grid
    noise = np.random.default_rng(0).integers(0, 255, (px, px, 3), dtype=np.uint8)
    own = sampler.encode(decode(png(noise), px)).numpy()
    image = "data:image/png;base64," + base64.b64encode(png(noise)).decode()
    (picture,) = finished(client.draw({**WISH, "image": image, **wish}))
    says = read_metadata(home / "samples" / picture["name"])
    kept = np.array(kept_of(says)).reshape(-1, rows)
    assert (kept == own[: len(kept)]).all()
    return kept, rows, picture


@pytest.mark.parametrize(
    ("wish", "keeps"),
    [
        ({}, lambda rows: rows // 2),
        ({"keep": 1}, lambda rows: 1),
        ({"mask": "from the third row on"}, lambda rows: 2),
    ],
)
def test_a_drawing_begins_with_rows_of_a_picture(
    client: Client, home: Path, wish: dict[str, Any], keeps: Callable[[int], int]
) -> None:
    rows = grid_of(client)
    if "mask" in wish:
        wish = {"mask": ["0" * rows] * 2 + ["0" + "1" * (rows - 1)] + ["0" * rows] * (rows - 3)}
    kept, rows, picture = begins_with(client, home, **wish)
    assert len(kept) == keeps(rows) and picture["kept"] == kept.size
    shown = client.get("/api/pictures").json["pictures"][0]
    assert shown["name"] == picture["name"] and shown["kept"] == kept.size


def test_a_picture_of_the_gallery_can_be_begun_with(client: Client, home: Path) -> None:
    (first,) = finished(client.draw(WISH))
    told = client.draw({**WISH, "seed": 8, "picture": first["name"], "keep": 2})
    (second,) = finished(told)
    shown = of(told, "partial")[0]
    assert shown["done"] == round(2 / grid_of(client), 4), "what is kept is there at once"
    assert second["kept"] == 2 * grid_of(client)
    assert client.post("/api/drawings", {**WISH, "picture": "../d.png"}).status == 404


def test_a_mask_that_marks_everything_draws_everything(client: Client) -> None:
    rows = grid_of(client)
    (plain,) = finished(client.draw(WISH))
    wish = {**WISH, "picture": plain["name"], "mask": ["1" * rows] * rows}
    assert finished(client.draw(wish))[0]["name"] == plain["name"]


# ---------------------------------------------------------------- the line


def test_those_who_wait_are_drawn_together_and_as_they_are_alone(
    client: Client, brake: Brake
) -> None:
    first = client.later({"prompt": "a blue square", "seed": 1})
    brake.wait()
    wishes = [
        {"prompt": "a red circle", "seed": 2, "n": 2},
        {"prompt": "a gold square", "seed": 9, "guidance": 1},
        {"prompt": "a green circle", "seed": 5},
    ]
    waiting = [client.later(wish) for wish in wishes]
    assert [w.told[0][1]["position"] for w in waiting] == [0, 1, 0]
    brake.go.set()
    told = [later.all() for later in (first, *waiting)]
    assert brake.together == [
        ["a blue square"],
        ["a red circle", "a red circle", "a green circle"],
        ["a gold square"],
    ]
    together = [client.get(p["url"]).content for events in told for p in finished(events)]
    brake.together.clear()
    alone = [
        client.get(picture["url"]).content
        for wish in ({"prompt": "a blue square", "seed": 1}, *wishes)
        for picture in finished(client.draw(wish))
    ]
    assert together == alone and len(brake.together) == 4


def test_a_place_in_the_line_is_told_as_it_changes(client: Client, brake: Brake) -> None:
    first = client.later(WISH)
    brake.wait()
    others = [client.later({**WISH, "guidance": g}) for g in (1.5, 2, 2.5)]
    brake.go.set()
    for place, later in enumerate(others):
        positions = [data["position"] for data in of(later.all(), "queued")]
        assert positions[0] == place and positions[-1] == 0
        assert positions == sorted(positions, reverse=True)
    assert finished(first.all())
    queued = client.draw(WISH)[0][1]
    assert queued["eta_s"] > 0, "something has been drawn, so there is an estimate"


def test_a_full_line_says_when_to_ask_again(
    client: Client, brake: Brake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 2)
    first = client.later(WISH)
    brake.wait()
    others = [client.later(WISH) for _ in range(2)]
    answer = client.post("/api/drawings", WISH)
    assert answer.status == 429 and int(answer.headers["retry-after"]) >= 1
    assert answer.json["retry_after_s"] == int(answer.headers["retry-after"])
    assert answer.json["error"].startswith("2 drawings wait already")
    v1 = client.post("/v1/images/generations", WISH)
    assert v1.status == 429 and v1.json["error"]["code"] == "rate_limit_exceeded"
    brake.go.set()
    assert all(finished(later.all()) for later in (first, *others)), "who was let in is drawn"
    assert 'dallebaby_drawings_total{end="refused"} 2' in client.get("/metrics").content.decode()


@pytest.mark.parametrize("how", ["route", "leaving"])
def test_a_drawing_is_stopped_within_a_second(client: Client, brake: Brake, how: str) -> None:
    kept = len(client.house.gallery.listed())
    if how == "route":
        drawn = client.later({**WISH, "seed": 1000})
        brake.wait()
        waits = client.later({**WISH, "seed": 1001, "guidance": 1})
        began = time.monotonic()
        for later in (waits, drawn):
            assert client.post(f"/api/drawings/{later.told[0][1]['id']}/stop").status == 204
            assert later.all()[-1] == ("stopped", {"pictures": 0})
        assert client.post(f"/api/drawings/{drawn.told[0][1]['id']}/stop").status == 404
    else:
        with client.stream({**WISH, "seed": 1000}) as told:
            assert next(told)[0] == "queued"
            brake.wait()
            with client.stream({**WISH, "seed": 1001}) as waits:
                assert next(waits)[0] == "queued" and client.house.line.lengths() == (1, 1)
            began = time.monotonic()
    while client.house.line.lengths() != (0, 0):
        assert time.monotonic() - began < 1
    brake.go.set()
    rest(client)
    assert len(client.house.gallery.listed()) == kept, "nothing of it was written"
    assert brake.together == [["a red circle"]], "who waited is not drawn"
    assert finished(client.draw(WISH)), "and the line goes on"


def test_one_who_leaves_does_not_end_those_beside(client: Client, brake: Brake) -> None:
    first = client.later(WISH)
    brake.wait()
    beside = client.later({**WISH, "seed": 40})
    with client.stream({**WISH, "seed": 41}) as told:
        next(told)
        brake.go.set()
        first.all()
        next(told)
    assert finished(beside.all())[0]["settings"]["seed"] == "40"


def test_an_error_while_drawing_is_a_sentence_and_the_line_goes_on(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(line, "_show", lambda *moment: 1 / 0)
        told = client.draw(WISH)
        assert told[-1][0] == "error" and told[-1][1]["status"] == 500
        assert "terminal" in told[-1][1]["error"] and "division" not in json.dumps(told)
    assert any("ZeroDivisionError" in str(note) for note in client.notes)
    assert finished(client.draw(WISH))


def test_memory_that_holds_fewer_pictures_draws_them_in_parts(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [client.get(p["url"]).content for p in finished(client.draw({**WISH, "n": 3}))]
    stream = Sampler.stream

    def full(sampler: Sampler, prompts: Any, seeds: Any, config: Any, *more: Any) -> Any:
        if config.batch_size > 1:
            raise MemoryError
        return stream(sampler, prompts, seeds, config, *more)

    monkeypatch.setattr(Sampler, "stream", full)
    told = client.draw({**WISH, "n": 3})
    assert [client.get(p["url"]).content for p in finished(told)] == whole


# ---------------------------------------------------------------- the gallery


def test_the_gallery_has_single_pictures_newest_first_page_by_page(
    client: Client, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "PAGE", 2)
    for seed, n in ((50, 1), (51, 2)):
        finished(client.draw({**WISH, "seed": seed, "n": n}))
    (home / "samples" / "not-ours.png").write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
    (home / "samples" / "broken.png").write_bytes(b"no picture")
    (home / "samples" / "secret.txt").write_text("secret")
    (home / "samples" / "link.png").symlink_to(home / "samples" / "secret.txt")
    first = client.get("/api/pictures").json
    assert [p["settings"]["seed"] for p in first["pictures"]] == ["51", "52"], (
        "of one drawing in their order"
    )
    second = client.get(f"/api/pictures?after={first['next']}").json
    assert second["pictures"][0]["settings"]["seed"] == "50"
    found, after = [], None
    while after != "":
        page = client.get("/api/pictures" + (f"?after={after}" if after else "")).json
        found += [p["name"] for p in page["pictures"]]
        after = page["next"] or ""
    assert len(found) == len(set(found)) and "not-ours.png" not in found
    assert all(client.get(f"/pictures/{name}").status == 200 for name in found[:3])
    for name in ("link.png", "secret.txt", "gone.png"):
        assert client.get(f"/pictures/{name}").status == 404
    assert client.get("/api/pictures?after=gone.png").status == 404


def test_settings_of_pictures_from_elsewhere_are_refused(client: Client) -> None:
    for content in (b"", b"\x89PNG\r\n\x1a\n", png(np.zeros((8, 8, 3), np.uint8)), b"GIF89a"):
        answer = client.post("/api/settings", content)
        assert answer.status == 400 and len(answer.json["error"]) > 20


# ---------------------------------------------------------------- what is refused


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt: say what to draw"),
    ({"prompt": " \n "}, "prompt: say what to draw"),
    ({"prompt": 7}, "prompt: say what to draw"),
    ({"prompt": "x" * 4001}, "prompt: has over 4,000 letters"),
    ({"prompt": "x", "n": 17}, "n: must be a whole number from 1 to 16"),
    ({"prompt": "x", "n": True}, "n: must be a whole number"),
    ({"prompt": "x", "n": 1.5}, "n: must be a whole number"),
    ({"prompt": "x", "seed": -1}, "seed: must be a whole number"),
    ({"prompt": "x", "seed": 2**63}, "seed: must be a whole number"),
    ({"prompt": "x", "guidance": 101}, "guidance=101.0: must be at most 100"),
    ({"prompt": "x", "guidance": "much"}, "guidance='much': must be a number"),
    ({"prompt": "x", "guidance": 10**390}, "guidance=1000"),
    ({"prompt": "x", "top_k": 0.5}, "top_k=0.5: must be a whole number"),
    ({"prompt": "x", "batch_size": 1}, "batch_size: unknown field"),
    ({"prompt": "x", "promt": 1}, "promt: unknown field"),
    ({"prompt": "x", "keep": 1}, "keep and mask are for a picture"),
    ({"prompt": "x", "image": "https://example.com/a.png"}, "image: must be a data URL"),
    ({"prompt": "x", "image": "data:image/png;base64,%%"}, "image: is no base64"),
    ({"prompt": "x", "image": "data:;base64,aGVsbG8="}, "the picture cannot be used"),
    ({"prompt": "x", "image": "data:;base64,aGVsbG8=", "mask": ["1"]}, "mask: must be"),
    ({"prompt": "x", "image": "data:;base64,", "picture": "a.png"}, "give image or picture"),
]


@pytest.mark.parametrize(("wish", "says"), WRONG)
def test_what_cannot_be_is_one_sentence(client: Client, wish: dict[str, Any], says: str) -> None:
    answer = client.post("/api/drawings", wish)
    assert answer.status == 400 and answer.json["error"].startswith(says), answer.content
    assert "Traceback" not in answer.content.decode() and client.house.line.lengths() == (0, 0)


def test_models_are_listed_the_newest_first_and_the_baby_last(client: Client) -> None:
    found = client.get("/api/models").json
    assert [m["name"] for m in found["models"]] == ["d", "baby"] and found["models"][0]["default"]
    assert found["models"][0]["image_px"] == 32 and found["sampling"]["guidance"] == 3
    assert found["models"][0]["examples"] and all(found["models"][0]["examples"])
    answer = client.post("/api/drawings", {"prompt": "x", "model": "e"})
    assert answer.status == 404 and answer.json["error"].endswith("there are d, baby")
    (picture,) = finished(client.draw({**WISH, "model": "baby"}))
    assert picture["settings"]["model"] == "baby"


def test_a_drawing_of_another_size_says_that_it_stands_apart(
    client: Client, home: Path, cli: Cli
) -> None:
    px = from_pretrained(home / "dalle" / "d").image_tokenizer.image_px
    tall = ("--size", f"{px}x{2 * px}", "--seed", 3, "-n", 1)
    ran = cli("--home", home, "generate", "a tall one", *tall)
    assert ran.code == 0, ran.err
    shown = client.get("/api/pictures").json["pictures"][0]
    assert shown["name"] == "a-tall-one-3-00.png"
    assert shown["apart"] is True and shown["kept"] == 0


def test_a_terminal_that_was_closed_ends_no_line(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(event: object) -> None:
        raise BrokenPipeError

    def fails(*asked: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(client.house, "_report", gone)
        patch.setattr(Sampler, "stream", fails)
        assert names(client.draw(WISH))[-1] == "error"
    assert names(client.draw(WISH))[-1] == "done"


def test_a_full_line_is_said_before_anything_is_read_or_loaded(
    client: Client, brake: Brake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 1)
    first = client.later(WISH)
    brake.wait()
    second = client.later({**WISH, "seed": 8})
    monkeypatch.setattr(client.house.models, "find", None)  # whoever calls it fails
    assert client.post("/api/drawings", {**WISH, "seed": 9}).status == 429
    brake.go.set()
    assert names(first.all())[-1] == names(second.all())[-1] == "done"
