"""A `del` in the memory model carries it: names die when PyTorch's do, and so do their bytes. Others say `# tidy`."""

from __future__ import annotations

import ast
import importlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.memory.step.case import Case, flattens
from planner.memory.step.program import run
from planner.models.sources import from_config
from tests.support.sources_cases import CASES

ROOT = Path(__file__).parents[4]
ROOMS = ("engine", "network")
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"stack": "peft"},
    {"stack": "peft", "method": "full", "precision": "bf16-mixed", "gradient_checkpointing": False},
    {"method": "qlora", "loss": "chunked", "lora_variant": "dora"},
    {"loss": "chunked", "precision": "bf16-mixed", "modules_to_save": ("lm_head",)},
    {"loss": "chunked", "lora_targets": ("all-linear",), "lora_dropout": 0.1},
    {"method": "full", "loss": "chunked", "precision": "fp32"},
    {"stack": "peft", "method": "qlora", "lora_variant": "dora", "attention": "eager"},
    {"stack": "peft", "method": "qlora", "quantization": "int8", "checkpoint_reentrant": True},
    {"method": "qlora", "quantization": "int8", "precision": "fp32"},
    {"stack": "peft", "attention": "flash", "checkpoint_offload": True},
    {"stack": "peft", "lora_variant": "dora", "precision": "fp16", "adapter_dtype": "bf16"},
    {"stack": "peft", "transformers_version": "4.45", "attention": "eager", "precision": "fp32"},
)
UNREACHED = {
    ("engine/tape.py", "del output"),
    ("engine/tape.py", "del unused, zeros"),
    ("network/blocks/olmo.py", "del low, high"),
    ("network/blocks/olmo.py", "del both"),
    ("network/blocks/separate_experts.py", "del wide"),
    ("network/blocks/separate_experts.py", "del rows, made, places, choices, chosen, logits, chances"),
    ("network/blocks/separate_experts.py", "del factor"),
    ("network/quantized.py", "del first"),
}
"""What none of the cases comes by."""
TARGETS = ("cuda", "cpu", "mps")
Key = tuple[str, int]


def dels() -> list[tuple[Path, ast.FunctionDef, ast.Delete]]:
    """Every `del` of names, with the outermost function (or method) that holds it."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / "planner" / "memory" / room).rglob("*.py")):
            for outer in _functions(ast.parse(path.read_text(encoding="utf-8")).body):
                for node in ast.walk(outer):
                    if isinstance(node, ast.Delete) and all(isinstance(target, ast.Name) for target in node.targets):
                        found.append((path, outer, node))
    return found


def _functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body)


def without(path: Path, outer: ast.FunctionDef, node: ast.Delete) -> tuple[FunctionType, CodeType]:
    """The function as it runs, and its code without that `del`."""
    lines = path.read_text(encoding="utf-8").split("\n")
    indent = lines[node.lineno - 1][: node.col_offset]
    for number in range(node.lineno - 1, node.end_lineno or node.lineno):
        lines[number] = f"{indent}pass" if number == node.lineno - 1 else ""
    wanted = next(code for code in _codes(compile("\n".join(lines), str(path), "exec")) if _is(code, outer))
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for owner in (module, *(value for value in vars(module).values() if isinstance(value, type))):
        for value in vars(owner).values():
            function = getattr(value, "__wrapped__", value)
            if isinstance(function, FunctionType) and _is(function.__code__, outer):
                return function, wanted
    raise LookupError(f"{path}:{outer.lineno}")


def _is(code: CodeType, outer: ast.FunctionDef) -> bool:
    first = min([outer.lineno, *(decorator.lineno for decorator in outer.decorator_list)])
    return code.co_name == outer.name and code.co_firstlineno == first


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def figures(case: Case) -> Any:
    """Live bytes at every allocation of the step, or why there are none."""
    try:
        found = run(case).ledger
    except (NotModelled, AssertionError) as error:
        return type(error).__name__
    return [(segment.name, segment.events, segment.offsets) for segment in found.segments]


def cases() -> list[Case]:
    """Every architecture in turn with every way of training and every device, a few flat ones among them."""
    made = []
    turns = itertools.cycle(range(len(VARIANTS)))
    for name, config in CASES:
        for _ in range(3):
            number = next(turns)
            values = {"lora_dropout": 0.05, "lora_targets": ("attention",), **VARIANTS[number]}
            spec = from_config(dict(config), name)
            if spec.num_experts and number % 2:
                values |= {"lora_targets": ("all-linear",), "lora_dropout": 0.0, "lora_variant": "lora"}
            choices = TrainingChoices(**{"batch_size": 2, "max_length": 1, "gradient_accumulation_steps": 1, **values})
            target = TARGETS[len(made) % 3]
            case = Case(spec, choices, spec.num_layers if number % 2 else 0, padded=number == 3, target=target)
            made.append(case)
            if flattens(spec, choices):
                made.append(replace(case, flat=True, unaligned=target == "cuda"))
    return made


@pytest.mark.nightly
def test_every_del_carries_but_those_that_are_tidy() -> None:
    """GIVEN each `del` in turn left out WHEN steps run again THEN a figure is another, but where it says `# tidy`."""
    every = cases()
    hit: dict[Key, list[int]] = {}
    lines = {(str(path), node.lineno) for path, _, node in dels()}
    expected = []
    for number, case in enumerate(every):
        seen: set[Key] = set()

        def local(frame: Any, event: str, _: Any, seen: set[Key] = seen) -> Any:
            if event == "line":
                key = (frame.f_code.co_filename, frame.f_lineno)
                if key in lines:
                    seen.add(key)
            return local

        sys.settrace(lambda frame, event, _: local if "/memory/" in frame.f_code.co_filename else None)
        try:
            expected.append(figures(case))
        finally:
            sys.settrace(None)
        for key in seen:
            hit.setdefault(key, []).append(number)
    for path, outer, node in dels():
        name, text = path.relative_to(ROOT / "planner" / "memory").as_posix(), ast.unparse(node)
        chosen = hit.get((str(path), node.lineno), [])
        assert bool(chosen) != ((name, text) in UNREACHED), (name, text)
        function, code = without(path, outer, node)
        before, function.__code__ = function.__code__, code
        try:
            carries = any(figures(every[number]) != expected[number] for number in chosen[:12])
        finally:
            function.__code__ = before
        marked = "# tidy" in path.read_text(encoding="utf-8").split("\n")[node.lineno - 1]
        assert not chosen or carries != marked, (name, node.lineno, text)
