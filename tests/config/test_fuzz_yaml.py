"""Whatever is in a --config file or a catalogue, it is filled in or refused with a sentence."""

import json

import pytest
from hypothesis import strategies as st
from mutations import anything, fuzz, mutated

from dallebaby_cli.config import SECTIONS, settings
from dallebaby_cli.errors import BadInput, UsageError
from dallebaby_cli.fetch import catalog

CONFIG = b"""\
train: &all
  seed: 3
  batch_size: 0x10
  optim: {lr: 1e-3, betas: [0.9, 0.99]}
  model: {dim: 48, heads: 3}
train-vae: {<<: *all, model: {grid: 8, levels: [8, 6, 5]}}
generate: {guidance: 2.5, top_k: ~}
"""
CATALOGUE = b"""\
mirrors: &m
  urls: ["https://example.org/a.zip"]
datasets:
  mine:
    title: "My pictures"
    files:
      - {<<: *m, path: a.zip, size_bytes: 12_000, sha256: "%s"}
      - {path: more/, wanted: no}
    trackers: [udp://example.org:1]
    images: 010
""" % (b"0" * 64)
NASTY = [
    b"&a [*a]",
    b"*all",
    b"!!int 1:30",
    b"!!python/object/apply:os.system [id]",
    b"2001-01-01",
    b"? [a]\n: b",
    b"<<: 7",
    b"---\n",
    b"- " * 2000,
]
SETTINGS = (
    st.sampled_from(sorted(SECTIONS))
    .flatmap(
        lambda s: st.dictionaries(st.just(s), st.dictionaries(st.sampled_from(_keys(s)), anything))
    )
    .map(lambda found: json.dumps(found).encode())
)


def _keys(section: str) -> list[str]:
    return sorted(settings.as_dict(SECTIONS[section]()))


@st.composite
def spoilt(draw: st.DrawFn, real: bytes) -> bytes:
    """The file with something of YAML's own in place of a value."""
    places = [i + 1 for i, letter in enumerate(real) if letter in b": ,["]
    place = draw(st.sampled_from(places))
    return real[:place] + draw(st.sampled_from(NASTY)) + real[place + draw(st.integers(0, 9)) :]


@fuzz(content=mutated(CONFIG) | spoilt(CONFIG) | SETTINGS)
def test_any_config_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    for section in SECTIONS:
        try:
            settings.load(section, file=path)
        except UsageError as error:
            assert len(str(error)) < 200_000


@fuzz(content=mutated(CATALOGUE) | spoilt(CATALOGUE))
def test_any_catalogue(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any" / "catalog.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        assert "scenes" in catalog.load(path.parent)
    except BadInput as error:
        assert "catalog.yaml" in str(error)


@fuzz(text=st.text(max_size=40) | st.sampled_from(NASTY).map(bytes.decode))
def test_any_setting(text: str) -> None:
    for key in ("seed", "optim.lr", "model.levels", "compile", "model"):
        try:
            settings.load("train-vae", settings=[f"{key}={text}"])
        except UsageError as error:
            assert key in str(error)
