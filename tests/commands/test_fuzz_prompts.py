"""Prompts as they come broken, in files, pipes and arguments."""

import os
from pathlib import Path

from hypothesis import strategies as st
from mutations import fuzz, mutated

from dallebaby_cli.commands import prompts
from dallebaby_cli.errors import BadInput, UsageError

LINES = "\ufeffa green tree\r\n\n  ¿un árbol?  \n赤い車 😀\n".encode()


@fuzz(content=mutated(LINES) | st.binary(max_size=200))
def test_a_file_of_prompts(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    try:
        found = prompts.given([], path)
    except (BadInput, UsageError):
        return
    assert found and all(line.strip() == line and line.encode() for line in found)


@fuzz(content=st.binary(min_size=1, max_size=60).filter(lambda words: words != b"-"))
def test_a_prompt_on_the_command_line(content: bytes) -> None:
    try:
        found = prompts.given([os.fsdecode(content.replace(b"\0", b""))], None)
    except (BadInput, UsageError):
        return
    assert found is not None and [prompt.encode() for prompt in found]
