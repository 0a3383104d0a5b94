"""Command line of the trace: settings as in `plan check`, one JSON object on stdout."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from planner.contract import edge, json_text, text_file
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.settings import convert
from planner.contract.towers import text_part
from planner.contract.words import LAYOUT, one_line, visible


def parser() -> argparse.ArgumentParser:
    """Arguments: the settings of `TrainingChoices` (hyphens or underscores) and those of the trace itself."""
    made = argparse.ArgumentParser(prog="python -m trainer.trace", description=__doc__)
    made.add_argument("--config", required=True, help="config.json, a folder holding one, or - for stdin")
    made.add_argument("--target", choices=("cuda", "cpu", "mps"), default="cuda")
    made.add_argument("--padded", action="store_true", help="some tokens of the batch are padding")
    made.add_argument("--lengths", help="rows of a ragged batch: 512,437,301, or packed 512,300+212")
    made.add_argument("--kernel", default="auto", choices=("auto", "pre-ampere", "flash", "efficient", "math", "cudnn"))
    made.add_argument("--cublas-workspace-bytes", type=int, help="all cuBLAS workspaces together")
    made.add_argument("--json", action="store_true")
    made.add_argument("--explain", action="store_true", help="the largest groups of live storages, on stderr")
    made.add_argument("--evaluate", action="store_true", help="an evaluation batch follows the step")
    made.add_argument("--events", action="store_true", help="include every allocation and release")
    for field in fields(TrainingChoices):
        name = "--" + field.name.replace("_", "-")
        aliases = [name] if "_" not in field.name else [name, "--" + field.name]
        if isinstance(field.default, bool):
            made.add_argument(*aliases, action=argparse.BooleanOptionalAction, dest=field.name, default=None)
        else:
            made.add_argument(*aliases, dest=field.name, default=None)
    return made


def choices_from(arguments: argparse.Namespace) -> TrainingChoices:
    """The settings that were given, checked; raises InvalidInput."""
    values: dict[str, Any] = {}
    for field in fields(TrainingChoices):
        given = getattr(arguments, field.name)
        if given is None:
            continue
        values[field.name] = convert(field.name, given)
    return TrainingChoices(**values)


def read_lengths(text: str) -> list[tuple[int, ...]]:
    """Row by row the lengths of its sequences: rows are parted by commas, sequences of one row by plus signs."""
    try:
        return [tuple(int(part) for part in row.split("+")) for row in text.split(",")]
    except ValueError:
        raise InvalidInput(f"--lengths {text!r}: expected whole numbers such as 512,437 or 512,300+212") from None


def read_config(where: str) -> dict[str, object]:
    """A config.json (or a catalogue entry's, which stands under `config`); of a multimodal model its text part."""
    name = f"--config {where}"
    if where == "-":
        text = sys.stdin.read()
    else:
        path = Path(where)
        text = text_file.read(path / "config.json" if path.is_dir() else path, name, max_bytes=json_text.MAX_BYTES)
    content = json_text.parse(text, name)
    if isinstance(content, dict) and isinstance(content.get("config"), dict):
        content = content["config"]
    if not isinstance(content, dict):
        raise InvalidInput(f"--config {where}: a JSON object is expected")
    return text_part(content)


def main(argv: list[str] | None = None) -> int:
    """Runs one trace; returns the process exit code."""
    arguments = parser().parse_args(argv)
    try:
        choices, config = choices_from(arguments), read_config(arguments.config)
        from trainer.modeling.build import is_causal
        from trainer.trace import Setup, explain, trace

        if arguments.loss is None:
            choices = choices.with_usual_loss("causal" if is_causal(config) else "other")
        if arguments.optimizer_implementation is None:
            choices = choices.with_usual_implementation(arguments.target)
        extra: dict[str, Any] = {}
        if arguments.lengths is not None:
            extra["lengths"] = read_lengths(arguments.lengths)
        if arguments.cublas_workspace_bytes is not None:
            extra["cublas_workspace_bytes"] = arguments.cublas_workspace_bytes
        result = trace(
            config,
            choices,
            Setup(
                target=arguments.target,
                padded=arguments.padded,
                kernel=arguments.kernel,
                events=arguments.events,
                evaluate=arguments.evaluate,
                **extra,
            ),
        )
    except TuneplanError as error:
        print(one_line(error), file=sys.stderr)
        return error.exit_code
    except Exception as error:
        line, code = edge.account(error)
        print(one_line(line), file=sys.stderr)
        return code
    if arguments.explain:
        print(visible(explain(result), keep=LAYOUT), file=sys.stderr)
    print(json.dumps(result.to_json()))
    return 0
