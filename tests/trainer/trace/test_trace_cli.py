"""`python -m trainer.trace`: one JSON object on stdout, one clear line and an exit code when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.trace_support import TINY
from trainer.trace import cli

SETTINGS = "--stack peft --batch-size 3 --max_length 64 --gradient-accumulation-steps 1 --lora-targets q_proj,v_proj"


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY["llama"]))
    return str(path)


def test_one_object_is_printed(config: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config", config, "--json", *SETTINGS.split()]) == 0
    found = json.loads(capfd.readouterr().out)
    memory = found["memory"]
    assert memory["allocated_peak_bytes"] == sum(memory["components"].values())
    assert memory["instants"][memory["binding_instant"]] == memory["allocated_peak_bytes"]
    assert {"load", "forward", "loss", "backward", "optimizer"} <= memory["instants"].keys()
    assert found["groups"][0]["size"] >= found["groups"][1]["size"]


def test_folders_and_catalogue_entries_are_read(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = tmp_path / "entry.json"
    entry.write_text(json.dumps({"id": "tiny", "config": TINY["llama"]}))
    sizes = []
    for source in (str(Path(config).parent), str(entry)):
        assert cli.main(["--config", source, "--no-gradient-checkpointing", *SETTINGS.split()]) == 0
        sizes.append(json.loads(capsys.readouterr().out)["memory"]["allocated_peak_bytes"])
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "nowhere.json"], "nowhere.json"),
        (["--batch-size", "0"], "--batch-size"),
        (["--max-length", "long"], "--max-length"),
        (["--lora-targets", "qproj"], "q_proj"),
        (["--attention", "flash", "--target", "cpu"], "flash"),
    ],
)
def test_what_cannot_be_traced_is_one_line(
    config: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--config", config, *arguments]) == 2
    caught = capsys.readouterr()
    assert said in caught.err
    assert caught.err.count("\n") == 1
    assert caught.out == ""


def test_a_broken_config_names_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama",\n "hidden_size": }')
    assert cli.main(["--config", str(path)]) == 2
    assert "line 2" in capsys.readouterr().err
