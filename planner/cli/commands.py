"""The commands beside the recommendation. Each turns options into a question, asks the planner, and prints.

Those that hand a plan to the trainer stand in `planner.cli.handing`; heavy imports stay inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Optional

import typer

from planner.cli import options
from planner.cli.asked import GPU_HELP, JSON_HELP, Aim, Batch, Elsewhere, Source, Target, TimeLimit
from planner.cli.options import option
from planner.cli.talk import print_json
from planner.contract.errors import InvalidInput

commands = typer.Typer()
AsJson = Annotated[bool, typer.Option("--json", help=JSON_HELP)]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckOutput:
    """How the judgement of one configuration comes out."""

    as_json: bool = option(JSON_HELP, "--json", default=False)
    save: str | None = option("Write this configuration as a plan file.", metavar="FILE")
    explain: bool = option("The binding event as a polynomial, component by component.", "--explain", default=False)
    explain_all: bool = option("The same for every instant.", "--explain-all", default=False)


@commands.command()
@options.with_records
def check(target: Target, source: Source, batch: Batch, output: CheckOutput, elsewhere: Elsewhere) -> int:
    """One configuration: does it fit, how tightly, why, and what to change."""
    from planner.cli.learning import learned
    from planner.cli.recommend import run_check
    from planner.cli.resolve import resolve

    foreign = None
    if elsewhere.files:
        from planner.cli.foreign import asked

        foreign, target = asked(elsewhere.files, elsewhere.tool, target)
    elif elsewhere.tool is not None:
        raise InvalidInput("--from-tool says whose file --from names, which is not given")
    question = learned(lambda: resolve(target, source, batch), many=False)
    wanted = "all" if output.explain_all else "binding" if output.explain else None
    return run_check(question, as_json=output.as_json, save=output.save, explain=wanted, foreign=foreign)


@commands.command("max")
@options.with_records
def largest(
    target: Target,
    source: Source,
    batch: Batch,
    what: Annotated[str, typer.Option("--what", help="length, batch, rank or model.")] = "length",
    as_json: AsJson = False,
) -> int:
    """The question turned round: the longest sequences, the largest micro-batch, rank or models that fit."""
    from planner.cli.learning import learned
    from planner.cli.resolve import resolve
    from planner.cli.turned import run_max

    return run_max(learned(lambda: resolve(target, source, batch)), what=what, as_json=as_json)


@dataclass(frozen=True, kw_only=True, slots=True)
class Several:
    """Devices to compare."""

    num_gpus: str | None = option("How many of each, as 1,2,4. Default 1.")
    prices: str | None = option("TOML file of prices in place of the dated snapshot.", metavar="FILE")


@commands.command()
@options.with_records
def compare(target: Target, source: Source, aim: Aim, several: Several, as_json: AsJson = False) -> int:
    """The same question on several devices: memory, speed, hours and, where a price is known, money."""
    from dataclasses import replace

    from planner.cli.learning import learned
    from planner.cli.resolve import resolve
    from planner.cli.turned import run_compare

    names = target.gpu or ""
    first = next((name.strip() for name in names.split(",") if name.strip()), None)
    question = learned(lambda: resolve(replace(target, gpu=first), source, aim))
    return run_compare(question, gpus=names, num_gpus=several.num_gpus, prices=several.prices, as_json=as_json)


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceOutput:
    """How a traced step comes out."""

    as_json: bool = option(JSON_HELP, "--json", default=False)
    timeline: str | None = option("Picture of the step, live bytes by component (.png, .svg, .pdf).", metavar="FILE")
    memory_viewer: str | None = option("The step for pytorch.org/memory_viz (pickle).", metavar="FILE")


@commands.command()
@options.with_records
def trace(target: Target, output: TraceOutput) -> int:
    """The same question as check, answered by tracing the real step on fake tensors (needs the train extra)."""
    from planner.cli.tracing import run_trace

    return run_trace(target, as_json=output.as_json, timeline=output.timeline, memory_viewer=output.memory_viewer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """On which device, and how."""

    gpu: str | None = option(GPU_HELP, complete=options.complete_gpu)
    settings: Mapping[str, object] = field(default_factory=dict)
    """Training choices by name; None is not given."""


@commands.command()
@options.with_records
def learn(
    name: Annotated[str, typer.Argument(metavar="MODEL", autocompletion=options.complete_model)],
    chosen: Settings,
    as_json: AsJson = False,
) -> int:
    """Records what a model without a written program allocates under these settings (needs the train extra)."""
    from planner.cli.learning import run_learn

    return run_learn(Target(gpu=chosen.gpu, model=name, settings=chosen.settings), as_json=as_json)


@commands.command()
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


@commands.command()
def models(
    name: Annotated[Optional[str], typer.Argument(autocompletion=options.complete_model)] = None,  # noqa: UP045
    fit: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--fit", help="A device: what of each model fits it at the least.", autocompletion=options.complete_gpu
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Models whose dimensions are known; NAME shows one in full with sources, words like `qwen 8b` what they may mean.

    Any other config.json works too.
    """
    from planner.cli.known_models import run

    return run(name, fit, as_json=as_json)


