"""`plan` and `plan check`: the request asked, the answer printed or saved."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from planner.cli.learning import learned
from planner.cli.request import CliRequest, load_data, parse_columns, resolve
from planner.cli.talk import print_json, say
from planner.contract.errors import InvalidInput
from planner.contract.records import Advice, CheckReport
from planner.decide.check import check

if TYPE_CHECKING:
    from planner.contract.records import Plan
    from planner.contract.spec import TrainingChoices
    from planner.data.dataset import DatasetProfile
    from planner.data.lengths import Lengths
    from planner.exchange.foreign import Foreign
    from planner.memory.explain import Explanation

EXIT_FITS, EXIT_DOES_NOT_FIT = 0, 3


def run(
    *,
    gpu: str | None,
    model: str | None,
    data: str | None,
    format: str,
    columns: list[str] | None,
    skip_invalid: bool = False,
    validation_split: float | None,
    effective_batch_size: int | None,
    goal: str | None,
    scenario: str,
    reserve: str | None,
    as_json: bool,
    save: str | None,
    brief: bool,
    settings: Mapping[str, Any],
) -> int:
    """Recommends; exit code 3 with the smallest candidate's judgement when nothing fits."""
    from planner.decide import search
    from planner.decide.advice import validation_share
    from planner.handover import plans

    _check_split(validation_split)
    request = learned(lambda: resolve(gpu=gpu, model=model, reserve=reserve, values=settings, task=_task(format)))
    profile = _profile(data, request, format, columns, skip_invalid)
    split = validation_share(profile) if validation_split is None else validation_split
    try:
        answer = learned(
            lambda: search.recommend(
                request.model,
                request.hardware,
                choices=request.choices,
                fixed=request.fixed,
                effective_batch_size=effective_batch_size,
                goal=goal,
                scenario=scenario,
                budget_bytes=request.budget_bytes,
                data=profile,
                validation_split=split,
                notes=request.notes,
            )
        )
    except search.NothingFits as error:
        return _nothing_fits(error, as_json)
    if save is not None:
        plan = make_plan(
            request,
            answer.recommended,
            advice=list(answer.advice),
            data=data,
            format=format,
            columns=parse_columns(columns),
            skip_invalid=skip_invalid,
            split=split,
        )
        path = plans.save(plan, save)
        say(f"wrote {path}")
    if as_json:
        print_json(answer.model_dump(mode="json", by_alias=True))
        return EXIT_FITS
    from planner.report.plan_view import plan_view
    from planner.report.words import make_console

    plan_view(make_console(), answer, _start_lines(save, data), details=not brief)
    return EXIT_FITS


def run_check(
    *,
    gpu: str | None,
    model: str | None,
    data: str | None,
    format: str,
    columns: list[str] | None,
    skip_invalid: bool = False,
    validation_split: float | None,
    effective_batch_size: int | None,
    reserve: str | None,
    as_json: bool,
    save: str | None,
    settings: Mapping[str, Any],
    explain: str | None = None,
    foreign: Foreign | None = None,
) -> int:
    """Judges one configuration; `explain` adds the terms of the `binding` instant, or of `all`.

    `foreign`: the other trainer's file that the settings come from.
    """
    from planner.data.lengths import lengths_of
    from planner.decide.advice import advise, validation_share
    from planner.decide.search import data_notes
    from planner.handover import plans

    _check_split(validation_split)
    values = dict(settings)
    request = learned(lambda: resolve(gpu=gpu, model=model, reserve=reserve, values=values, task=_task(format)))
    if foreign is not None:
        from planner.cli.foreign import in_model_words

        request = in_model_words(request, foreign)
    choices = _with_effective_batch(request, effective_batch_size)
    profile = _profile(data, request, format, columns, skip_invalid)
    split = validation_share(profile) if validation_split is None else validation_split
    tokens = None
    if profile is not None:
        tokens = profile.tokens_per_epoch(
            choices.max_length,
            batch_size=choices.batch_size,
            padding=choices.padding,
            examples=profile.training_examples(split),
        )
    lengths = None if profile is None else lengths_of(profile, validation_split=split)
    said = [] if profile is None else data_notes(profile, choices, split, "max_length" in request.fixed)
    report = learned(
        lambda: check(
            request.model,
            request.hardware,
            choices,
            budget_bytes=request.budget_bytes,
            tokens_per_epoch=tokens,
            lengths=lengths,
            fixed=request.fixed,
            notes=(*request.notes, *said),
        )
    )
    if save is not None:
        advice = advise(
            request.model,
            request.hardware,
            choices,
            data=profile,
            validation_split=split,
            step_seconds=None if report.speed is None else report.speed.step_seconds,
        )
        plan = make_plan(
            request,
            report,
            advice=advice,
            data=data,
            format=format,
            columns=parse_columns(columns),
            skip_invalid=skip_invalid,
            split=split,
            overrides=None if foreign is None else foreign.hyperparameters,
        )
        path = plans.save(plan, save)
        say(f"wrote {path}")
    _print_check(report, as_json, _explained(request, choices, explain, lengths), foreign)
    return EXIT_DOES_NOT_FIT if report.verdict == "does_not_fit" else EXIT_FITS


