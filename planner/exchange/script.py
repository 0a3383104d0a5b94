"""A training script or notebook: the calls in its syntax tree are read, and nothing of it is run."""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Container

from planner.contract import json_text
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.yaml_text import Document
from planner.exchange import trl_script
from planner.exchange.keys import Keys

CALLS = {
    "from_pretrained",
    "get_peft_model",
    "SFTConfig",
    "TrainingArguments",
    "UnslothTrainingArguments",
    "SFTTrainer",
}


def document(text: str, where: str) -> Document:
    """A script's or notebook's calls as a mapping: name of the call -> keyword -> value, with their lines."""
    source = _cells(text, where) if text.lstrip().startswith("{") else text
    tree, line = _parsed(source)
    if tree is None:
        raise InvalidInput(f"{where}{line}: not Python that can be read")
    known = _constants(tree)
    content: dict[str, object] = {}
    lines: dict[tuple[str | int, ...], int] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or (name := _called(node)) not in CALLS or _is_other(node, name):
            continue
        name = {"TrainingArguments": "SFTConfig", "UnslothTrainingArguments": "SFTConfig"}.get(name, name)
        if name in content:
            continue  # a notebook loads its result again to use it
        arguments = content[name] = {}
        lines[name,] = node.lineno
        for keyword in node.keywords:
            if keyword.arg is not None:
                arguments[keyword.arg] = _value(keyword.value, known)
                lines[name, keyword.arg] = keyword.value.lineno
        if name == "from_pretrained" and node.args and "model_name" not in arguments:
            arguments["model_name"] = _value(node.args[0], known)
    _require_training(tree, where)
    if "from_pretrained" not in content:
        of_trl = trl_script.document(tree, where, lambda node: _value(node, known))
        if of_trl is not None:
            return of_trl
        raise InvalidInput(
            f"{where}: neither Unsloth's from_pretrained nor TRL's SFTTrainer with a causal model is called in it, and "
            "other scripts are not read; name TRL's settings as YAML, JSON or a command line"
        )
    return Document(where=where, value=content, lines=lines)


