"""A plan as another trainer's files: written, read back, and judged as what was written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from planner.contract import settings, yaml_text
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled, TuneplanError
from planner.contract.records import CheckReport, Plan
from planner.contract.run_settings import Hyperparameters
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.contract.units import format_bytes
from planner.exchange import recognise, script, targets
from planner.exchange import writing as words
from planner.exchange.foreign import Foreign
from planner.exchange.tools import (
    axolotl,
    axolotl_file,
    litgpt,
    llama_factory,
    mlx_lm,
    torchtune,
    torchtune_file,
    trl,
    unsloth,
)
from planner.models import sources

_WRITERS: dict[str, Callable[[words.WrittenRun], words.Written]] = {
    axolotl.NAME: axolotl_file.write,
    llama_factory.NAME: llama_factory.write,
    litgpt.NAME: litgpt.write,
    mlx_lm.NAME: mlx_lm.write,
    torchtune.NAME: torchtune_file.write,
    trl.NAME: trl.write,
    unsloth.NAME: unsloth.write,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """Files by their names within a new folder, and what the run is there."""

    files: dict[str, str]
    main: str
    start: str
    not_said: tuple[str, ...]
    there: Foreign
    """The main file, read back."""
    report: CheckReport | None
    """Judgement of what is run there; None where the tool's stack has no figure."""
    no_figure: str = ""


def export(plan: Plan, tool: str, *, hardware: HardwareProfile | None = None) -> Export:
    """The plan for `tool`; with `hardware`, the predicted peak of that stack stands in the header."""
    if tool not in recognise.TOOLS:
        raise InvalidInput(f"--to {tool!r} is unknown; choose one of {', '.join(recognise.TOOLS)}")
    run = _run(plan)
    words.causal(run, tool)
    written = _WRITERS[tool](run)
    there = _read_back(written, tool)
    written.not_said += _silent(run, there, written.not_said)
    report, no_figure = None, ""
    if hardware is not None:
        report, no_figure = _judged(run, there, hardware)
    text = written.content if isinstance(written.content, str) else words.yaml_text(written.content)
    files = {written.main: words.header(_lines(plan, tool, written, report, no_figure)) + text}
    if written.launcher is not None:
        files[words.LAUNCHER] = words.header(["How the run is divided; see " + written.main]) + words.yaml_text(
            written.launcher
        )
    files |= written.further
    return Export(
        files=files,
        main=written.main,
        start=written.start,
        not_said=tuple(written.not_said),
        there=there,
        report=report,
        no_figure=no_figure,
    )


def _spec(plan: Plan) -> ModelSpec:
    if plan.model_config_inline:
        return sources.from_config(plan.model_config_inline, plan.model)
    return sources.load_model(plan.model)


def _run(plan: Plan) -> words.WrittenRun:
    if plan.data.format in ("classification", "preference"):
        raise InvalidInput(
            f"data of format {plan.data.format} is for tuneplan's own trainer; other tools' files can't say it"
        )
    return words.WrittenRun(
        model=plan.model,
        spec=_spec(plan),
        choices=plan.settings,
        hyperparameters=plan.hyperparameters,
        data=plan.data,
        shape=_shape(plan),
    )


def _shape(plan: Plan) -> str:
    """What the examples look like: as the plan says, else as the file's first one does."""
    if plan.data.format != "auto":
        return plan.data.format
    if plan.data.path and Path(plan.data.path).exists():
        from planner.contract.data.reader import open_data

        try:
            first = next(iter(open_data(plan.data).training()), None)
            return "messages" if first is None else str(first.shape)
        except TuneplanError:
            return "messages"
    return "messages"


def _read_back(written: words.Written, tool: str) -> Foreign:
    """What the file says, by the reader of such files."""
    if isinstance(written.content, str):
        document = script.document(written.content, written.main)
    else:
        document = yaml_text.parse(words.yaml_text(written.content), written.main)
    beside = [] if written.launcher is None else [yaml_text.parse(words.yaml_text(written.launcher), words.LAUNCHER)]
    return recognise.interpret(document, tool=tool, launchers=beside)


