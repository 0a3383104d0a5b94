"""The nine minutes of a GPU: no section takes another down, what was measured stays, wheels fill what is missing."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_wheels  # noqa: E402

BODIES = {
    "ends": "print('fine')",
    "fails": "raise SystemExit('broken on purpose')",
    "hangs": "import subprocess, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "time.sleep(60)",
}


@pytest.fixture
def sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[gpu.Section]:
    """Sections whose scripts write a line and then end, fail or hang."""
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    monkeypatch.setattr(gpu, "PATIENCE", 0.5)
    found = []
    for name, body in BODIES.items():
        (tmp_path / f"{name}.py").write_text(
            "import sys, pathlib\n"
            "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
            "lines = open(out / 'rows.jsonl', 'w')\n"
            'lines.write(\'{"a": 1}\\n{"a": \'); lines.flush()\n'
            f"{body}\n"
        )
        found.append(gpu.Section(name=name, script=f"{name}.py", share=0.3, rows="rows.jsonl"))
    monkeypatch.setattr(gpu, "SECTIONS", tuple(found))
    monkeypatch.setattr(gpu, "machine", lambda environment: {"python": "3"})
    return found


def test_a_section_that_fails_or_hangs_leaves_the_others_and_its_rows(
    sections: list[gpu.Section], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(gpu, "LAST_SECONDS", 0.0)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(out), "--minutes", "0.08", "--device", "cpu"])
    assert gpu.main() == 0
    told = {entry["name"]: entry for entry in json.loads((out / "sections.json").read_text())["sections"]}
    assert {name: entry["rows"] for name, entry in told.items()} == {"ends": 1, "fails": 1, "hangs": 1}
    assert [told[name]["code"] for name in BODIES] == [0, 1, None]
    assert told["fails"]["said"] == "broken on purpose"
    assert "cut off" in capsys.readouterr().out


def test_a_section_without_a_row_is_told(
    sections: list[gpu.Section], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends.py").unlink()
    arguments = ["gpu.py", "--out", str(tmp_path / "out"), "--minutes", "0.2", "--device", "cpu", "--sections", "ends"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert gpu.main() == 1
    (entry,) = json.loads((tmp_path / "out/sections.json").read_text())["sections"]
    assert entry["rows"] == 0
    assert "No such file" in entry["said"]


def test_the_shares_are_the_whole_and_every_script_is_there() -> None:
    assert sum(section.share for section in gpu.SECTIONS) == pytest.approx(1.0)
    for section in gpu.SECTIONS:
        assert (gpu.HERE / section.script).exists()
        assert section.command(Path("/x"), "cpu", 90.0)[1] == str(gpu.HERE / section.script)


def wheel(folder: Path, name: str, wants: str = "") -> Path:
    """A wheel of one module."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "X = 1\n")
        told = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + wants
        archive.writestr(f"{name}-1.0.dist-info/METADATA", told)
    return path


def test_only_what_is_missing_is_unpacked(tmp_path: Path) -> None:
    wheel(tmp_path, "pydantic")
    wheel(tmp_path, "no_such_thing_here")
    assert gpu_wheels.unpack_missing(tmp_path, tmp_path / "site") == ["no-such-thing-here"]
    assert sorted(path.name for path in (tmp_path / "site").glob("*.py")) == ["no_such_thing_here.py"]


def test_wheels_lie_where_pickling_takes_them_for_installed(tmp_path: Path) -> None:
    """dill pickles a module by its name only below the interpreter's prefix or a folder of this name."""
    wheel(tmp_path, "no_such_thing_here")
    _, folder, *_ = gpu.environment_of(tmp_path / "out", tmp_path)["PYTHONPATH"].split(os.pathsep)
    assert Path(folder).name == "site-packages"
    assert (Path(folder) / "no_such_thing_here.py").exists()


def test_a_wheel_that_wants_what_is_nowhere_is_named(tmp_path: Path) -> None:
    wants = (
        "Requires-Dist: torch>=2\nRequires-Dist: Other_Thing (>=1)\nRequires-Dist: nice; extra == 'more'\n"
        "Requires-Dist: old; python_version < '3.8'\nRequires-Dist: second\n"
    )
    wheel(tmp_path, "first", wants)
    wheel(tmp_path, "second")
    assert gpu_wheels.lacking(tmp_path) == ["first wants other-thing"]


def test_saved_inputs_that_were_away_give_the_same_gradients() -> None:
    holds, seen = gpu_checks.offload("cpu")
    assert holds, seen
    assert seen["distance"] == {"offload": 0.0, "overlap": 0.0}


@pytest.mark.nightly
def test_a_real_overflow_is_recovered_from_as_the_command_tries_it() -> None:
    holds, seen = gpu_checks.overflow("cpu")
    assert holds, seen


def test_a_check_sees_a_step_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_checks.parity("llama", (), "cpu")[0]
    real = gpu_checks.apply_lean

    def wrong(model, chosen):
        for module in real(model, chosen).modules():
            if isinstance(getattr(module, "scaling", None), dict):
                module.scaling = {name: value * 1.5 for name, value in module.scaling.items()}
        return model

    monkeypatch.setattr(gpu_checks, "apply_lean", wrong)
    assert not gpu_checks.parity("llama", (), "cpu")[0]
