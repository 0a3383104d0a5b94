"""What a data set holds and what of it is used: said before a run, so that nothing is lost without a word."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from planner.contract.data.literals import shown
from planner.contract.sentence import joined, named, sentence

MOST_SAID = 12
"""Sentences of one kind; what is left over is counted."""


@dataclass(slots=True)
class Account:
    """Filled while the rows are read; complete once they all are."""

    examples: Counter[str] = field(default_factory=Counter)
    """Examples by file (`train.jsonl`, `validation.parquet`)."""
    taken: dict[str, str] = field(default_factory=dict)
    """Role -> column, where the column has another name than the role."""
    unused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(kind of thing, its name) -> how many rows or messages hold it."""
    done: Counter[str] = field(default_factory=Counter)
    """What was done with something unusual -> how often."""
    alone: dict[str, str] = field(default_factory=dict)
    """File or split that is left alone -> why."""
    more_alone: int = 0
    splits_inside: set[str] = field(default_factory=set)
    """Splits that one document holds."""
    facts: list[str] = field(default_factory=list)
    """Sentences about the whole."""
    invalid: int = 0
    """Examples that are wrong, left out where that was asked for."""
    first_invalid: list[str] = field(default_factory=list)
    """The first complaints."""

    def left_alone(self, name: str, why: str) -> None:
        """Notes a file or split that is not read."""
        if name in self.alone or len(self.alone) < MOST_SAID:
            self.alone[name] = why
        else:
            self.more_alone += 1

    def sentences(self) -> list[str]:
        """All of it, a line each; empty where everything in the data is used as it stands."""
        said = list(self.facts)
        if self.taken:
            said.append(
                sentence(
                    "Taken as ",
                    ", ".join(f"{role}: {shown(name)}" for role, name in self.taken.items()),
                    " (",
                    named("columns"),
                    ").",
                )
            )
        if self.alone:
            names = joined("; ", (sentence(f"{shown(name, 80)} (", why, ")") for name, why in self.alone.items()))
            more = f"; and {self.more_alone} more" if self.more_alone else ""
            said.append(sentence("Left alone: ", names, f"{more}."))
        if self.unused:
            things = [
                f"{kind} {shown(name)!r} ({count:,})" for (kind, name), count in self.unused.most_common(MOST_SAID)
            ]
            more = f" and {len(self.unused) - MOST_SAID} more" if len(self.unused) > MOST_SAID else ""
            said.append(f"Not used: {', '.join(things)}{more}.")
        said += [f"{what} ({count:,})." for what, count in self.done.most_common(MOST_SAID)]
        if self.invalid:
            first = "; ".join(self.first_invalid)
            said.append(f"{self.invalid:,} invalid example{'' if self.invalid == 1 else 's'} left out: {first}.")
        return said

    def summary(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "files": dict(self.examples),
            "columns": dict(self.taken),
            "unused": [{"what": kind, "name": name, "count": n} for (kind, name), n in self.unused.most_common()],
            "done": dict(self.done),
            "left_alone": dict(self.alone),
            "invalid_left_out": self.invalid,
        }
