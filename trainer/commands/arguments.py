"""Options of the commands beside `run`; each is carried out by `command` of the module that it names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Adds dry-run, find-lr, grid, merge and presets."""
    dry = _on_a_plan(
        commands, "dry-run", "trainer.commands.dryrun", "one longest batch: measured peak beside the predicted one"
    )
    _both(dry, "full-length", action="store_true", help="pad the batch to max_length, as the prediction takes it")
    _both(dry, "skip-invalid", action="store_true", help="leave invalid examples out and count them")
    dry.add_argument("--json", action="store_true")

    finder = _on_a_plan(commands, "find-lr", "trainer.commands.finder", "learning-rate range test (weak evidence)")
    finder.add_argument("--min", type=float, default=1e-6, help="first rate (default 1e-6)")
    finder.add_argument("--max", type=float, default=1e-1, help="last rate (default 0.1); goes on if nothing broke")
    finder.add_argument("--steps", type=int, default=100, help="optimizer steps from --min to --max (default 100)")
    finder.add_argument("--plot", type=Path, metavar="FILE", help="picture of it: .png, .svg or .pdf (plot extra)")
    finder.add_argument("--output", type=Path, metavar="FILE", help="the numbers as JSON")
    finder.add_argument("--json", action="store_true")

    grid = _on_a_plan(
        commands, "grid", "trainer.commands.gridsearch", "short runs over learning rate, rank and batch, compared"
    )
    _both(grid, "learning-rates", type=_floats, help="comma-separated (default: a third, one, three times the plan's)")
    grid.add_argument("--ranks", type=_integers, help="LoRA ranks, comma-separated (default: the plan's)")
    grid.add_argument("--batches", type=_integers, help="effective batches, comma-separated (default: the plan's)")
    _both(grid, "max-steps", type=int, help="steps of each run")
    grid.add_argument("--epochs", type=float, help="epochs of each run (default: the plan's)")
    grid.add_argument("--trials", type=int, help="let Optuna propose this many runs within the ranges (search extra)")
    grid.add_argument("--output", type=Path, default=Path("runs/grid"), help="folder of the runs and of grid.md")
    grid.add_argument("--json", action="store_true")

    merge = commands.add_parser("merge", help="merge the adapter of a finished run into a plain model")
    merge.set_defaults(module="trainer.commands.merge")
    merge.add_argument("run_dir", type=Path, metavar="RUN")
    merge.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    merge.add_argument("--dtype", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="default: the base's")

    out = commands.add_parser("publish", help="a finished run as a folder, GGUF, for Ollama, MLX, vLLM, or on the hub")
    out.set_defaults(module="trainer.commands.publish")
    out.add_argument("run_dir", type=Path, metavar="RUN")
    out.add_argument("--to", choices=["folder", "gguf", "ollama", "mlx", "vllm", "hub"], default="folder")
    out.add_argument("--output", type=Path, metavar="FOLDER", help="new folder (default: RUN-TO)")
    way = out.add_mutually_exclusive_group()
    way.add_argument("--merged", action="store_true", help="the adapter merged into its base")
    way.add_argument("--adapter", action="store_true", help="the adapter alone, also as GGUF")
    out.add_argument("--type", choices=["f32", "f16", "q8_0"], default="f16", help="of a GGUF file's matrices")
    out.add_argument("--dtype", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="of a merged model")
    out.add_argument("--repo", metavar="OWNER/NAME", help="repository on the hub")
    out.add_argument("--public", action="store_true", help="visible to everybody (default: private)")

    presets = commands.add_parser("presets", help="a model from nothing on your own text: small, medium, large")
    presets.set_defaults(module="trainer.commands.scratch")
    presets.add_argument("name", nargs="?", metavar="NAME", help="without one: what there is")
    presets.add_argument("--data", type=Path, help="text file, or a folder of .txt files")
    presets.add_argument("--output", type=Path, metavar="FOLDER")
    _both(presets, "vocab-size", type=int, default=0, help="0: bytes; else a BPE of this size is learned from the text")
    presets.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    presets.add_argument("--precision", default="fp32")
    presets.add_argument("--epochs", type=float)
    _both(presets, "max-length", type=int)
    presets.add_argument("--no-train", dest="train", action="store_false", help="only write folder and plan")


def add_hyperparameters(run: argparse.ArgumentParser) -> None:
    """Every hyperparameter of the plan as an option, so that a plan file is overridden by flags."""
    from planner.contract.run_settings import Hyperparameters

    group = run.add_argument_group("hyperparameters, instead of the plan's")
    for name, field in Hyperparameters.model_fields.items():
        kind = str(field.annotation).replace("typing.", "").removeprefix("<class '").removesuffix("'>")
        if field.annotation is bool:
            _both(group, name.replace("_", "-"), action=argparse.BooleanOptionalAction, default=None)
        else:
            _both(group, name.replace("_", "-"), default=None, metavar="VALUE", help=kind.replace("%", "%%"))


def given_hyperparameters(given: argparse.Namespace) -> dict[str, object]:
    """The hyperparameters that were given."""
    from planner.contract.run_settings import Hyperparameters

    values = {name: getattr(given, name, None) for name in Hyperparameters.model_fields}
    return {name: value for name, value in values.items() if value is not None}


def _on_a_plan(commands: Any, name: str, module: str, help: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help)
    parser.set_defaults(module=module)
    parser.add_argument("plan", type=Path, help="plan file (YAML or JSON)")
    parser.add_argument("--data", help="training data instead of the plan's")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    return parser


def _both(parser: Any, name: str, **options: Any) -> None:
    """An option with hyphens or underscores."""
    names = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
    parser.add_argument(*names, dest=name.replace("-", "_"), **options)


def _floats(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers like 1e-4,3e-4") from None


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers like 8,16") from None
