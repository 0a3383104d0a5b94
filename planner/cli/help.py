"""Help by group, with examples first: what is trained where, with which data, to what end, how it is answered; then
every choice by the wizard's groups.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from planner.cli.asked import Aim, Source, Target, TimeLimit
from planner.contract.about import AIM, GROUPS
from planner.contract.settings import BY_NAME

EXAMPLES = {
    "plan": (
        ("plan --gpu a10g --max-length 2048", "what fits, how tightly, how fast"),
        ("plan --gpu rtx4090 --model llama-3.1-8b --data train.jsonl --save plan.yaml", "for your data, kept"),
        ("plan --gpu a10g --data train.jsonl --time 2h", "what can be done in the time"),
        ("plan train plan.yaml", "and trained"),
    ),
    "check": (("plan check --gpu a10g --model phi-2 --batch-size 8 --max-length 2048", "one configuration judged"),),
    "max": (("plan max --what length --gpu rtx4090 --model llama-3.1-8b", "the longest sequences that fit"),),
    "compare": (("plan compare --gpu a10g,rtx4090,h100 --model llama-3.1-8b", "side by side, with prices"),),
}
_ANSWER = "Answer"


def _groups() -> dict[str, str]:
    """Option -> the heading under which it stands."""
    found: dict[str, str] = {}
    for heading, record in (("Model and device", Target), ("Data", Source), ("Aim", Aim), ("Aim", TimeLimit)):
        found |= {entry.name: heading for entry in fields(record) if entry.name != "settings"}
    return found | {name: setting.about.group for name, setting in BY_NAME.items()}


ORDER = ("Model and device", "Data", AIM, _ANSWER, *(group for group in GROUPS if group != AIM))


def write_options(command: Any, context: Any, formatter: Any) -> None:
    """The command's examples and its options under their headings, in place of one long list."""
    for line, what in EXAMPLES.get(context.info_name or "", ()):
        formatter.write(f"\n  {line}\n      {what}\n")
    headings = _groups()
    grouped: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ORDER}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            grouped[headings.get(parameter.name or "", _ANSWER)].append(record)
    for heading, records in grouped.items():
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)
