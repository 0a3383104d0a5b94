"""The commands that hand a plan, or what a run left behind, to the trainer's process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Optional

import typer

from planner.cli import options
from planner.cli.asked import DATA_HELP, DEVICE_HELP, JSON_HELP, Training
from planner.cli.options import option
from planner.contract.errors import InvalidInput

commands = typer.Typer()
PlanFile = Annotated[str, typer.Argument(metavar="PLAN", help="Plan file written by --save or the wizard.")]


def _words(record: Any, **more: object) -> list[str]:
    """A record of options as the trainer's command line takes them."""
    from planner.cli import handoff

    return handoff.options(**{**asdict(record), **more})


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@options.with_records
def train(context: typer.Context, plan_file: PlanFile, training: Training) -> int:
    """Trains from a plan file in a process of its own; Ctrl-C stops after the step with a checkpoint.

    Hyperparameters of the plan are overridden by options of their names: --learning-rate 1e-4 --epochs 3 …
    """
    extra = tuple(context.args)
    _refuse_unknown_hyperparameters(extra)
    if training.dry_run:
        return _dry_run(plan_file, training, extra)
    from planner.cli.children import run_train

    return run_train(plan_file, training, (*extra, *(("--skip-invalid",) if training.skip_invalid else ())))


def _dry_run(plan_file: str, training: Training, extra: tuple[str, ...]) -> int:
    from planner.cli import handoff

    named = [f"--{name}" for name in ("output", "resume", "adapter") if getattr(training, name)]
    for without in (*named, *extra):
        raise InvalidInput(f"{without} changes nothing in a dry run; leave it out")
    words = handoff.options(
        data=training.data, device=training.device, json=training.as_json, skip_invalid=training.skip_invalid
    )
    return handoff.run("dry-run", [plan_file, *words])


def _refuse_unknown_hyperparameters(words: tuple[str, ...]) -> None:
    """Options that are left over must be names of hyperparameters, each with its value."""
    from planner.contract.run_settings import Hyperparameters
    from planner.contract.settings import BY_NAME, near

    fields = Hyperparameters.model_fields
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise InvalidInput(f"unexpected argument {word!r}; plan train takes one plan file")
        flag, equals, _ = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name in BY_NAME:
            raise InvalidInput(
                f"{flag} is a setting of the plan: plan check … {flag} … --save FILE makes a plan with it"
            )
        if name not in fields and (field := fields.get(name.removeprefix("no_"))) and field.annotation is bool:
            continue
        if name not in fields:
            raise InvalidInput(f"no such option: {flag}{near(name, fields)}")
        if fields[name].annotation is bool:
            if equals:
                raise InvalidInput(f"{flag} takes no value; {flag} or --no-{flag[2:]}")
        elif not equals and (not left or left.pop(0).startswith("--")):
            raise InvalidInput(f"{flag} needs a value")


@commands.command()
def export(
    plan_file: PlanFile,
    tool: Annotated[
        str, typer.Option("--to", help="axolotl, llama-factory, trl, unsloth, litgpt, mlx-lm or torchtune.")
    ],
    output: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--output", help="New folder. Default <plan>-<tool>.", metavar="FOLDER"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> int:
    """The plan as another trainer's files, with the predicted peak of that trainer's stack in their header."""
    from planner.cli.exporting import run

    return run(plan_file=plan_file, tool=tool, output=output, as_json=as_json)


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """In which form a run goes out."""

    to: str = option("folder, gguf, ollama, mlx, vllm or hub.", default="folder")
    output: str | None = option("New folder. Default RUN-TO.", metavar="FOLDER")
    merged: bool = option("The adapter merged into its base.", "--merged", default=False)
    adapter: bool = option("The adapter alone, also as GGUF.", "--adapter", default=False)
    type: str | None = option("Of a GGUF file's matrices: f16, q8_0 or f32.")
    dtype: str | None = option("Of a merged model: auto, fp32, bf16 or fp16.")
    repo: str | None = option("Repository on the hub.", metavar="OWNER/NAME")
    public: bool = option("Visible to everybody; private without it.", "--public", default=False)


@commands.command()
@options.with_records
def publish(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run.")], made: Publication
) -> int:
    """A finished run for others to use: a folder with its card, GGUF, Ollama, MLX, vLLM, or the hub."""
    from planner.cli import handoff

    return handoff.run("publish", [run_dir, *_words(made)])


@dataclass(frozen=True, kw_only=True, slots=True)
class RangeTest:
    """How the learning rate is searched for."""

    data: str | None = option(DATA_HELP, metavar="PATH")
    device: str = option(DEVICE_HELP, default="auto")
    min: float = option("First learning rate.", default=1e-6)
    max: float = option("Last learning rate.", default=1e-1)
    steps: int = option("Optimizer steps from first to last.", default=100)
    plot: str | None = option("Picture of it (.png, .svg, .pdf).", metavar="FILE")
    json: bool = option(JSON_HELP, "--json", default=False)


@commands.command("find-lr")
@options.with_records
def find_lr(plan_file: PlanFile, test: RangeTest) -> int:
    """Learning-rate range test: the rate rises until the loss breaks away; a suggestion, and weak evidence."""
    from planner.cli import handoff

    return handoff.run("find-lr", [plan_file, *_words(test)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """What is varied, and how long each run is."""

    data: str | None = option(DATA_HELP, metavar="PATH")
    device: str = option(DEVICE_HELP, default="auto")
    learning_rates: str | None = option("Comma-separated.")
    ranks: str | None = option("LoRA ranks, comma-separated.")
    batches: str | None = option("Effective batches, comma-separated.")
    max_steps: int | None = option("Steps of each run.")
    epochs: float | None = option("Epochs of each run.")
    trials: int | None = option("Let Optuna propose so many runs within the ranges.")
    output: str = option("Folder of the runs.", default="runs/grid", metavar="FOLDER")
    json: bool = option(JSON_HELP, "--json", default=False)


@commands.command()
@options.with_records
def grid(plan_file: PlanFile, varied: Variation) -> int:
    """Short runs over learning rate, rank and batch, compared in a table."""
    from planner.cli import handoff

    return handoff.run("grid", [plan_file, *_words(varied)])


@commands.command()
def merge(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or an adapter's.")],
    output: Annotated[str, typer.Option("--output", help="Folder of the plain model.", metavar="FOLDER")],
    dtype: Annotated[str, typer.Option("--dtype", help="auto (the base's), fp32, bf16 or fp16.")] = "auto",
) -> int:
    """Merges the adapter of a finished run into its base: a plain model that needs no PEFT."""
    from planner.cli import handoff

    return handoff.run("merge", [run_folder, *handoff.options(output=output, dtype=dtype)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How text is drawn."""

    temperature: float = option("0 takes the likeliest token each time.", default=0.0)
    top_p: float = option("Draw among the likeliest tokens of this share.", default=1.0)
    top_k: int = option("Draw among so many tokens; 0 is off.", default=0)
    max_new_tokens: int = option("Tokens at most.", default=128)
    seed: int = option("Of what is drawn.", default=42)
    device: str = option(DEVICE_HELP, default="auto")


@commands.command()
@options.with_records
def generate(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, an adapter's, or a plain model's.")],
    prompt: Annotated[str, typer.Option("--prompt", help="Text, or - to read it from stdin.")],
    sampling: Sampling,
) -> int:
    """Text from a finished run."""
    from planner.cli import handoff

    return handoff.run("generate", [run_folder, f"--prompt={prompt}", *_words(sampling)])
