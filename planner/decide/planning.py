"""The plan of a judged question: what the trainer is handed, whoever asked."""

from __future__ import annotations

import datetime

from planner.contract.records import Advice, CheckReport, Plan
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.decide.question import Question
from planner.handover.places import absolute, loadable


def make_plan(
    question: Question,
    report: CheckReport,
    *,
    hyperparameters: Hyperparameters,
    advice: list[Advice],
    data: DataSettings | None = None,
) -> Plan:
    """The plan record of a judged configuration; paths in it hold wherever the trainer is started.

    `data`: how data will be read, where the question has none yet.
    """
    from planner import __version__

    reading = question.data.settings if question.data is not None else data or DataSettings()
    return Plan(
        model=loadable(question.model_name),
        model_config_inline=dict(question.model.config) or None,
        gpu=question.hardware.name,
        settings=report.settings,
        hyperparameters=hyperparameters,
        advice=advice,
        data=reading.model_copy(update={"path": absolute(reading.path) if reading.path else None}),
        predicted=report.memory,
        predicted_speed=report.speed,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tuneplan_version=__version__,
    )
