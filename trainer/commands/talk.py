"""`talk`: answers prompts on stdin, one JSON line each, with a finished run and with its base beside it."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from planner.contract import edge
from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.words import one_line

MOST_TOKENS = 1024


def serve(run_dir: Path, device: str, stream: Any = None) -> int:
    """Until stdin ends. The model is loaded at the first prompt; every line gets one: `text` and `base`, or `error`."""
    from trainer.wire.events import EventStream, quiet_transformers

    out = EventStream()  # libraries' prints stay off stdout
    quiet_transformers()
    loaded: tuple[Any, Any] | None = None
    for line in stream or sys.stdin:
        if not line.strip():
            continue
        try:
            prompt, tokens = _request(line)
            if loaded is None:
                loaded = _load(run_dir, device)
            told: dict[str, object] = _answer(*loaded, prompt, tokens)
        except TuneplanError as error:
            told = {"error": one_line(error), "code": error.exit_code}
        except Exception as error:
            told = {"error": edge.account(error)[0], "code": 4}
        out.relay(json.dumps(told) + "\n")
    return 0


def _request(line: str) -> tuple[str, int]:
    try:
        request = json.loads(line)
        prompt, tokens = request["prompt"], request.get("max_new_tokens", 128)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidInput('a request is one line such as {"prompt": "…", "max_new_tokens": 128}') from None
    if not isinstance(prompt, str) or not isinstance(tokens, int) or not 0 < tokens <= MOST_TOKENS:
        raise InvalidInput(f"prompt is a text, max_new_tokens a whole number from 1 to {MOST_TOKENS}")
    return prompt, tokens


def _load(run_dir: Path, device: str) -> tuple[Any, Any]:
    from trainer.commands.generate import load_trained, trained_folder
    from trainer.measure import devices
    from trainer.tasks.result import read_task_file

    if read_task_file(trained_folder(run_dir)).get("task") == "classification":
        raise InvalidInput(f"{run_dir}: a classifier writes no text; its labels are in the evaluations")
    return load_trained(run_dir, devices.choose(device))


def _answer(model: Any, tokenizer: Any, prompt: str, tokens: int) -> dict[str, object]:
    from planner.contract.data.examples import Message
    from trainer.commands.generate import complete
    from trainer.data.tokens import render_prompt

    rendered = render_prompt(tokenizer, [Message("user", prompt, False)])
    text = complete(model, tokenizer, rendered, max_new_tokens=tokens)
    without = getattr(model, "disable_adapter", None)
    if without is None:  # after full fine-tuning there is no base left
        return {"text": text, "base": None}
    with contextlib.ExitStack() as stack:
        stack.enter_context(without())
        return {"text": text, "base": complete(model, tokenizer, rendered, max_new_tokens=tokens)}