def _with_effective_batch(request: CliRequest, effective: int | None) -> Any:
    """The choices with the accumulation that makes the effective batch, where one was asked for."""
    from dataclasses import replace

    from planner.decide.candidates import batch_pairs

    if effective is None:
        return request.choices
    named = request.fixed & {"batch_size", "gradient_accumulation_steps"} or {"batch_size"}
    pairs, _, said = batch_pairs(request.choices, named, effective)
    if said:
        raise InvalidInput(f"--effective-batch-size {effective} is not a multiple of {_product(request, named)}")
    size, steps = pairs[0]
    return replace(request.choices, batch_size=size, gradient_accumulation_steps=steps)


def _product(request: CliRequest, named: frozenset[str] | set[str]) -> str:
    parts = [f"--{name.replace('_', '-')} {getattr(request.choices, name)}" for name in sorted(named)]
    return " × ".join([*parts, f"{request.choices.num_gpus} device(s)"])


def _check_split(share: float | None) -> None:
    if share is not None and not 0 <= share < 1:
        raise InvalidInput(f"--validation-split must lie in [0, 1), not {share:g}")


def _task(format: str) -> str | None:
    """Labelled data puts a classifier on the model; every other shape leaves its own head."""
    return "classification" if format == "classification" else None


def _profile(
    data: str | None, request: CliRequest, format: str, columns: list[str] | None, skip_invalid: bool
) -> DatasetProfile | None:
    mapping = parse_columns(columns)
    if data is None:
        if mapping or format != "auto" or skip_invalid:
            raise InvalidInput("--format, --columns and --skip-invalid describe --data, which is not given")
        return None
    return load_data(data, request, format=format, columns=mapping, skip_invalid=skip_invalid)


def _nothing_fits(error: Any, as_json: bool) -> int:
    report: CheckReport = error.report
    say(error)
    _print_check(report, as_json)
    return EXIT_DOES_NOT_FIT


def _explained(
    request: CliRequest, choices: TrainingChoices, wanted: str | None, lengths: Lengths | None
) -> tuple[Explanation, ...]:
    if wanted is None:
        return ()
    from planner.contract.settings import fit_to_hardware
    from planner.memory.explain import explain

    fitted, _ = fit_to_hardware(choices, request.hardware, fixed=request.fixed)
    return explain(request.model, request.hardware, fitted, every_instant=wanted == "all", lengths=lengths)


def _print_check(
    report: CheckReport,
    as_json: bool,
    explained: tuple[Explanation, ...] = (),
    foreign: Foreign | None = None,
) -> None:
    if as_json:
        content = report.model_dump(mode="json", by_alias=True)
        if foreign is not None:
            content["from"] = foreign.record()
        if explained:
            content["explanation"] = [item.record() for item in explained]
        print_json(content)
        return
    from planner.report.memory_view import check_view
    from planner.report.words import make_console

    check_view(make_console(), report)
    if foreign is not None:
        from planner.report.foreign_view import foreign_view

        foreign_view(make_console(), foreign)
    if explained:
        from planner.memory.explain import lines

        print("\n".join(lines(explained)))


def _start_lines(save: str | None, data: str | None) -> list[str]:
    """Commands that begin the run from where the user is now."""
    plan_file = save or "plan.yaml"
    source = shlex.quote(data) if data else "train.jsonl"
    lines = [] if save else [f"plan {shlex.join(_own_words())} --save {plan_file}".replace("  ", " ")]
    with_data = "" if data and save else f" --data {source}"
    return [*lines, f"plan train {shlex.quote(plan_file)}{with_data}"]


def _own_words() -> list[str]:
    """The command line that the user wrote."""
    return [word for word in sys.argv[1:] if word not in ("--json", "--brief")]


def make_plan(
    request: CliRequest,
    report: CheckReport,
    *,
    advice: list[Advice],
    data: str | None,
    split: float,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    skip_invalid: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of a judged request; `overrides` are hyperparameters that win over the advice."""
    from planner.contract.records import DataSettings
    from planner.decide.advice import hyperparameters
    from planner.handover import making

    return making.make_plan(
        model=request.model,
        model_name=request.model_name,
        gpu=request.gpu_name,
        report=report,
        hyperparameters=hyperparameters(advice, **(overrides or {})),
        advice=advice,
        data=DataSettings(
            path=data,
            format=format,  # type: ignore[arg-type]
            columns=dict(columns or {}),
            validation_split=split,
            skip_invalid=skip_invalid,
        ),
    )
