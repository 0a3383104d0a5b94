"""Which column plays which role: a table of the names that people give them, and the user's own mapping before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.contract.data.examples import Shape
from planner.contract.data.literals import listed, shown
from planner.contract.errors import InvalidInput
from planner.contract.sentence import named, sentence

NAMES: dict[str, tuple[str, ...]] = {
    "messages": (
        "messages",
        "conversations",
        "conversation",
        "dialogue",
        "dialog",
        "dialogues",
        "dialogs",
        "chat",
        "turns",
        "msgs",
    ),
    "prompt": (
        "prompt",
        "question",
        "query",
        "problem",
        "input",
        "inputs",
        "instruction",
        "user",
        "human",
        "user_input",
        "user_message",
        "user_query",
        "source",
        "request",
        "prompts",
        "questions",
        "q",
    ),
    "completion": (
        "completion",
        "response",
        "answer",
        "solution",
        "output",
        "outputs",
        "reply",
        "target",
        "targets",
        "assistant",
        "assistant_response",
        "model_response",
        "gpt",
        "bot",
        "chatbot",
        "completions",
        "responses",
        "answers",
        "summary",
        "a",
    ),
    "instruction": ("instruction", "instructions"),
    "input": ("input", "context", "inputs"),
    "output": ("output", "response", "answer", "completion", "outputs", "solution", "target", "reply"),
    "context": ("context", "passage"),
    "system": ("system", "system_prompt", "system_message"),
    "history": ("history",),
    "tools": ("tools", "functions"),
    "reasoning": ("reasoning_content", "thinking", "reasoning"),
    "chosen": ("chosen", "chosen_response", "response_chosen", "preferred"),
    "rejected": ("rejected", "rejected_response", "response_rejected", "dispreferred"),
    "good": ("label", "kto_tag"),
    "text": ("text", "content", "document", "body", "article", "sentence", "passage", "raw_content", "review", "code"),
    "label": ("label", "labels", "target", "class", "category", "sentiment", "intent", "label_text"),
    "weight": ("weight",),
}
"""Names of a role in the order in which they are looked for; case, blanks and hyphens do not matter."""

ROLES = (
    "prompt",
    "completion",
    "text",
    "label",
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "context",
    "system",
    "history",
    "tools",
    "reasoning",
    "weight",
)
"""Roles that `--columns` may name."""

_SAME = {"conversations": "messages"}

NEEDED: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "prompt-completion": ("prompt", "completion"),
    "preference": ("chosen", "rejected"),
    "text": ("text",),
    "classification": ("text", "label"),
}
"""Roles without which a shape can't be."""

ALLOWED: dict[str, tuple[str, ...]] = {
    "messages": ("system", "tools", "weight"),
    "alpaca": ("input", "system", "history", "reasoning", "weight"),
    "prompt-completion": ("context", "system", "history", "tools", "reasoning", "weight"),
    "preference": ("prompt", "system", "tools"),
}
"""Roles that a shape uses where they are there."""

FORMATS = ("auto", "messages", "prompt-completion", "alpaca", "sharegpt", "text", "classification", "preference")
MEDIA = ("image", "images", "video", "videos", "audio", "audios", "image_path", "image_url")
_LABELS = ("label", "labels", "target", "class", "sentiment", "intent")
"""Beside a text, these ask for a classifier."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of a row are."""

    shape: str
    """Key of `NEEDED`."""
    columns: Mapping[str, str]
    """Role -> column."""
    unused: tuple[str, ...]
    media: tuple[str, ...] = ()
    """Of the unused, those that hold pictures, sound or films."""
    taken: Mapping[str, str] = field(default_factory=dict)
    """Role -> column, where the name is not the role's own."""

    @property
    def pair(self) -> tuple[str, str] | None:
        """The columns of question and answer, where a row holds nothing else."""
        if self.unused or self.shape not in ("alpaca", "prompt-completion") or len(self.columns) != 2:
            return None
        ask, answer = NEEDED[self.shape]
        return self.columns[ask], self.columns[answer]


ANSWER = "learn to answer with the label"
"""The way in which a model that goes on with texts learns labels; any causal one can."""


