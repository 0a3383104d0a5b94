"""The planner as an agent's tools: the same JSON as the commands, and nothing that writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main, mcp
from planner.contract import settings
from tests.planner.exchange.files import AXOLOTL


def ask(method: str, **parameters: Any) -> dict[str, Any]:
    answer = mcp.handle(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}))
    assert answer is not None
    return answer


def test_a_session_over_pipes() -> None:
    """GIVEN an agent on pipes WHEN it begins, lists and checks THEN each line is one answer, and the figure is the
    command's."""
    options = {"max-length": 512, "gradient_checkpointing": False}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
        {
            "jsonrpc": "2.0",
            "id": 3,
            "method": "tools/call",
            "params": {"name": "check", "arguments": {"model": "phi-2", "gpu": "a10g", "options": options}},
        },
    ]
    child = subprocess.run(
        [sys.executable, "-m", "planner.cli", "mcp"],
        input="\n".join(map(json.dumps, messages)) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    first, listed, checked = map(json.loads, child.stdout.splitlines())
    assert first["result"]["serverInfo"]["name"] == "tuneplan"
    assert {tool["name"] for tool in listed["result"]["tools"]} == set(mcp.TOOLS)
    assert checked["result"]["isError"] is False
    report = json.loads(checked["result"]["content"][0]["text"])
    assert report["settings"]["max_length"] == 512
    assert report["settings"]["gradient_checkpointing"] is False


def test_a_file_of_another_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN an Axolotl file THEN the tool's answer is that of `plan check --from`."""
    (tmp_path / "a.yml").write_text(AXOLOTL)
    found = ask("tools/call", name="check_file", arguments={"file": str(tmp_path / "a.yml"), "gpu": "rtx-4090"})
    assert main(["check", "--from", str(tmp_path / "a.yml"), "--gpu", "rtx-4090", "--json"]) == 0
    assert json.loads(found["result"]["content"][0]["text"]) == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("max", {"gpu": "a10g", "model": "phi-2", "what": "rank"}, ["max", "--gpu", "a10g", "--model", "phi-2"]),
        (
            "compare",
            {"gpu": "a10g,rtx-4090", "model": "phi-2"},
            ["compare", "--gpu", "a10g,rtx-4090", "--model", "phi-2"],
        ),
    ],
)
def test_the_question_turned_round_and_side_by_side(
    tool: str, arguments: dict[str, str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN what an agent asks THEN the answer is the command's JSON."""
    found = ask("tools/call", name=tool, arguments=arguments)["result"]
    assert not found["isError"]
    more = ["--what", arguments["what"]] if "what" in arguments else []
    assert main([*words, *more, "--json"]) == 0
    assert json.loads(found["content"][0]["text"]) == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "phi-2", "gpu": "a10g", "options": {"save": "/tmp/x.yaml"}},
        {"model": "phi-2", "gpu": "a10g", "options": {"train": True}},
        {"model": "phi-2", "gpu": "a10g", "options": {"ui": True}},
        {"model": "phi-2", "gpu": "a10g", "options": {"install_completion": True}},
        {"model": "phi-2", "gpu": "a10g", "options": {"config": "/etc/passwd"}},
        {"model": "phi-2", "gpu": "a10g", "options": {"--x y": 1}},
        {"model": "phi-2", "gpu": "a10g", "options": {"max-length": [1]}},
        {"model": "phi-2", "gpu": "no-such-card"},
        {"model": 3, "gpu": "a10g"},
        {"gpu": "a10g"},
        [],
    ],
)
def test_what_a_tool_does_not_take_is_an_error_of_the_tool(arguments: Any) -> None:
    """GIVEN options that write, and values of other kinds THEN the tool says so in a line, and the server goes on."""
    found = ask("tools/call", name="check", arguments=arguments)["result"]
    assert found["isError"] is True
    assert "\n" not in found["content"][0]["text"]


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"id": 1}', '{"id": 1, "method": "resources/list"}', '{"id": 1, "id": 2, "method": "x"}']
)
def test_what_is_no_message_has_an_error(line: str) -> None:
    """GIVEN lines that are no requests THEN an error comes back, never an exception."""
    answer = mcp.handle(line)
    assert answer is not None
    assert answer["error"]["code"] in (-32700, -32601)


READS = {
    *("columns", "data", "effective-batch-size", "explain-all", "fit", "format", "from", "from-tool", "goal", "gpu"),
    *("model", "prices", "reserve", "scenario", "skip-invalid", "tier", "time", "validation-split", "what"),
}
"""Options beside the settings that only ask something: a new one belongs here, or among those that are refused."""


def test_every_option_was_looked_at() -> None:
    """GIVEN the options of every command that is a tool THEN each is a setting, reads, or is refused to an agent."""
    import click
    import typer

    from planner.cli.app import app

    command: Any = typer.main.get_command(app)
    context = click.Context(command)
    commands = [
        command,
        *(command.get_command(context, name) for name in ("check", "max", "compare", "models", "gpus")),
    ]
    flags = {name[2:] for item in commands for option in item.params for name in option.opts if name.startswith("--")}
    assert flags - {name.replace("_", "-") for name in settings.BY_NAME} - mcp._FORBIDDEN == READS
