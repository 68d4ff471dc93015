"""The scripts that publish figures can be run: all that they import is there."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
ASKED = [path for path in SCRIPTS if "argparse" in path.read_text(encoding="utf-8")]
OURS = SCRIPTS[0].parent / "baselines" / "ours.py"  # the baselines have their own libraries


@pytest.mark.slow
@pytest.mark.parametrize("script", [*ASKED, OURS], ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_does(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0 and "usage:" in capsys.readouterr().out