def _show(found: object, record: Callable[[Any], object], view: Callable[[Any, Any], None], as_json: bool) -> int:
    """One thing or a sequence of them: as JSON by `record`, else drawn by `view`."""
    if as_json:
        print_json([record(each) for each in found] if isinstance(found, (list, tuple)) else record(found))
        return 0
    from planner.report import words

    view(words.make_console(), found)
    return 0


@commands.command()
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


@commands.command("wizard", hidden=True)
@commands.command()
@options.with_records
def ui(
    target: Target,
    source: Source,
    aim: Aim,
    limit: TimeLimit,
    plan: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="[PLAN|RUN]",
            help="A plan file, or another trainer's, to open with; or a run's folder, which is shown.",
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="The same questions line by line, for screen readers.")
    ] = False,
) -> int:
    """The wizard: hardware, model, data, plan and a live run, by keyboard; what is given is chosen already."""
    if plain:
        from planner.cli import plain as line_by_line

        if plan is not None:
            raise InvalidInput(f"--plain asks for what a plan file says; plan train {plan} trains it")
        return line_by_line.run(target, source, aim, seconds=line_by_line.seconds_of(limit))
    from planner.cli.opening import run

    return run(target, source, aim, limit, plan)


@commands.command()
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
    files: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--from", help="Others' observations (plan share): kept, and fitted with yours.", metavar="FILE"),
    ] = None,
) -> int:
    """Measures real steps on this machine and corrects predictions by them (needs the train extra)."""
    from planner.cli.calibrate import run, run_from

    if files:
        if fit_only or minutes is not None or device != "auto":
            raise InvalidInput("--from measures nothing here; leave --device, --minutes and --fit-only out")
        return run_from(files, as_json=as_json)

    return run(device=device, minutes=minutes, fit_only=fit_only, as_json=as_json)


@commands.command()
def report(
    subject: Annotated[str, typer.Argument(metavar="RUN|PLAN", help="Folder of a run, or a plan file.")],
    output: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--output", help="New file. Default <name>-report.html.", metavar="FILE"),
    ] = None,
) -> int:
    """One HTML file without network: memory over a step, peaks around it, curves, predicted beside measured, advice."""
    from planner.cli.reporting import run

    return run(subject, output)


@commands.command()
def mcp() -> int:
    """The planner as tools of an agent (Model Context Protocol on standard input and output)."""
    from planner.cli.mcp import run

    return run()


@commands.command()
def share(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or its observation.json.")],
    output: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--output", help="Write it to this new file; without it it is only shown.", metavar="FILE"),
    ] = None,
) -> int:
    """What a run measured, without paths, names or data, to attach to an issue; shown before it is written."""
    from planner.cli.sharing import run

    return run(run_dir, output)


@commands.command()
def doctor(as_json: AsJson = False) -> int:
    """Versions, devices and extras of this machine."""
    from planner.cli.doctor import run

    return run(as_json=as_json)
