"""What is shared of a run: enough to calibrate with, and nothing of whose it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.calibration import share, store
from planner.cli import main
from planner.contract.records import Observation
from planner.models import sources

SECRETS = ("/home/ada", "ada-laptop", "payroll", "hf_abcdefghijklmnop", "Grace", "my-secret-project")


def observation(**changes: Any) -> Observation:
    """A measured step of phi-2 on an A10G, with names of a person in every field that may hold text."""
    spec = sources.load_model("phi-2")
    config = {
        **spec.config,
        "_name_or_path": "/home/ada/payroll/phi",
        "id2label": {"0": "Grace"},
        "note": "/home/ada x",
    }
    content: dict[str, Any] = {
        "created": "2026-11-27T07:45:12+00:00",
        "source": "run",
        "hardware": {
            "profile": "a10g",
            "title": "NVIDIA A10G",
            "total_bytes": 24 * 2**30,
            "driver": "570.1",
            "host": "ada-laptop",
        },
        "versions": {
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "my-secret-project": "1",
            "python": "/home/ada/bin/python",
        },
        "model": {"id": "/home/ada/payroll/phi", "config": config},
        "settings": {"batch_size": 1, "owner": "Grace"},
        "allocated_peak_bytes": 7 * 2**30,
        "reserved_peak_bytes": 8 * 2**30,
        "device_peak_bytes": 9 * 2**30,
        "instants": {"load": 6 * 2**30, "forward": 7 * 2**30},
        "step_seconds": [0.5],
        "probe": {"label": "payroll of Grace", "context_bytes": 300 * 2**20},
        "notes": ["data from /home/ada/payroll.csv", "token hf_abcdefghijklmnop"],
    }
    return Observation.model_validate({**content, **changes})


def test_nothing_of_a_person_is_in_what_is_shared() -> None:
    """GIVEN names, paths, tokens and hosts in every text of an observation THEN none of them is shared, and every
    number that a calibration reads is."""
    found = share.shared(observation())
    text = json.dumps(found.model_dump(mode="json"))
    assert not [secret for secret in SECRETS if secret in text]
    assert found.created == "2026-11-27"
    assert found.model["id"].startswith("phi-")
    assert found.model["config"]["hidden_size"] == 2560
    assert found.versions == {"torch": "2.13.0", "transformers": "5.23.0"}
    assert (found.device_peak_bytes, found.instants, found.step_seconds) == (9 * 2**30, observation().instants, [0.5])
    assert found.probe == {"context_bytes": 300 * 2**20}
    assert share.shared(observation(model={"id": "microsoft/phi-2", "config": {}})).model["id"] == "microsoft/phi-2"
    assert share.shared(found) == found.model_copy(update={"source": "shared"})


def test_it_is_shown_and_only_then_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN a run's folder WHEN it is shared THEN what is printed is what is written; without --output nothing is,
    and a file that is there is left alone."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "observation.json").write_text(observation().model_dump_json(by_alias=True))
    assert main(["share", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 1
    assert len(printed.splitlines()) == len(json.loads(printed)) + 2  # on one screen, whatever was measured
    target = tmp_path / "shared.json"
    assert main(["share", str(tmp_path / "run"), "--output", str(target)]) == 0
    assert target.read_text() == printed == capsys.readouterr().out
    assert main(["share", str(tmp_path / "run"), "--output", str(target)]) == 2
    assert main(["share", str(tmp_path)]) == 2


def test_others_observations_are_kept_once_and_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """GIVEN shared files WHEN they are taken twice THEN each is kept once, and their device has a fit; a file that is
    none ends it in one line with nothing kept."""
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    files = []
    for number, length in enumerate((512, 1024, 2048)):
        item = share.shared(observation(settings={"batch_size": 1, "max_length": length, "stack": "peft"}))
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(item.model_dump_json(by_alias=True))
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema": "tuneplan.observation/1"}')
    words = [word for path in (*files, broken) for word in ("--from", str(path))]
    assert main(["calibrate", *words]) == 2
    assert not store.observations_folder().exists()
    for _ in range(2):
        assert main(["calibrate", *words[:-2]]) == 0
        assert len(list(store.observations_folder().glob("*.json"))) == 3
    assert "3 observations" in capsys.readouterr().out
    assert store.fit_path("a10g").is_file()
    hostile = share.shared(observation()).model_copy(update={"hardware": {"profile": "../../x"}})
    files[0].write_text(hostile.model_dump_json(by_alias=True))
    assert main(["calibrate", "--from", str(files[0])]) == 2
