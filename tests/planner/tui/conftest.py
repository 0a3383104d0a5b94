"""What the wizard keeps lies outside a test's own folder: it would stand in the tree of files, sooner or later."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tui_support import write_pairs


@pytest.fixture(autouse=True)
def home_elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("COLORTERM", "truecolor")  # else the theme is that of whatever terminal pytest stands in


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set."""
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")