class Undecided(InvalidInput):
    """The data can be read in several ways of which the user must choose; `ways` are settings with a word for each."""

    def __init__(
        self, message: str, ways: Sequence[tuple[str, dict[str, Any]]] = (), names: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.ways = tuple(ways)
        self.names = tuple(names)
        """Columns that are there, where their roles are the question."""


def plain(name: str) -> str:
    """A column's name as it is compared."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def check_roles(columns: Mapping[str, str]) -> None:
    """Refuses a role that doesn't exist, or one column for two roles."""
    for role in columns:
        if role not in ROLES:
            raise InvalidInput(named("columns"), f" {shown(role)}=…: there is no such role; use {', '.join(ROLES)}")
    for role, name in columns.items():
        twice = [other for other in columns if columns[other] == name and other != role]
        if twice:
            raise InvalidInput(named("columns"), f": the column {shown(name)!r} can't be both {role} and {twice[0]}")


def lay_out(row: Mapping[str, object], format: str, columns: Mapping[str, str], where: str) -> Layout:
    """The roles of a row's columns. `Undecided` or `InvalidInput` where they do not say what is to be learned."""
    wanted = {_SAME.get(role, role): name for role, name in columns.items()}
    for role, name in wanted.items():
        if name not in row:
            raise InvalidInput(
                f"{where}: ", named("columns"), f" {role}={shown(name)}: no such column; there are {listed(list(row))}"
            )
    if format == "auto":
        return _guessed(row, wanted, where)
    shape = "messages" if format == "sharegpt" else format
    if shape == "preference" and not _find(row, wanted, ("chosen", "rejected")):
        return _good_ones(row, wanted, where)
    found = _fit(shape, row, wanted)
    if found is None:
        raise InvalidInput(
            f"{where}: {' and '.join(map(repr, _lacking(shape, row, wanted)))} is missing, which ",
            named("format"),
            f" {format} needs; there are {listed(list(row))} (name others with ",
            named("columns"),
            " role=name)",
        )
    return found


def _guessed(row: Mapping[str, object], wanted: Mapping[str, str], where: str) -> Layout:
    if not wanted and _find(row, {}, ("chosen", "rejected")):
        raise Undecided(
            sentence(
                f"{where}: preference pairs ({listed(list(row))}), which this trainer does not learn as such; ",
                named("format"),
                " preference learns the chosen answers alone",
            ),
            [("learn the chosen answers", {"format": "preference"})],
        )
    for shape in _order(row, wanted):
        found = _fit(shape, row, wanted)
        if found is None:
            continue
        if shape == "text":
            _ask_for_label(row, found, where)
        else:
            _ask_for_good(row, found, where)
        return found
    if "label" in wanted:
        raise InvalidInput(
            f"{where}: ", named("columns"), " label=… is for classifiers: add ", named("format"), " classification"
        )
    raise Undecided(
        sentence(
            f"{where}: format not recognised, columns are {listed(list(row))}; expected messages, prompt+completion, "
            "instruction+output or text: name them with ",
            named("columns"),
            " prompt=NAME,completion=NAME (or text=NAME)",
        ),
        names=[str(name) for name in row],
    )


def _order(row: Mapping[str, object], wanted: Mapping[str, str]) -> tuple[str, ...]:
    exact = {plain(str(name)) for name in row}
    first = ("messages",) if _holds_turns(row, wanted) else ()
    pair = "prompt" in exact and exact & {"completion", "response"}
    if pair or {"prompt", "completion"} & set(wanted):
        return (*first, "prompt-completion", "alpaca", "text")
    return (*first, "alpaca", "prompt-completion", "text")


def _holds_turns(row: Mapping[str, object], wanted: Mapping[str, str]) -> bool:
    """Whether the column of messages holds a list, not a text that is called a conversation."""
    column = wanted.get("messages") or _column("messages", row, set())
    if column is None:
        return False
    value = row[column]
    return (
        column in ("messages", "conversations")
        or isinstance(value, list)
        or (isinstance(value, str) and value.lstrip()[:1] == "[")
    )


def _ask_for_label(row: Mapping[str, object], found: Layout, where: str) -> None:
    labels = [name for name in found.unused if plain(str(name)) in _LABELS and isinstance(row[name], str | int | float)]
    if labels:
        text = found.columns["text"]
        raise Undecided(
            sentence(
                f"{where}: a text and its {shown(labels[0])}: ",
                named("format"),
                " classification learns the label, ",
                named("format"),
                " text learns the text and leaves the label out",
            ),
            [
                ("learn the label", {"format": "classification"}),
                (ANSWER, {"format": "prompt-completion", "columns": {"prompt": text, "completion": str(labels[0])}}),
                ("learn the text alone", {"format": "text"}),
            ],
        )


def _ask_for_good(row: Mapping[str, object], found: Layout, where: str) -> None:
    name = next((name for name in found.unused if plain(str(name)) in NAMES["good"]), None)
    if name is not None and good_or_bad(row[name]) is not None:
        raise Undecided(
            sentence(
                f"{where}: {shown(name)!r} marks answers as good or bad: ",
                named("format"),
                " preference learns the good ones alone, ",
                named("format"),
                f" {found.shape} all of them",
            ),
            [
                ("learn the good answers", {"format": "preference"}),
                ("learn all answers, bad ones too", {"format": found.shape}),
            ],
        )


def good_or_bad(value: object) -> bool | None:
    """A mark as truth; None where it is none."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false", "0", "1"):
        return value.strip().lower() in ("true", "1")
    return None


def _good_ones(row: Mapping[str, object], wanted: Mapping[str, str], where: str) -> Layout:
    good = _column("good", row, set(wanted.values()))
    for shape in _order(row, wanted):
        found = _fit(shape, row, wanted)
        if found is not None and good is not None and shape != "text":
            return Layout(
                shape,
                {**found.columns, "good": good},
                tuple(name for name in found.unused if name != good),
                found.media,
                found.taken,
            )
    raise InvalidInput(
        f"{where}: ",
        named("format"),
        " preference needs the columns chosen and rejected, or answers with a label that is true or "
        f"false; there are {listed(list(row))}",
    )


def _fit(shape: str, row: Mapping[str, object], wanted: Mapping[str, str]) -> Layout | None:
    needed, allowed = NEEDED[shape], ALLOWED.get(shape, ())
    asked = {_role_in(shape, role): name for role, name in wanted.items()}
    if any(role not in (*needed, *allowed) for role in asked):
        return None
    found = _find(row, asked, needed)
    if found is None:
        return None
    for role in allowed:
        name = asked.get(role) or _column(role, row, {*found.values(), *asked.values()})
        if name is not None:
            found[role] = name
    used = set(found.values())
    unused = tuple(name for name in row if name not in used)
    media = tuple(name for name in unused if plain(str(name)) in MEDIA)
    own = {"messages": ("messages", "conversations")}
    taken = {role: name for role, name in found.items() if name not in own.get(role, (role,))}
    return Layout(shape, found, unused, media, taken)


def _role_in(shape: str, role: str) -> str:
    """The role that a name given by the user means in a shape: `output` of a pair is its completion."""
    if shape == "prompt-completion":
        return {"input": "prompt", "instruction": "prompt", "output": "completion"}.get(role, role)
    if shape == "alpaca":
        return {"completion": "output", "context": "input"}.get(role, role)
    return role


def _find(row: Mapping[str, object], asked: Mapping[str, str], roles: Sequence[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for role in roles:
        name = asked.get(role) or _column(role, row, {*found.values(), *asked.values()})
        if name is None:
            return None
        found[role] = name
    return found


def _lacking(shape: str, row: Mapping[str, object], wanted: Mapping[str, str]) -> list[str]:
    return [role for role in NEEDED[shape] if _find(row, wanted, (role,)) is None] or list(NEEDED[shape])


def _column(role: str, row: Mapping[str, object], taken: set[str]) -> str | None:
    names = {plain(str(name)): name for name in reversed(list(row)) if name not in taken}
    names |= {name: name for name in row if name not in taken}
    return next((names[name] for name in NAMES[role] if name in names), None)


def example_shape(layout: Layout, row: Mapping[str, object]) -> Shape:
    """The shape that examples are said to have."""
    if layout.shape != "messages":
        return layout.shape  # type: ignore[return-value]
    value = row[layout.columns["messages"]]
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, dict):
        return "sharegpt" if "from" in first else "messages"
    return "messages" if layout.columns["messages"] == "messages" else "sharegpt"
