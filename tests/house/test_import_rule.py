"""The import rule, statically and at run time: the planner never imports the training stack."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "bitsandbytes", "trainer")


def modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` ran in a process of its own."""
    script = textwrap.dedent(code) + "\nimport sys\nprint('\\n'.join(sys.modules))\n"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert child.returncode == 0, child.stderr
    return set(child.stdout.split())


def test_contracts() -> None:
    """GIVEN the import contracts of pyproject THEN all are kept."""
    script = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    child = subprocess.run(
        [sys.executable, "-c", script, "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert child.returncode == 0, child.stdout + child.stderr


def test_every_planner_module_stands_without_the_training_stack() -> None:
    """GIVEN every module of planner and hardware_profiles imported THEN none of the training stack is loaded."""
    loaded = modules_after("""
        import importlib, pkgutil
        import hardware_profiles, planner
        for package in (planner, hardware_profiles):
            for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):
                if not module.name.endswith('__main__'):
                    importlib.import_module(module.name)
    """)
    assert not {name.split(".")[0] for name in loaded} & set(FORBIDDEN)


def test_the_command_loads_neither_torch_nor_scipy_nor_textual() -> None:
    """GIVEN `plan --gpu a10g --max-length 2048` THEN what makes a start slow is not loaded."""
    loaded = modules_after("""
        import contextlib, io
        from planner.cli import main
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(['--gpu', 'a10g', '--max-length', '2048']) == 0
    """)
    top = {name.split(".")[0] for name in loaded}
    assert not top & {*FORBIDDEN, "scipy", "textual", "tokenizers", "pyarrow", "matplotlib", "pynvml", "psutil"}
    unused = ("planner.cli.commands", "planner.cli.handing", "planner.decide.remedies", "planner.handover.plans")
    assert not loaded & set(unused), "what no recommendation needs"


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "planner" / "contract").glob("[a-z]*.py")))
def test_contracts_of_the_trainer_are_light(module: str) -> None:
    """GIVEN what the trainer may import of the planner THEN it drags no other part of the planner in."""
    loaded = modules_after(f"import planner.contract.{module}")
    assert not {name for name in loaded if name.startswith("planner.") and not is_contract(name)}


def test_the_trainer_imports_only_the_contract() -> None:
    """GIVEN every import in the trainer's files, lazy ones included, THEN none takes another part of the planner."""
    taken = set()
    for path in (ROOT / "trainer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "planner":
                names = [f"planner.{alias.name}" for alias in node.names if alias.name != "__version__"]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            taken |= {(path.name, name) for name in names if name.startswith("planner.") and not is_contract(name)}
    assert not taken


def is_contract(name: str) -> bool:
    """Whether the module stands in `planner.contract`."""
    return name == "planner.contract" or name.startswith("planner.contract.")


def own_imports() -> dict[str, set[str]]:
    """Modules of ours by module of ours, lazy and type-only imports included."""
    files = {}
    for top in ("planner", "trainer", "hardware_profiles"):
        for path in (ROOT / top).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            files[name.removesuffix(".__init__")] = path
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= {name if name in files else node.module for name in whole}
        found[module] = (named & files.keys()) - {module}
    return found


def test_no_two_files_import_each_other_in_a_loop() -> None:
    """GIVEN every import, lazy and type-only ones included, THEN modules can be put in an order."""
    sorter = graphlib.TopologicalSorter(own_imports())
    sorter.prepare()  # raises CycleError, which names the loop


def test_hardware_profiles_hold_data_only() -> None:
    """GIVEN the package of device facts THEN its only module is the one that says what it is."""
    assert [path.name for path in (ROOT / "hardware_profiles").rglob("*.py")] == ["__init__.py"]


def test_screens_ask_nothing_of_the_app_that_it_lacks() -> None:
    """GIVEN what the screens may use of the app THEN it has all of it."""
    from planner.tui.app import TuneplanApp
    from planner.tui.wizard import Wizard

    asked = {name for name in vars(Wizard) if not name.startswith("_")} | set(Wizard.__annotations__)
    assert len(asked) > 20
    app = TuneplanApp()
    assert not {name for name in asked if not hasattr(app, name)}
