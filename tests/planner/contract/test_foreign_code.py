"""No code that lies in the working folder is run, whoever starts a child and whatever the user's files are called."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.calibration import worker
from planner.cli import demo, handoff
from planner.contract import process
from planner.contract.errors import InvalidInput, RunFailed
from planner.contract.records import ProbeRequest
from planner.handover import trainer_process
from tests.support.trainer_support import make_plan
from trainer.commands import gridsearch
from trainer.commands.demo import assets

ROOT = Path(__file__).parents[3]
PLAN = [sys.executable, "-P", "-m", "planner.cli"]
NAMES = ("trainer", "planner", "hardware_profiles", "yaml", "torch", "numpy", "pydantic", "rich", "typer", "psutil")
NAMES += ("transformers", "peft", "tokenizers", "json", "typing", "pkgutil", "sitecustomize", "usercustomize")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: it holds a file and a folder under every name, each of which leaves a mark when it is run."""
    folder = tmp_path / "work"
    for name in NAMES:
        (folder / "package" / name).mkdir(parents=True)
        code = f"open({str(tmp_path / 'marks')!r}, 'a').write({name!r} + '\\n')\n"
        (folder / f"{name}.py").write_text(code)
        (folder / "package" / name / "__init__.py").write_text(code)
        (folder / "package" / name / "__main__.py").write_text(code)
    monkeypatch.chdir(folder)
    return folder


def marks(tmp_path: Path) -> str:
    file = tmp_path / "marks"
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize("path", ["", os.pathsep, ".", f".{os.pathsep}{ROOT}", f"{ROOT}{os.pathsep}", "package"])
@pytest.mark.parametrize("inner", [".", "package"])
def test_every_start_keeps_the_working_folder_out(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, inner: str
) -> None:
    """GIVEN PYTHONPATH as users have it (unset, empty or relative entries) THEN our trainer answers."""
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.chdir(hostile / inner)
    child = subprocess.run(
        process.command("trainer", "run", "missing.yaml"), env=process.environment(), capture_output=True, text=True
    )
    assert child.returncode == 2, child.stderr
    assert "missing.yaml" in child.stderr
    assert marks(tmp_path) == ""


