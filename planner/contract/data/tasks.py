"""The texts that a task other than next-token prediction takes of an example. They become tokens one by one, each with
the special tokens that its tokenizer puts around it; no chat template has a part in it."""

from __future__ import annotations

from collections.abc import Container, Iterable

from planner.contract.data.examples import Example
from planner.contract.errors import InvalidInput


def plain_texts(example: Example) -> tuple[str, str | None]:
    """(text before the last answer, that answer or None); chats become lines without a template."""
    if example.text is not None:
        return example.text, None
    messages = example.messages or ()
    if any(message.extras.get("tool_calls") for message in messages):
        raise InvalidInput(f"{example.where}: calls tools, which only a causal model with a chat template can learn")
    before = "\n".join(message.content for message in messages[:-1])
    return before, messages[-1].content


def running_text(example: Example) -> str:
    """What a masked model reads: pairs and chats as running text; empty where there is nothing to learn."""
    before, answer = plain_texts(example)
    text = before if answer is None else f"{before} {answer}"
    return text if text.strip() else ""


def pair(example: Example) -> tuple[str, str]:
    """(what the encoder reads, what the decoder learns)."""
    before, answer = plain_texts(example)
    if answer is None:
        raise InvalidInput(
            f"{example.where}: an encoder-decoder model learns answers; use data of the shape "
            "prompt+completion, alpaca or messages"
        )
    return before, answer


def texts(example: Example, task: str) -> tuple[str, ...] | None:
    """The texts of one example; None where the task is next-token prediction, which learns from whole conversations."""
    if task == "classification":
        return (example.text or "",)
    if task == "masked":
        return (running_text(example),)
    return pair(example) if task == "seq2seq" else None


def check_labels(labels: Iterable[str | int | None], where: str) -> set[str]:
    """The labels that occur, as text. Raises InvalidInput where only one does; `where` names the first example."""
    found = {str(label) for label in labels}
    if len(found) == 1:
        raise InvalidInput(f"{where}: only the label {found.pop()!r} occurs; a classifier needs two")
    return found


def check_label(label: str | int | None, known: Container[str], where: str) -> str:
    """A label as text. Raises InvalidInput where the training data doesn't have it."""
    if str(label) not in known:
        raise InvalidInput(f"{where}: the label {str(label)!r} does not occur in the training data")
    return str(label)