def _parsed(source: str) -> tuple[ast.Module | None, str]:
    """The syntax tree, or None and the line that has no place in one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source), ""
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return None, f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""


def _require_training(tree: ast.Module, where: str) -> None:
    """Other trainers of TRL keep more than a supervised step; a script without any trains nothing."""
    called = {_called(node): node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call)}
    trainers = [name for name in called if name.endswith("Trainer")]
    for name in trainers:
        if name not in ("SFTTrainer", "UnslothTrainer", "Trainer"):
            raise NotModelled(f"{where}:{called[name]}: {name} is not modelled: it does more than a supervised step")
    if not trainers:
        raise InvalidInput(f"{where}: no trainer is made in it (SFTTrainer), so nothing is trained")


class Unreadable:
    """An argument that is computed when the script runs."""

    def __init__(self, call: str = "") -> None:
        self.call = call
        """The function that computes it, where it is one call."""

    def __repr__(self) -> str:
        return f"{self.call}(…)" if self.call else "an expression"


def literal(below: Keys, silent: Container[str] = ()) -> Keys:
    """The call without the arguments that are computed, which are noted but for those that hold no setting."""
    computed = [name for name, value in below.content.items() if _computed(value)]
    below.content = {name: value for name, value in below.content.items() if name not in computed}
    for name in computed:
        if name not in silent:
            below.note(name, "unknown", "computed when the script runs; not used")
    return below


def _computed(value: object) -> bool:
    if isinstance(value, dict):
        return any(_computed(item) for item in value.values())
    return isinstance(value, Unreadable) or (isinstance(value, list) and any(_computed(item) for item in value))


_MATTERS = re.compile(rf"\b(?:{'|'.join(sorted(CALLS.union(trl_script.CALLS)))}|\w*Trainer)\s*\(")


def _cells(text: str, where: str) -> str:
    """The code of a notebook, magics left out, and cells that are no Python where no call stands that matters."""
    content = json_text.parse_object(text, where)
    cells = content.get("cells")
    if not isinstance(cells, list):
        raise InvalidInput(f"{where}: no cells in it, so it is no notebook")
    parts: list[str] = []
    for cell in cells:
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source")
        code = "".join(part for part in source if isinstance(part, str)) if isinstance(source, list) else source
        if not isinstance(code, str) or code.lstrip().startswith("%%"):
            continue
        code = "\n".join("pass" if line.lstrip().startswith(("!", "%")) else line for line in _kept(code))
        if _parsed(code)[0] is None and not _MATTERS.search(code):
            code = "\n" * code.count("\n")
        parts.append(code)
    return "\n".join(parts)


def _kept(code: str) -> list[str]:
    """Lines of a cell; those that a magic goes on in are dropped with it."""
    kept, magic = [], False
    for line in code.splitlines():
        begins = line.lstrip().startswith(("!", "%"))
        if magic or begins:
            indent = line[: len(line) - len(line.lstrip())]
            kept.append(indent + "pass" if begins else "")
            magic = line.rstrip().endswith("\\")
        else:
            kept.append(line)
    return kept


def _constants(tree: ast.Module) -> dict[str, object]:
    """Names that are bound to one value, at the top level, that stands there."""
    found: dict[str, object] = {}
    several: set[str] = set()
    for statement in tree.body:
        if not isinstance(statement, ast.Assign):
            continue
        for target in statement.targets:
            for name, value in _bound(target, statement.value):
                known = {key: item for key, item in found.items() if key not in several}
                read = _value(value, known)
                if name in found and repr(found[name]) != repr(read):
                    several.add(name)
                found[name] = read
    return {name: value for name, value in found.items() if name not in several and not isinstance(value, Unreadable)}


def _bound(target: ast.expr, value: ast.expr) -> list[tuple[str, ast.expr]]:
    """Names on the left with what they are given; `a, b = 1, 2` has two."""
    if isinstance(target, ast.Name):
        return [(target.id, value)]
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        pairs = zip(target.elts, value.elts, strict=True)
        return [(name.id, item) for name, item in pairs if isinstance(name, ast.Name)]
    return []


def _called(node: ast.Call) -> str:
    function = node.func
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _is_other(node: ast.Call, name: str) -> bool:
    """`AutoTokenizer.from_pretrained` and its like load no model to train."""
    if name != "from_pretrained" or not isinstance(node.func, ast.Attribute):
        return False
    owner = node.func.value
    return isinstance(owner, ast.Name) and not owner.id.startswith("Fast")


_SUMS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def _value(node: ast.expr, known: dict[str, object], depth: int = 0) -> object:
    """A literal, a list of them, a sum of them, a name bound to one; anything else is what it is written as."""
    if depth > 8:
        return Unreadable()
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str | int | float | bool | None) else Unreadable()
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item, known, depth + 1) for item in node.elts[:256]]
    if isinstance(node, ast.Dict):
        names = [key.value if isinstance(key, ast.Constant) else None for key in node.keys[:256]]
        if all(isinstance(name, str) for name in names):
            return {name: _value(item, known, depth + 1) for name, item in zip(names, node.values, strict=False)}
        return Unreadable()
    if isinstance(node, ast.UnaryOp | ast.BinOp):
        return _reckoned(node, known, depth)
    if isinstance(node, ast.JoinedStr):
        parts = [_value(part, known, depth + 1) for part in node.values]
        return "".join(map(str, parts)) if all(isinstance(part, str | int) for part in parts) else Unreadable()
    if isinstance(node, ast.FormattedValue) and node.format_spec is None and node.conversion == -1:
        return _value(node.value, known, depth + 1)
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
        return node.attr
    if isinstance(node, ast.Call):
        named = _called(node)
        return True if named in ("is_bfloat16_supported", "is_bf16_supported") else Unreadable(named)
    return Unreadable()


def _reckoned(node: ast.UnaryOp | ast.BinOp, known: dict[str, object], depth: int) -> object:
    """A sign, a negation, or a sum of two numbers: `rank * 2`."""
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, known, depth + 1)
        if isinstance(node.op, ast.Not) and isinstance(inner, bool):
            return not inner
        number = isinstance(inner, int | float) and not isinstance(inner, bool)
        return -inner if isinstance(node.op, ast.USub) and number else Unreadable()  # type: ignore[operator]
    reckon = _SUMS.get(type(node.op))
    one, other = (_value(side, known, depth + 1) for side in (node.left, node.right))
    if reckon is None or not isinstance(one, int | float) or not isinstance(other, int | float):
        return Unreadable()
    try:
        return reckon(one, other) if max(abs(one), abs(other)) < 2**40 else Unreadable()
    except (ZeroDivisionError, OverflowError):
        return Unreadable()
