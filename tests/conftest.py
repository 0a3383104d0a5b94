"""What tests of the trainer share: a tiny model folder, a small data set, and a user's data folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.trainer_support import make_model, write_pairs


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
