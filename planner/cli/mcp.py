"""`plan mcp`: the planner as tools of an agent, by the Model Context Protocol on standard input and output.

One JSON-RPC 2.0 message a line (modelcontextprotocol.io, specification 2025-06-18, stdio transport). A tool's answer is
the JSON of the command of its name; nothing here trains, writes or fetches what the command doesn't.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

from planner.contract import json_text
from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.words import json_text as safe_json

PROTOCOL = "2025-06-18"
MAX_LINE = 1024**2
_TARGET = {
    "model": {"type": "string", "description": "Catalogue name, hub id, or path of a config.json"},
    "gpu": {"type": "string", "description": "Device, as `a10g`, `rtx-4090`, `m3-18gb`; auto is this machine's"},
    "options": {
        "type": "object",
        "description": "Further options of `plan check` without the hyphens: max-length, method, batch-size, data …",
    },
}
TOOLS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "check": ("Does one configuration fit, how tightly, why, and what would help.", _TARGET, ["model", "gpu"]),
    "recommend": (
        "Settings for a model on a device, in four tiers, with advice and sources.",
        _TARGET,
        ["model", "gpu"],
    ),
    "max": (
        "The longest sequences, largest micro-batch, highest rank or largest model that fit.",
        {**_TARGET, "what": {"type": "string", "description": "length, batch, rank or model"}},
        ["gpu", "what"],
    ),
    "compare": (
        "One question on several devices: memory, speed, hours, money and energy.",
        {**_TARGET, "gpu": {"type": "string", "description": "Devices with commas between: `a10g,rtx-4090,h100`"}},
        ["model", "gpu"],
    ),
    "check_file": (
        "The same for another trainer's file: Axolotl, LLaMA-Factory, TRL, Unsloth, LitGPT, torchtune, mlx-lm.",
        {"file": {"type": "string"}, "gpu": _TARGET["gpu"], "options": _TARGET["options"]},
        ["file", "gpu"],
    ),
    "models": ("Models whose dimensions are known.", {}, []),
    "gpus": ("Devices that are known.", {}, []),
}
_FORBIDDEN = frozenset(
    {
        *("save", "config", "json", "help", "version", "output", "brief", "advice", "memory", "explain"),
        *("train", "ui", "install-completion", "show-completion"),
    }
)
"""Options that train, write, ask a person, or change the answer's form."""


def run() -> int:
    """Answers until the input ends."""
    # What the commands print goes into their answers, never among the messages.
    output = sys.stdout
    for line in sys.stdin:
        answer = handle(line)
        if answer is not None:
            output.write(safe_json(answer) + "\n")
            output.flush()
    return 0


def handle(line: str) -> dict[str, object] | None:
    """The answer to one message; None for a notification."""
    if not line.strip():
        return None
    try:
        message = json_text.parse_object(line, "message", max_bytes=MAX_LINE)
    except InvalidInput as error:
        return _error(None, -32700, str(error))
    number, method = message.get("id"), message.get("method")
    parameters = message.get("params")
    parameters = parameters if isinstance(parameters, dict) else {}
    if number is None:
        return None
    if method == "initialize":
        from planner import __version__

        info = {"name": "tuneplan", "version": __version__}
        return _result(number, {"protocolVersion": PROTOCOL, "capabilities": {"tools": {}}, "serverInfo": info})
    if method == "ping":
        return _result(number, {})
    if method == "tools/list":
        return _result(number, {"tools": [_described(name) for name in TOOLS]})
    if method == "tools/call":
        return _result(number, call(parameters.get("name"), parameters.get("arguments")))
    return _error(number, -32601, "no such method; there are initialize, ping, tools/list and tools/call")


def _described(name: str) -> dict[str, object]:
    text, properties, required = TOOLS[name]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"name": name, "description": text, "inputSchema": schema}


def call(name: object, arguments: object) -> dict[str, object]:
    """What a tool answers: the command's JSON, or its complaint marked as an error."""
    try:
        words = _words(name, arguments if arguments is not None else {})
    except TuneplanError as error:
        return _text(str(error), failed=True)
    from planner.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    fits = code in (0, 3)  # 3: an answer too, that it does not fit
    return _text(out.getvalue() if fits and out.getvalue() else err.getvalue().strip(), failed=not fits)


def _words(name: object, arguments: object) -> list[str]:
    if not isinstance(name, str) or name not in TOOLS:
        raise InvalidInput(f"no such tool; there are {', '.join(TOOLS)}")
    _, properties, required = TOOLS[name]
    if not isinstance(arguments, dict) or set(arguments) - set(properties) or set(required) - set(arguments):
        raise InvalidInput(
            f"{name} takes {', '.join(properties) or 'nothing'}, and needs {', '.join(required) or 'nothing'}"
        )
    words = {"recommend": [], "check_file": ["check"]}.get(name, [name])
    words = [*words, "--json"]
    for key in ("model", "gpu", "file", "what"):
        if key in arguments:
            if not isinstance(arguments[key], str):
                raise InvalidInput(f"{key} must be text")
            words.append(f"--{'from' if key == 'file' else key}={arguments[key]}")
    options = arguments.get("options") or {}
    if not isinstance(options, dict):
        raise InvalidInput("options must be an object")
    for key, value in options.items():
        flag = str(key).replace("_", "-")
        if flag in _FORBIDDEN or not flag.replace("-", "").isalnum() or flag.startswith("-"):
            raise InvalidInput(f"{flag[:40]!r} is no option for an agent")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, str | int | float):
            words.append(f"--{flag}={value}")
        else:
            raise InvalidInput(f"{flag[:40]} must be text, a number, true or false")
    return words


def _text(text: str, *, failed: bool) -> dict[str, object]:
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def _result(number: object, result: dict[str, object]) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "result": result}


def _error(number: object, code: int, message: str) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}
