"""Help stands in groups: every option once, examples first that can be run as they are."""

from __future__ import annotations

import re
import shlex

import pytest

from planner.cli import main
from planner.cli.app import GROUPED
from planner.cli.help import EXAMPLES, ORDER
from planner.contract.settings import SETTINGS


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["", *GROUPED])
def test_every_option_stands_once_under_a_heading(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, *filter(None, [command]))
    headings = re.findall(r"^(\S.*):$", out, re.M)
    assert [name for name in headings if name in ORDER] == [name for name in ORDER if name in headings]
    assert "Options" not in headings
    own = "num_gpus" if command == "compare" else ""
    for setting in SETTINGS:
        if setting.name != own:
            assert len(re.findall(rf"^  {re.escape(setting.flag)}\b(?!-)", out, re.M)) == 1, setting.flag
    if not command:
        assert "Commands" in headings


def test_examples_name_options_and_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command, lines in EXAMPLES.items():
        text = shown(capsys, *([] if command == "plan" else [command]))
        for line, _ in lines:
            assert line in text
            words = shlex.split(line)
            assert words[0] == "plan"
            assert all(re.search(rf"^  {word}\b", text, re.M) for word in words if word.startswith("--"))