_COMPARED = (
    *("precision", "adapter_dtype", "attention", "padding", "gradient_checkpointing", "checkpoint_offload"),
    *("max_grad_norm", "lora_alpha", "lora_dropout", "lora_variant", "optimizer", "quantization", "group_by_length"),
    *("weight_decay", "beta1", "beta2", "epsilon", "seed", "min_learning_rate_ratio"),
)
"""What changes the result or the memory, and which a tool's file may lack a word for."""
_OF_ADAPTERS = ("adapter_dtype", "lora_alpha", "lora_dropout", "lora_variant", "quantization")


def _silent(run: words.WrittenRun, there: Foreign, said: list[str]) -> list[str]:
    """A line for each setting that is another one there, and that the writer said nothing of."""
    choices, h = as_run_there(run.choices, there), run.hyperparameters
    falls = h.scheduler in ("cosine", "linear", "polynomial")
    lines: list[str] = []
    for name in _COMPARED:
        if run.choices.method == "full" and name in _OF_ADAPTERS:
            continue
        if run.choices.method != "qlora" and name == "quantization":
            continue
        if any(name in line for line in said) or (name == "min_learning_rate_ratio" and not falls):
            continue
        if hasattr(choices, name):
            own, other = getattr(run.choices, name), getattr(choices, name)
        else:
            own = getattr(h, name)
            other = there.hyperparameters.get(name, own)
        same = math.isclose(own, other, rel_tol=1e-6) if isinstance(own, float) else own == other
        if not same:
            lines.append(f"{name} {_shown(own)}: {_shown(other)} there")
    return lines


def _shown(value: object) -> str:
    return (
        ("on" if value else "off")
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _judged(run: words.WrittenRun, there: Foreign, hardware: HardwareProfile) -> tuple[CheckReport | None, str]:
    from planner.decide.check import check
    from planner.decide.question import Question

    if there.no_figure:
        return None, there.no_figure
    choices = as_run_there(run.choices, there)
    choices = replace(choices, lora_targets=targets.in_words_of(run.spec, choices.lora_targets))
    try:
        question = Question(model=run.spec, hardware=hardware, choices=choices)
        return check(question, with_remedies=False), ""
    except (NotModelled, InvalidInput) as error:
        return None, str(error)


def as_run_there(choices: TrainingChoices, there: Foreign) -> TrainingChoices:
    """The choices that the file stands for; what it doesn't decide is the plan's."""
    base = replace(choices, checkpoint_layers=None)
    return settings.choices_from(there.values, base=base)


def plan_there(plan: Plan, there: Foreign) -> Plan:
    """The plan that the file stands for."""
    choices = as_run_there(plan.settings, there)
    choices = replace(choices, lora_targets=targets.in_words_of(_spec(plan), choices.lora_targets))
    h = Hyperparameters(**{**plan.hyperparameters.model_dump(), **there.hyperparameters})
    return plan.model_copy(update={"settings": choices, "hyperparameters": h})


def _lines(plan: Plan, tool: str, written: words.Written, report: CheckReport | None, no_figure: str) -> list[str]:
    from planner import __version__

    lines = [f"Written by tuneplan {__version__} from a plan for {plan.gpu}."]
    if report is not None:
        memory = report.memory
        low, high = memory.interval_bytes
        lines.append(
            f"Predicted peak of this run: {format_bytes(memory.device_peak_bytes)} ({format_bytes(low)} to "
            f"{format_bytes(high)}) of {format_bytes(memory.budget_bytes)} on {report.hardware['title']}"
        )
        lines.append(f"  as {recognise.TOOLS[tool].STACK}.")
    elif no_figure:
        lines.append(f"No predicted peak: {no_figure}")
    lines.append(f"Start, from this folder: {written.start}")
    if written.not_said:
        lines.append("Of the plan, not said here:")
        lines += [f"  - {line}" for line in written.not_said]
    return lines
