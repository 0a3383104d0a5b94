"""The child process that a finished run is talked to through (`python -m trainer talk RUN`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from planner.handover.recorder import Recorder


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a prompt was answered with."""

    text: str
    """By the trained model."""
    base: str | None
    """By the model as it was before; None where that is not at hand (after full fine-tuning)."""


class Talker(Recorder):
    """Loads the model at the first prompt and keeps it until `close`."""

    NAME = "process that was talked to"

    def __init__(self, run_dir: str | Path, device: str = "auto") -> None:
        super().__init__()
        self.words = ("talk", str(run_dir), "--device", device)

    def say(self, prompt: str, max_new_tokens: int = 128) -> Reply:
        """The answers to a prompt. Raises InvalidInput with the child's own words, RunFailed where it is gone."""
        answer = self.ask(prompt=prompt, max_new_tokens=max_new_tokens)
        base = answer.get("base")
        return Reply(text=str(answer.get("text", "")), base=None if base is None else str(base))
