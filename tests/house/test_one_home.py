"""What is said of an architecture stands in its record, and nowhere else."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from planner.contract.architecture import Architecture
from planner.contract.architectures import ARCHITECTURES, of
from planner.memory.network.blocks import registry
from planner.models.sources import from_config
from tests.support.sources_cases import CASES

ROOT = Path(__file__).parents[2]
HOME = {"planner/contract/architectures.py", "planner/contract/architecture.py"}
ELSEWHERE = {
    "planner/exchange/tools/torchtune.py": "names of that tool's own packages",
    "planner/exchange/tools/torchtune_file.py": "names of that tool's own packages",
    "planner/decide/advice_rate.py": "exponents that were published for these families",
    "trainer/publish/gguf.py": "names that another format gives architectures",
    "trainer/publish/vocabulary.py": "names that another format gives tokenizers",
    "trainer/commands/presets.py": "the config of a small model that is made to be trained from scratch",
}


def test_model_types_are_named_in_their_home_only() -> None:
    """GIVEN every string in the syntax trees THEN none outside the records is a model type, but for few."""
    found = set()
    for path in [*(ROOT / "planner").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ARCHITECTURES:
                found.add(path.relative_to(ROOT).as_posix())
    assert found - HOME == set(ELSEWHERE)


def test_every_fact_is_told_apart_by_some_architecture() -> None:
    """GIVEN all records THEN no field has the same value in each: such a fact is none."""
    for field in fields(Architecture):
        if field.name != "name":
            assert len({getattr(record, field.name) for record in ARCHITECTURES.values()}) > 1, field.name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_record_leads_to_a_builder_and_a_layer_program(name: str) -> None:
    config = next(config for _, config in CASES if config["model_type"] == name)
    spec = from_config(dict(config), name)
    assert spec.facts is ARCHITECTURES[name]
    assert registry.program(spec).embed


def test_a_type_without_a_record_has_no_program() -> None:
    assert (of("electra").task, of("electra").layers, of("electra").builder) == ("masked", "", "")
    assert of("nothing_known").task == "causal"


def test_no_class_name_means_two_things() -> None:
    """GIVEN the classes of planner and trainer, nested ones aside, THEN no two have one name."""
    homes: dict[str, list[str]] = {}
    for path in [*(ROOT / "planner").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert not {name: places for name, places in homes.items() if len(places) > 1}
