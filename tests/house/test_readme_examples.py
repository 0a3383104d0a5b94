"""What the readme shows under a command is what the command prints today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from planner.cli import main

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```\n\$ plan (.*)\n((?:.*\n)*?)```", README.read_text(encoding="utf-8"))


def test_the_readme_shows_both_answers() -> None:
    assert [words.split()[0] for words, _ in BLOCKS] == ["--gpu", "check"]


@pytest.mark.parametrize(("words", "shown"), BLOCKS, ids=["plan", "check"])
def test_the_readmes_lines_are_printed(
    words: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every line that is shown comes in the output, in that order; the readme may leave lines out."""
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    main(shlex.split(words))
    printed = iter([line.rstrip() for line in capsys.readouterr().out.splitlines()])
    for line in filter(None, map(str.rstrip, shown.splitlines())):
        assert line in printed, line
