"""The commands. Each turns options into a request, asks the planner, and prints; heavy imports stay inside."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, Optional

import typer

from planner.cli import options
from planner.cli.talk import print_json
from planner.contract.errors import InvalidInput

app = typer.Typer(
    name="plan",
    help="Says what fits on a GPU before you fine-tune on it, and then trains what it promised.",
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": options.hyphens},
)

Gpu = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--gpu", help="Device by name or alias (plan gpus); auto: this machine's.", autocompletion=options.complete_gpu
    ),
]
Model = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--model",
        help="Catalogue name, hub id, config.json or a folder that holds one. Default phi-2.",
        autocompletion=options.complete_model,
    ),
]
Data = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--data", help="JSONL, JSON, CSV or parquet file, or a folder of them.", metavar="PATH"),
]
DataFormat = Annotated[
    str,
    typer.Option(
        "--format",
        help="Shape of the examples: auto, messages, prompt-completion, alpaca, sharegpt, text, classification, "
        "preference (the chosen answers of pairs).",
        autocompletion=options.complete_values(
            ("auto", "messages", "prompt-completion", "alpaca", "sharegpt", "text", "classification", "preference")
        ),
    ),
]
Columns = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--columns", help="Other column names, as role=name (prompt=question).", metavar="ROLE=NAME"),
]
SkipInvalid = Annotated[
    bool, typer.Option("--skip-invalid", help="Leave invalid examples out, and say how many, instead of stopping.")
]
Split = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--validation-split", help="Share of the examples that validates. Default 0.1, less for large data."),
]
Effective = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--effective-batch-size",
        help="Sequences per optimizer step over all devices. Default 16, fewer where data would make under 100 steps.",
    ),
]
Reserve = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--reserve", help="Memory to leave free, as 2, 1.5GiB or 512MiB (a bare number is GiB)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of a report.")]


@app.callback(invoke_without_command=True)
@options.with_settings
def recommend(
    context: typer.Context,
    gpu: Gpu = None,
    model: Model = None,
    data: Data = None,
    format: DataFormat = "auto",
    columns: Columns = None,
    skip_invalid: SkipInvalid = False,
    validation_split: Split = None,
    effective_batch_size: Effective = None,
    goal: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--goal",
            help="Which tier is recommended: fastest, balanced (default) or safest.",
            autocompletion=options.complete_values(("fastest", "balanced", "safest")),
        ),
    ] = None,
    scenario: Annotated[
        str,
        typer.Option(
            "--scenario",
            help="The guides' presets: quick, standard, production, memory-constrained, time-constrained.",
            autocompletion=options.complete_values(
                ("quick", "standard", "production", "memory-constrained", "time-constrained")
            ),
        ),
    ] = "standard",
    reserve: Reserve = None,
    as_json: AsJson = False,
    save: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--save", help="Write the recommended configuration as a plan file.", metavar="FILE"),
    ] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Only the table and the command that starts the run.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    **settings: Any,
) -> int:
    """Says what fits on a GPU before you fine-tune on it, and then trains what it promised.

    With options and no command it recommends; alone in a terminal it opens the wizard.
    """
    if version:
        from planner import __version__

        print(__version__)
        return 0
    if context.invoked_subcommand is not None:
        _refuse_stray_options(context)
        return 0
    from planner.cli.recommend import run

    return run(
        gpu=gpu,
        model=model,
        data=data,
        format=format,
        columns=columns,
        skip_invalid=skip_invalid,
        validation_split=validation_split,
        effective_batch_size=effective_batch_size,
        goal=goal,
        scenario=scenario,
        reserve=reserve,
        as_json=as_json,
        save=save,
        brief=brief,
        settings=settings,
    )


def _refuse_stray_options(context: typer.Context) -> None:
    """Options before a command would be dropped in silence."""
    command = context.invoked_subcommand
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and context.params.get(name) is not None:
            flag = max(parameter.opts, key=len)
            raise InvalidInput(f"{flag} stands before {command}; write it after: plan {command} {flag} …")


@app.command()
@options.with_settings
def check(
    gpu: Gpu = None,
    model: Model = None,
    data: Data = None,
    format: DataFormat = "auto",
    columns: Columns = None,
    skip_invalid: SkipInvalid = False,
    validation_split: Split = None,
    effective_batch_size: Effective = None,
    reserve: Reserve = None,
    as_json: AsJson = False,
    save: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--save", help="Write this configuration as a plan file.", metavar="FILE"),
    ] = None,
    from_file: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--from",
            help="Another trainer's file (Axolotl, LLaMA-Factory, TRL, Unsloth, LitGPT, torchtune, mlx-lm); again for "
            "accelerate's or DeepSpeed's config beside it.",
            metavar="FILE",
        ),
    ] = None,
    from_tool: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--from-tool", help="Whose file it is, where its keys don't tell."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="The binding event as a polynomial, component by component.")
    ] = False,
    explain_all: Annotated[bool, typer.Option("--explain-all", help="The same for every instant.")] = False,
    **settings: Any,
) -> int:
    """One configuration: does it fit, how tightly, why, and what to change."""
    from planner.cli.recommend import run_check

    foreign = None
    if from_file:
        from planner.cli.foreign import asked

        foreign, model, settings = asked(from_file, from_tool, model=model, settings=settings)
    elif from_tool is not None:
        raise InvalidInput("--from-tool says whose file --from names, which is not given")
    return run_check(
        gpu=gpu,
        model=model,
        data=data,
        format=format,
        columns=columns,
        skip_invalid=skip_invalid,
        validation_split=validation_split,
        effective_batch_size=effective_batch_size,
        reserve=reserve,
        as_json=as_json,
        save=save,
        explain="all" if explain_all else "binding" if explain else None,
        settings=settings,
        foreign=foreign,
    )


@app.command()
@options.with_settings
def trace(
    gpu: Gpu = None,
    model: Model = None,
    reserve: Reserve = None,
    as_json: AsJson = False,
    timeline: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--timeline", help="Picture of the step, live bytes by component (.png, .svg, .pdf).", metavar="FILE"
        ),
    ] = None,
    memory_viewer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--memory-viewer", help="The step for pytorch.org/memory_viz (pickle).", metavar="FILE"),
    ] = None,
    **settings: Any,
) -> int:
    """The same question as check, answered by tracing the real step on fake tensors (needs the train extra)."""
    from planner.cli.tracing import run_trace

    return run_trace(
        gpu=gpu,
        model=model,
        reserve=reserve,
        as_json=as_json,
        settings=settings,
        timeline=timeline,
        memory_viewer=memory_viewer,
    )


@app.command()
@options.with_settings
def learn(
    name: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=options.complete_model)],
    gpu: Gpu = None,
    as_json: AsJson = False,
    **settings: Any,
) -> int:
    """Records what a model without a written program allocates under these settings (needs the train extra)."""
    from planner.cli.learning import run_learn

    return run_learn(name, gpu=gpu, as_json=as_json, settings=settings)


@app.command()
def gpus(
    name: Annotated[Optional[str], typer.Argument(autocompletion=options.complete_gpu)] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> int:
    """Devices that are known, with sources; NAME shows one in full."""
    from planner.calibration import attach
    from planner.devices import profiles
    from planner.report import listing

    if name is not None:
        return _show(attach.find(name), listing.gpu_record, listing.gpu_view, as_json)
    return _show(profiles.all_profiles(), listing.gpu_record, listing.gpus_view, as_json)


@app.command()
def models(
    name: Annotated[Optional[str], typer.Argument(autocompletion=options.complete_model)] = None,  # noqa: UP045
    as_json: AsJson = False,
) -> int:
    """Models whose dimensions are known, with sources; NAME shows one in full. Any other config.json works too."""
    from planner.models import catalogue
    from planner.report import listing

    if name is not None:
        return _show(catalogue.entry(name), listing.model_record, listing.model_view, as_json)
    return _show(catalogue.entries(), listing.model_record, listing.models_view, as_json)


def _show(found: Any, record: Callable[[Any], Any], view: Callable[[Any, Any], None], as_json: bool) -> int:
    """One thing or a sequence of them: as JSON by `record`, else drawn by `view`."""
    if as_json:
        print_json([record(each) for each in found] if isinstance(found, (list, tuple)) else record(found))
        return 0
    from planner.report import words

    view(words.make_console(), found)
    return 0


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    plan_file: Annotated[str, typer.Argument(metavar="PLAN", help="Plan file written by --save or the wizard.")],
    data: Data = None,
    skip_invalid: SkipInvalid = False,
    output: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--output", help="Run folder. Default runs/<time>-<model>.", metavar="FOLDER"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest good checkpoint.")] = False,
    adapter: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--adapter", help="Start from this adapter (PEFT format) instead of a new one.", metavar="FOLDER"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="One longest batch only: measured peak beside the predicted one.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="The trainer's events as JSON lines.")] = False,
) -> int:
    """Trains from a plan file in a process of its own; Ctrl-C stops after the step with a checkpoint.

    Hyperparameters of the plan are overridden by options of their names: --learning-rate 1e-4 --epochs 3 …
    """
    extra = tuple(context.args)
    _refuse_unknown_hyperparameters(extra)
    skipping = ("--skip-invalid",) if skip_invalid else ()
    if dry_run:
        from planner.cli import handoff

        unused = ("--output" if output else "--resume" if resume else "--adapter" if adapter else None, *extra)
        if without := next((word for word in unused if word), None):
            raise InvalidInput(f"{without} changes nothing in a dry run; leave it out")
        return handoff.run("dry-run", [plan_file, *handoff.options(data=data, device=device, json=as_json), *skipping])
    from planner.cli.children import run_train

    return run_train(
        plan_file,
        data=data,
        output=output,
        resume=resume,
        device=device,
        as_json=as_json,
        adapter=adapter,
        extra=(*extra, *skipping),
    )


def _refuse_unknown_hyperparameters(words: tuple[str, ...]) -> None:
    """Options that are left over must be names of hyperparameters, each with its value."""
    from planner.contract.records import Hyperparameters
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


PlanFile = Annotated[str, typer.Argument(metavar="PLAN", help="Plan file written by --save or the wizard.")]
Device = Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")]
Text = Optional[str]  # noqa: UP045


@app.command()
def export(
    plan_file: PlanFile,
    tool: Annotated[
        str, typer.Option("--to", help="axolotl, llama-factory, trl, unsloth, litgpt, mlx-lm or torchtune.")
    ],
    output: Annotated[
        Text, typer.Option("--output", help="New folder. Default <plan>-<tool>.", metavar="FOLDER")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """The plan as another trainer's files, with the predicted peak of that trainer's stack in their header."""
    from planner.cli.exporting import run

    return run(plan_file=plan_file, tool=tool, output=output, as_json=as_json)


@app.command("find-lr")
def find_lr(
    plan_file: PlanFile,
    data: Data = None,
    device: Device = "auto",
    low: Annotated[float, typer.Option("--min", help="First learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option("--max", help="Last learning rate.")] = 1e-1,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps from first to last.")] = 100,
    plot: Annotated[Text, typer.Option("--plot", help="Picture of it (.png, .svg, .pdf).", metavar="FILE")] = None,
    as_json: AsJson = False,
) -> int:
    """Learning-rate range test: the rate rises until the loss breaks away; a suggestion, and weak evidence."""
    from planner.cli import handoff

    words = handoff.options(data=data, device=device, min=low, max=high, steps=steps, plot=plot, json=as_json)
    return handoff.run("find-lr", [plan_file, *words])


@app.command()
def grid(
    plan_file: PlanFile,
    data: Data = None,
    device: Device = "auto",
    learning_rates: Annotated[Text, typer.Option("--learning-rates", help="Comma-separated.")] = None,
    ranks: Annotated[Text, typer.Option("--ranks", help="LoRA ranks, comma-separated.")] = None,
    batches: Annotated[Text, typer.Option("--batches", help="Effective batches, comma-separated.")] = None,
    max_steps: Annotated[Optional[int], typer.Option("--max-steps", help="Steps of each run.")] = None,  # noqa: UP045
    epochs: Annotated[Optional[float], typer.Option("--epochs", help="Epochs of each run.")] = None,  # noqa: UP045
    trials: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--trials", help="Let Optuna propose so many runs within the ranges."),
    ] = None,
    output: Annotated[str, typer.Option("--output", help="Folder of the runs.", metavar="FOLDER")] = "runs/grid",
    as_json: AsJson = False,
) -> int:
    """Short runs over learning rate, rank and batch, compared in a table."""
    from planner.cli import handoff

    words = handoff.options(
        data=data,
        device=device,
        learning_rates=learning_rates,
        ranks=ranks,
        batches=batches,
        max_steps=max_steps,
        epochs=epochs,
        trials=trials,
        output=output,
        json=as_json,
    )
    return handoff.run("grid", [plan_file, *words])


@app.command()
def merge(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or an adapter's.")],
    output: Annotated[str, typer.Option("--output", help="Folder of the plain model.", metavar="FOLDER")],
    dtype: Annotated[str, typer.Option("--dtype", help="auto (the base's), fp32, bf16 or fp16.")] = "auto",
) -> int:
    """Merges the adapter of a finished run into its base: a plain model that needs no PEFT."""
    from planner.cli import handoff

    return handoff.run("merge", [run_folder, *handoff.options(output=output, dtype=dtype)])


@app.command()
def generate(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, an adapter's, or a plain model's.")],
    prompt: Annotated[str, typer.Option("--prompt", help="Text, or - to read it from stdin.")],
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Draw among the likeliest tokens of this share.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", help="Draw among so many tokens; 0 is off.")] = 0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Tokens at most.")] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn.")] = 42,
    device: Device = "auto",
) -> int:
    """Text from a finished run."""
    from planner.cli import handoff

    words = handoff.options(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=max_new_tokens,
        seed=seed,
        device=device,
    )
    return handoff.run("generate", [run_folder, f"--prompt={prompt}", *words])


@app.command()
def demo(
    output: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--output", help="Where the demonstration's files go. Default runs/demo-<time>.", metavar="FOLDER"
        ),
    ] = None,
    epochs: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--epochs", help="Passes over the data instead of the advised ones."),
    ] = None,
) -> int:
    """Plans for this machine, trains the embedded small model, and compares promised with measured."""
    from planner.cli.demo import run

    return run(output=output, epochs=epochs)


@app.command("wizard", hidden=True)
@app.command()
def ui(gpu: Gpu = None, model: Model = None, data: Data = None) -> int:
    """The wizard: hardware, model, data, plan and a live run, by keyboard; what is given is chosen already."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput("plan ui needs a terminal; plan --gpu … prints the same answer without one")
    from planner.tui import app as wizard

    given = {name: value for name, value in (("gpu", gpu), ("model", model), ("data", data)) if value is not None}
    return int(wizard.run(given) or 0)


@app.command()
def calibrate(
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
    minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--minutes", help="Time to spend. Default below 3 on a GPU, below 5 on a CPU."),
    ] = None,
    fit_only: Annotated[
        bool, typer.Option("--fit-only", help="Measure nothing; fit the observations that are there.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Measures real steps on this machine and corrects predictions by them (needs the train extra)."""
    from planner.cli.calibrate import run

    return run(device=device, minutes=minutes, fit_only=fit_only, as_json=as_json)


@app.command()
def doctor(as_json: AsJson = False) -> int:
    """Versions, devices and extras of this machine."""
    from planner.cli.doctor import run

    return run(as_json=as_json)
