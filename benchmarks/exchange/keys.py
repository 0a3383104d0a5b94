"""Lists the keys that each tool takes, from its package's own source; nothing of it is imported or run.

`pip download --no-deps axolotl llamafactory trl litgpt mlx-lm`, unpack each wheel into FOLDER, then
`python -m benchmarks.exchange.keys FOLDER > tests/planner/exchange/keys.json`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

PYPI = "https://pypi.org/project/{}/{}/"


def fields(path: Path) -> dict[str, list[str]]:
    """Annotated names of every class in a file."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            names = [
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
            found[node.name] = names
    return found


def arguments(path: Path, function: str) -> list[str]:
    """Parameters of a function in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return [item.arg for item in (*node.args.args, *node.args.kwonlyargs)]
    raise SystemExit(f"{path}: no function {function}")


def version(folder: Path, name: str) -> str:
    """Of the unpacked wheel."""
    found = next(folder.rglob(f"{name}-*.dist-info"))
    return found.name.removeprefix(f"{name}-").removesuffix(".dist-info")


def main(folder: Path) -> None:
    """Prints the lists as JSON."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise SystemExit("transformers is not installed")
    training = fields(Path(spec.origin).parent / "training_args.py")["TrainingArguments"]
    schemas = folder.rglob("axolotl/utils/schemas/*.py")
    axolotl = sorted({name for path in schemas for names in fields(path).values() for name in names})
    factory = sorted(
        {
            name
            for path in folder.rglob("llamafactory/hparams/*.py")
            for names in fields(path).values()
            for name in names
        }
    )
    trl_files = [
        next(folder.rglob(f"trl/{name}"))
        for name in ("trainer/sft_config.py", "trainer/model_config.py", "scripts/utils.py")
    ]
    base = next(folder.rglob("trl/trainer/base_config.py"))
    trl = sorted(
        {name for path in (*trl_files, base) for names in fields(path).values() for name in names} | set(training)
    )
    lora = next(folder.rglob("litgpt/finetune/lora.py"))
    mlx = next(folder.rglob("mlx_lm/lora.py")).read_text()
    content = {
        "axolotl": {"version": version(folder, "axolotl"), "keys": axolotl},
        "llama-factory": {"version": version(folder, "llamafactory"), "keys": sorted({*factory, *training})},
        "trl": {"version": version(folder, "trl"), "keys": trl},
        "litgpt": {
            "version": version(folder, "litgpt"),
            "keys": arguments(lora, "setup"),
            "train": fields(next(folder.rglob("litgpt/args.py")))["TrainArgs"],
        },
        "mlx-lm": {"version": version(folder, "mlx_lm"), "keys": sorted(set(re.findall(r'^    "(\w+)":', mlx, re.M)))},
    }
    for tool, name in (
        ("axolotl", "axolotl"),
        ("llama-factory", "llamafactory"),
        ("trl", "trl"),
        ("litgpt", "litgpt"),
        ("mlx-lm", "mlx-lm"),
    ):
        content[tool]["address"] = PYPI.format(name, content[tool]["version"])
    lines = [f"{json.dumps(tool)}: {json.dumps(found)}" for tool, found in content.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
