"""What tests of the trainer share: a tiny model folder, a small data set, and a user's data folder of their own."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from tests.support.trainer_support import make_model, write_pairs

_settled_at = 0
"""Modules that were loaded when the collector last forgot what there is."""


def pytest_collection() -> None:
    """What test modules import all stays: the collector rests."""
    gc.disable()


def pytest_collection_finish() -> None:
    """From here on it works as ever."""
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Takes loaded libraries out of the collector's walks: with torch and its friends each takes a third of a second,
    and the trainer orders one at every shortage. What comes later is collected as ever."""
    global _settled_at
    if len(sys.modules) > _settled_at + 200:
        _settled_at = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with weights and a tokenizer."""
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pairs of prompt and completion."""
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where observations and calibrations go; never the folder of whoever runs the tests."""
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