def test_what_starts_children_ends_with_the_childs_own_refusal(
    hostile: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Runner, hand-off, demo, grid, demo assets and calibration worker, each with its own real child."""
    run = trainer_process.start("missing.yaml", output=tmp_path / "run")
    (failed,) = [event for event in run if event.kind == "failed"]
    assert failed.data["exit_code"] == 2
    assert handoff.run("find-lr", ["missing.yaml"]) == 2
    with pytest.raises(InvalidInput, match="could not be made"):
        demo._child(["generate", "missing", "--prompt", "x", "--top-k", "-1"])
    (failed,) = [
        event for event in gridsearch.in_child(Path("missing.yaml"), tmp_path / "cell") if event.kind == "failed"
    ]
    assert failed.data["exit_code"] == 2
    with pytest.raises(InvalidInput, match=r"missing\.yaml"):
        assets._run(Path("missing.yaml"), tmp_path / "assets" / "run")
    with pytest.raises(InvalidInput, match="nonsense"):
        worker.probe(ProbeRequest(model={"id": "m", "config": {}}, settings={"nonsense": 1}))
    assert marks(tmp_path) == ""


def test_a_run_is_ours(hostile: Path, tmp_path: Path, model: Path, data: Path) -> None:
    """GIVEN the command `plan` in such a folder THEN it trains as anywhere."""
    plan = make_plan(tmp_path / "plan.json", model, data, epochs=1.0, max_steps=2, dataloader_workers=1)
    words = ["train", str(plan), "--output", str(tmp_path / "run")]
    child = subprocess.run([*PLAN, *words], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert "Completed after 2 steps" in child.stdout
    assert marks(tmp_path) == ""


@pytest.mark.nightly
def test_a_trace_is_ours(hostile: Path, tmp_path: Path, model: Path) -> None:
    words = ["trace", "--model", str(model), "--gpu", "cpu", "--precision", "fp32", "--batch-size", "1"]
    child = subprocess.run([*PLAN, *words, "--max-length", "16"], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert marks(tmp_path) == ""


@pytest.mark.parametrize("module", ["trainer", "trainer.trace", "planner.cli"])
def test_typed_without_p_the_libraries_are_still_ours(hostile: Path, tmp_path: Path, module: str) -> None:
    """GIVEN `python -m …` as a person types it THEN, once Python has found our module, no library of the folder's."""
    for name in ("trainer", "planner", "json", "typing", "pkgutil", "sitecustomize", "usercustomize"):
        (hostile / f"{name}.py").unlink()
    words = {
        "trainer": ["run", "missing.yaml"],
        "trainer.trace": ["--config", "missing"],
        "planner.cli": ["train", "m"],
    }
    child = subprocess.run([sys.executable, "-m", module, *words[module]], capture_output=True, text=True)
    assert child.returncode == 2, child.stderr
    assert "Traceback" not in child.stderr
    assert marks(tmp_path) == ""


def test_what_a_child_starts_in_turn_keeps_it_out_too(hostile: Path, tmp_path: Path) -> None:
    """GIVEN a worker that Python spawns, as data loaders do on a Mac THEN it imports the real libraries."""
    script = (
        "import importlib, multiprocessing, subprocess, sys\n"
        "if __name__ == '__main__':\n"
        "    started = multiprocessing.get_context('spawn').Process(target=importlib.import_module, args=('yaml',))\n"
        "    started.start(); started.join()\n"
        "    subprocess.run([sys.executable, '-m', 'yaml'], capture_output=True)\n"
        "    sys.exit(started.exitcode)\n"
    )
    file = tmp_path / "elsewhere.py"
    file.write_text(script)
    child = subprocess.run([sys.executable, "-P", str(file)], env=process.environment(), check=False)
    assert child.returncode == 0
    assert marks(tmp_path) == ""


def test_folders_named_with_their_whole_path_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a PYTHONPATH set on purpose THEN it is kept; a folder that holds another `trainer` comes second."""
    (tmp_path / "trainer.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "mine"), "here", str(tmp_path)]))
    path = process.environment()["PYTHONPATH"].split(os.pathsep)
    assert path == [process.HOME, str(tmp_path / "mine"), str(tmp_path)]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert process.others() == {"trainer": str(tmp_path / "trainer.py")}
    from planner.cli.doctor import _clashes, _packages

    (said,) = _clashes(_packages())
    assert str(tmp_path / "trainer.py") in said


def test_the_doctor_names_another_distribution_under_our_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other-1.0.dist-info").mkdir()
    (tmp_path / "other-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (tmp_path / "other-1.0.dist-info" / "top_level.txt").write_text("planner\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    from planner.cli.doctor import _clashes, _packages

    (said,) = _clashes(_packages())
    assert said.startswith("the package planner also belongs to other")


def test_a_run_that_ends_well_without_its_last_word_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN a trainer that ends with 0 and said nothing THEN the run has failed, on every front."""
    from planner.cli.progress import Follower
    from planner.tui import live

    monkeypatch.setattr(process, "command", lambda *words: [sys.executable, "-c", "print('hello')"])
    run = trainer_process.start(tmp_path / "plan.yaml")
    assert Follower().follow(run) == RunFailed.exit_code
    assert "nothing says that it trained" in capsys.readouterr().err
    snapshot = live.RunSnapshot()
    for event in run.events:
        snapshot = live.reduce(snapshot, event)
    assert live.ended(snapshot, 0).phase == "failed"
    assert live.ended(live.RunSnapshot(), 0).phase == "failed"
    (failed,) = gridsearch.in_child(tmp_path / "plan.yaml", tmp_path / "run")
    assert failed.kind == "failed"
    monkeypatch.setattr(process, "command", lambda *words: [sys.executable, "-c", ""])
    with pytest.raises(RunFailed, match="before it finished"):
        assets._run(tmp_path / "plan.yaml", tmp_path / "run")


def test_no_child_is_started_in_another_spelling() -> None:
    """`process.command` alone writes the interpreter's name and `-m`: whoever else did would forget the safe path."""
    starts = ("executable", "_base_executable", "system", "popen", "execv", "execvp", "execve", "spawnv", "posix_spawn")
    found = set()
    for package in (*process.PACKAGES, "benchmarks"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                start = attribute and node.value.id in ("sys", "os") and node.attr in starts
                if start or (isinstance(node, ast.Constant) and node.value == "-m"):
                    found.add(str(file.relative_to(ROOT)))
    # Beside it: how a package knows that it was typed, where the command `plan` lies, the fault bench's starts, TRL's,
    # and the GPU bench's, which asks for torch without the planner and downloads wheels; the wizard's times imports.
    known = {"planner/__init__.py", "trainer/__init__.py", "planner/handover/commands.py"}
    bench = {"benchmarks/faults.py", "benchmarks/fault_runs.py", "benchmarks/exchange/trl_curve.py"}
    bench.add("benchmarks/exchange/tool_runs.py")  # runs LitGPT and mlx-lm, which lie in a folder of their own
    bench |= {"benchmarks/gpu.py", "benchmarks/gpu_wheels.py", "benchmarks/wizard.py"}
    assert found == {"planner/contract/process.py", *known, *bench}
