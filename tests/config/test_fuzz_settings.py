"""Settings as they come broken, in files and on the command line."""

from pathlib import Path

from hypothesis import strategies as st
from mutations import fuzz, mutated

from dallebaby_cli.config import SECTIONS, settings
from dallebaby_cli.errors import UsageError

FILE = b"""
train-vae: &all
  steps: 1e3
  optim: {lr: 3e-4, betas: [0.9, 0.99]}
  model: {grid: 20, levels: [8, 5, 5], quantizer: fsq, temperatures: [1, 0.0625]}
train:
  <<: *all
  compile: off
  model: {dim: 64, heads: 2, dropout: 0.1}
prep: {fit: pad, limit: ~, where: "local"}
"""
KEYS = sorted({row.key for section in SECTIONS for row in settings.explain(section)})


def is_fine_or_a_sentence(section: str, **given: object) -> None:
    try:
        made = settings.load(section, **given)  # type: ignore[arg-type]
    except UsageError as error:
        assert 0 < len(str(error)) < 2000
    else:
        assert settings.build(type(made), settings.as_dict(made)) == made


@fuzz(content=mutated(FILE), section=st.sampled_from(["train-vae", "train", "prep"]))
def test_a_config_file(tmp_path: Path, content: bytes, section: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    is_fine_or_a_sentence(section, file=path)


@fuzz(
    key=st.sampled_from(KEYS) | st.text(max_size=20),
    value=st.text(max_size=40)
    | st.integers().map(str)
    | st.floats().map(str)
    | mutated(b"[8, 5, 5]", b"{depth: 3, grid: 4}", b"1e3").map(lambda b: b.decode("latin-1")),
    section=st.sampled_from(sorted(SECTIONS)),
)
def test_a_setting(key: str, value: str, section: str) -> None:
    is_fine_or_a_sentence(section, settings=[f"{key}={value}"])


def test_the_file_is_whole_before_it_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(FILE)
    made = settings.load("train-vae", file=path)
    assert (made.steps, made.model.grid, made.model.levels) == (1000, 20, (8, 5, 5))
