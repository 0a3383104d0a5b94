"""The polynomial behind a peak: every component's coefficients, monomials and bytes at an instant's largest event."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from planner.contract.choices import TrainingChoices
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.contract.units import format_bytes
from planner.data.lengths import Lengths
from planner.memory import device, loads
from planner.memory.engine.monomials import BASIS, WIDTH
from planner.memory.step.program import run, waiting_gradients

MEANING = {
    "1": "1",
    "S": "length",
    "T": "tokens of a micro-batch, B·S",
    "SS": "S²",
    "BSS": "B·S²",
    "C": "tokens of one loss chunk",
    "B": "sequences of a micro-batch",
    "TR": "B · S rounded up to 128",
    "TL": "tokens with a successor, B·(S-1)",
    "R": "tokens of one piece of a lean function",
    "TX": "tokens where they are handled in several pieces",
    "RX": "tokens of the second piece of a lean function",
    "CX": "tokens of the second loss chunk",
    "K": "B · pieces that a recurrence takes of a sequence",
    "KK": "B · their square",
    "P": "pieces that a recurrence takes of a sequence",
    "PP": "their square",
    "SSP": "S · S rounded up to 16",
    "BSSP": "B·S · S rounded up to 16",
    "L": "length of one sequence of a flat row",
    "TP": "tokens of a flat row up to that sequence",
    "QP": "squared lengths up to it",
    "U": "length of an answer",
    "TU": "tokens of a micro-batch's answers, B·U",
    "UU": "U²",
    "BUU": "B·U²",
    "SU": "S·U",
    "BSU": "B·S·U",
    "TRU": "B · U rounded up to 128",
    "RU": "answers' tokens of one piece of a lean function",
    "RXU": "answers' tokens of its second piece",
    "TXU": "answers' tokens where they are handled in several pieces",
    "UUP": "U · U rounded up to 16",
    "BUUP": "B·U · U rounded up to 16",
    "SUP": "U · S rounded up to 16",
    "BSUP": "B·U · S rounded up to 16",
    "TE": "tokens that are sorted for an embedding's gradient",
}


@dataclass(frozen=True, slots=True)
class Term:
    """coefficient · value = bytes."""

    component: str
    monomial: str
    coefficient: int
    """Bytes per unit of the monomial."""
    value: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """The largest event of one instant; the terms sum to `bytes`."""

    instant: str
    bytes: int
    binding: bool
    terms: tuple[Term, ...]

    def record(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


def explain(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    *,
    every_instant: bool = False,
    lengths: Lengths | None = None,
) -> tuple[Explanation, ...]:
    """The binding event's terms, or those of every instant's largest event; allocated bytes, before any calibration.

    `lengths` and what is raised: as `predict`.
    """
    step, evaluating = loads.loads(model, hardware, choices, lengths)
    # A step's later micro-batches are fetched with the first, and wait.
    waiting = step.handed_over * (choices.gradient_accumulation_steps - 1)
    found = {
        name: _instant(name, evaluating if name == "eval" else step, hardware, waiting)
        for name in ("load", "forward", "loss", "backward", "optimizer", "eval")
    }
    binding = max(found.values(), key=lambda item: item.bytes).instant
    kept = found if every_instant else {binding: found[binding]}
    return tuple(Explanation(item.instant, item.bytes, name == binding, item.terms) for name, item in kept.items())


def _instant(name: str, load: loads.Load, hardware: HardwareProfile, waiting: int) -> Explanation:
    envelope = loads.envelope_of(load.case)
    live = load.live(envelope)
    row = max((i for i, instant in enumerate(envelope.instants) if instant == name), key=lambda i: live[i])
    values = load.at(envelope, row)
    segment, event, offset = envelope.where[row]
    tape = run(load.case, (segment, event))
    assert tape.ledger.watched is not None
    parts = {component: np.array(vector, dtype=np.int64) for component, vector in tape.ledger.watched.items()}
    for component, vector in (tape.ledger.segments[segment].parts[offset] if offset else {}).items():
        parts[component] = parts.get(component, np.zeros(2 * WIDTH, dtype=np.int64)) + np.array(vector, dtype=np.int64)
    terms = [
        Term(component, BASIS[index], int(vector[index]), round(values[index]), round(vector[index] * values[index]))
        for component, vector in parts.items()
        for index in range(WIDTH)
        if vector[index]
    ]
    if name == "load":  # gradients of earlier micro-batches are there when a step's last one begins, not between steps
        earlier = waiting_gradients(load.case)
        terms = [
            _less(term, earlier) if (term.component, term.monomial) == ("gradients", "1") else term for term in terms
        ]
        terms = [term for term in terms if term.bytes]
    if waiting and name not in ("load", "eval"):
        tokens = round(values[BASIS.index("T")])
        whole = load.rows is None  # padding of ragged ones is no multiple of their tokens
        per, count, unit = (waiting // tokens, tokens, "T") if whole else (waiting, 1, "1")
        terms.append(Term("waiting_batches", unit, per, count, waiting))
    workspaces = device.workspace_bytes(hardware)
    if workspaces:
        terms.append(Term("workspaces", "1", workspaces, 1, workspaces))
    terms.sort(key=lambda term: -term.bytes)
    return Explanation(name, sum(term.bytes for term in terms), False, tuple(terms))


def _less(term: Term, size: int) -> Term:
    return replace(term, coefficient=term.coefficient - size, bytes=term.bytes - size)


def lines(explanations: tuple[Explanation, ...]) -> list[str]:
    """The explanations as a table in plain text."""
    out: list[str] = []
    for item in explanations:
        mark = " (binding)" if item.binding else ""
        out.append(f"{item.instant}{mark}: {item.bytes:,} bytes allocated, {format_bytes(item.bytes)}")
        out.append(f"  {'component':<18} {'bytes per unit':>16}   {'monomial':<8} {'value':>13} {'bytes':>17}")
        for term in item.terms:
            out.append(
                f"  {term.component:<18} {term.coefficient:>16,} · {term.monomial:<8} {term.value:>13,} "
                f"{term.bytes:>17,}"
            )
        out.append("")
    used = {term.monomial for item in explanations for term in item.terms}
    out.append("; ".join(f"{name} = {MEANING[name]}" for name in BASIS if name in used and name != "1"))
    return out
