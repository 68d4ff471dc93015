"""The API as OpenAI's own Python client uses it, unchanged."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from openai import OpenAI
from web import Client, kept_of, pixels, png, serving

from dallebaby_cli.serving import line
from dallebaby_cli.store.pictures import read_metadata

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def home(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained, tmp_path_factory.mktemp("openai") / "home")


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with serving(home, token="a-long-token") as found:
        yield found


@pytest.fixture(scope="module")
def api(client: Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{client.url}/v1", api_key="a-long-token", max_retries=0) as found:
        yield found


def content(b64: str | None) -> np.ndarray:
    return pixels(base64.b64decode(b64 or ""))


def test_generate(api: OpenAI, client: Client, home: Path) -> None:
    found = api.images.generate(prompt=PROMPT, n=2, model="gpt-image-1", extra_body={"seed": 5})
    assert found.data and len(found.data) == 2 and found.output_format == "png"
    assert found.size == "32x32" and found.usage and found.usage.output_tokens > 0
    first = base64.b64decode(found.data[0].b64_json or "")
    assert first == (home / "samples" / "a-red-circle-5-00.png").read_bytes()
    assert read_metadata(home / "samples" / "a-red-circle-5-01.png")["seed"] == "6"
    path = (found.data[0].url or "").removeprefix(client.url)
    assert client.get(path, Authorization="Bearer a-long-token").content == first


def test_sizes_and_formats(api: OpenAI) -> None:
    found = api.images.generate(
        prompt=PROMPT, size="256x256", response_format="b64_json", quality="hd", style="vivid"
    )
    assert found.data and content(found.data[0].b64_json).shape == (256, 256, 3)
    assert found.data[0].url is None and found.size == "256x256"
    found = api.images.generate(prompt=PROMPT, response_format="url", user="somebody")
    assert found.data and found.data[0].b64_json is None and found.data[0].url


def test_stream(api: OpenAI) -> None:
    whole = api.images.generate(prompt=PROMPT, extra_body={"seed": 9}).data
    with api.images.generate(
        prompt=PROMPT, stream=True, partial_images=2, extra_body={"seed": 9}
    ) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [e.partial_image_index for e in events[:2]] == [0, 1]  # type: ignore[union-attr]
    seen = [content(event.b64_json) for event in events]
    assert (seen[0] != seen[1]).any() and (seen[1] != seen[2]).any()
    assert whole and whole[0].b64_json == events[-1].b64_json


def test_edit(api: OpenAI, home: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    alpha = np.full((64, 48, 1), 255, np.uint8)
    alpha[32:] = 0
    mask = png(np.concatenate([np.zeros_like(noise), alpha], 2), "RGBA")
    found = api.images.edit(
        prompt=PROMPT, image=png(noise), mask=mask, n=2, extra_body={"seed": 3}, stream=False
    )
    assert found.data and len(found.data) == 2
    (path,) = (home / "samples").glob("a-red-circle-3-00.png")
    kept = kept_of(read_metadata(path))
    seen = png(np.concatenate([noise, alpha], 2), "RGBA")
    own = api.images.edit(prompt=PROMPT, image=seen, extra_body={"seed": 3})
    assert own.data and len(own.data) == 1 and kept, "a picture's own transparency is a mask"
    with api.images.edit(
        prompt=PROMPT, image=[("a.png", png(noise))], stream=True, partial_images=1
    ) as stream:
        kinds = [event.type for event in stream]
    assert kinds == ["image_edit.partial_image", "image_edit.completed"]


def test_models(api: OpenAI) -> None:
    assert [model.id for model in api.models.list()] == ["d", "baby"]
    assert api.models.retrieve("d").owned_by == "dallebaby"
    with pytest.raises(openai.NotFoundError, match="there are d, baby"):
        api.images.generate(prompt=PROMPT, model="e")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"n": 11}, "n"),
        ({"size": "1024x1536"}, "size"),
        ({"size": "2048x2048"}, "size"),
        ({"output_format": "webp"}, "output_format"),
        ({"response_format": "jpeg"}, "response_format"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"extra_body": {"guidance": -1}}, "guidance"),
        ({"extra_body": {"promt": 1}}, "promt"),
    ],
)
def test_errors(api: OpenAI, wrong: dict, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as told:
        api.images.generate(**{"prompt": PROMPT, **wrong})
    assert told.value.param == field and told.value.type == "invalid_request_error"
    assert field in str(told.value)


def test_errors_of_edits(api: OpenAI) -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)
    for image, mask, field in (
        (b"no picture", None, "image"),
        (png(grey), b"no picture", "mask"),
        (png(grey), png(grey), "mask"),
        (png(np.zeros((4000, 3, 3), np.uint8)), None, "image"),
    ):
        with pytest.raises(openai.BadRequestError) as told:
            api.images.edit(prompt=PROMPT, image=image, mask=mask or openai.omit)
        assert told.value.param == field
    with pytest.raises(openai.BadRequestError, match="only one can be taken"):
        api.images.edit(prompt=PROMPT, image=[png(grey), png(grey)])


def test_a_wrong_token(client: Client) -> None:
    with (
        OpenAI(base_url=f"{client.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError, match="a token is needed"),
    ):
        stranger.images.generate(prompt=PROMPT)


def test_an_error_in_a_stream(api: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "_show", lambda *moment: 1 / 0)
    with (
        pytest.raises(openai.APIError, match="something went wrong in the server"),
        api.images.generate(prompt=PROMPT, stream=True) as stream,
    ):
        list(stream)
