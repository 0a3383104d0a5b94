"""`record`: answers requests on stdin, one JSON line each.

Load what is needed, describe a network, open a session, run one step of it, tell the loops of the last steps shorter.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from planner.contract import edge
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.words import one_line

MOST_SESSIONS = 6
MOST_WORDS = 300
"""Characters of a library's complaint."""


def serve(stream: Any = None) -> int:
    """Until stdin ends. Every request gets one line: what was asked for, or `error` and `code`."""
    from trainer.wire.events import EventStream

    out = EventStream()  # libraries' prints stay off stdout
    _without_compiler()
    desk = _Desk()
    for line in stream or sys.stdin:
        if line.strip():
            out.relay(json.dumps(_answer(desk, line), separators=(",", ":")) + "\n")
    return 0


def _answer(desk: _Desk, line: str) -> dict[str, Any]:
    try:
        request = json.loads(line)
        return desk.answer(request)
    except TuneplanError as error:
        return {"error": one_line(error), "code": error.exit_code}
    except Exception as error:  # whatever transformers or PEFT make of a network that nobody tried before
        text, _ = edge.account(error)
        said = str(error)
        if "Unrecognized configuration class" in said:  # goes on with the names of all classes that there are
            said = "transformers has no class with a language model's head for this type"
        operator = getattr(error, "func", None)  # torch's own exceptions for what a fake tensor doesn't know
        if operator is not None and said == str(operator):
            name = "item" if "_local_scalar_dense" in said else said.removesuffix(".default").removeprefix("aten.")
            said = f"its code reads values of tensors ({name}), which a trace doesn't have"
        return {"error": one_line(said)[:MOST_WORDS] or text, "code": 2}


def _without_compiler() -> None:
    """Loads what asks for torch's compiler at import (bitsandbytes does, through PEFT) without it: nothing is computed
    here, and it takes a third of the start."""
    import torch

    compiler = torch.compile
    torch.compile = lambda model=None, **_: model if model is not None else (lambda function: function)  # type: ignore[assignment]
    try:
        import peft  # noqa: F401
    finally:
        torch.compile = compiler


class _Desk:
    def __init__(self) -> None:
        self.session: Any = None
        self.kept: dict[str, Any] = {}
        """Sessions by what they were opened for; a few are asked for in turns."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What one request asks for."""
        if request["do"] == "load":
            import trainer.record.network
            import trainer.record.session  # noqa: F401

            return {}
        if request["do"] == "describe":
            from trainer.record.network import describe

            return {"spec": {**describe(request["config"]), "versions": _versions()}}
        if request["do"] == "open":
            from trainer.record.session import Session

            key = json.dumps(request, sort_keys=True)
            self.session = self.kept.get(key)
            if self.session is not None:
                return _opened(self.session)
            if len(self.kept) >= MOST_SESSIONS:
                self.kept.pop(next(iter(self.kept)))
            choices = dict(request["choices"])
            for name in ("lora_targets", "modules_to_save"):
                if name in choices:
                    choices[name] = tuple(choices[name])
            self.session = self.kept[key] = Session(
                request["config"],
                TrainingChoices(**choices),
                target=request["target"],
                padded=request["padded"],
                layers=request["layers"],
            )
            return _opened(self.session)
        if request["do"] == "run" and self.session is not None:
            names = ("batch", "length")
            options = {name: request[name] for name in ("piece", "chunk", "checkpointed", "evaluate")}
            return {"log": self.session.run(*(request[name] for name in names), **options)}
        if request["do"] == "shorter" and self.session is not None:
            return {"logs": self.session.shorter(request["count"])}
        raise InvalidInput(f"record: {str(request.get('do'))[:40]!r} is no request that can be answered now")


def _opened(session: Any) -> dict[str, Any]:
    return {"kinds": session.kinds, "weights": session.weights(), "trainable": session.trainable}


def _versions() -> dict[str, str]:
    import peft
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
