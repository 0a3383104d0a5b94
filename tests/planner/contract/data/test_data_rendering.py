"""Chat templates are code of strangers: they run in a process with limits, and what breaks one is one plain line."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.contract.data import render_process
from planner.contract.data.examples import Example, Message
from planner.contract.data.rendering import Remarks, Rendering
from planner.contract.data.template import ChatTemplate, read_template
from planner.contract.errors import InvalidInput
from tests.support.clock import takes_at_most
from tests.support.template_kinds import CHATML, DROPS_THOUGHTS, THINKING_LAST

ROOT = Path(__file__).resolve().parents[4]


def template(source: str, tool_source: str | None = None) -> ChatTemplate:
    return ChatTemplate(source, tool_source, {"eos_token": "</s>"}, "model/chat_template.jinja")


def chat(number: int, *texts: str) -> Example:
    messages = tuple(
        Message(("user", "assistant")[place % 2], text, learned=place % 2 == 1) for place, text in enumerate(texts)
    )
    return Example(messages, None, f"data.jsonl:{number}", "messages")


def render(source: str, *examples: Example) -> list[str]:
    return [rendered.text for rendered in Rendering(template(source)).render(list(examples) or [chat(1, "Q", "A")])]


HOSTILE = {
    "loops": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "takes more than"),
    "one long operation": (
        "{% for i in range(99999) %}{% set x = 'a' * 9999999 in 'b' * 9999999 %}{% endfor %}",
        "takes more",
    ),
    "repeated text": ("{{ 'a' * 3000000000 }}", "3,000,000,000 items"),
    "repeated list": ("{% set x = [0] * 3000000000 %}", "3,000,000,000 items"),
    "doubled text": (
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "",
    ),
    "padded text": ("{{ 'a'.ljust(3000000000) }}", "more memory"),
    "formatted text": ("{{ '%3000000000d' % 1 }}", ""),
    "power": ("{{ 3 ** 999999999 }}", "millions of digits"),
    "output": ("{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}", "characters of output"),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.skipif(sys.platform != "linux", reason="memory can only be limited on Linux")
def test_a_template_that_asks_for_too_much_is_stopped(kind: str) -> None:
    render_process.close_all()
    source, reason = HOSTILE[kind]
    with takes_at_most(10), pytest.raises(InvalidInput) as caught:
        render(source + CHATML)
    line = str(caught.value)
    assert reason in line
    assert line.startswith("data.jsonl:1: ")
    assert "model/chat_template.jinja" in line
    assert "\n" not in line
    assert not render_process._kept or all(kept._process is None for kept in render_process._kept.values())
    assert render(CHATML) == ["<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"]


def test_the_line_names_the_example_that_it_was() -> None:
    picky = "{% if messages[0]['content'] == 'bad' %}{{ raise_exception('no \\x1b[31m<b>\\u202e\\nmore') }}{% endif %}"
    examples = [chat(number, "bad" if number == 700 else "good", "A") for number in range(1, 900)]
    with pytest.raises(InvalidInput) as caught:
        render(picky + CHATML, *examples)
    assert str(caught.value) == (
        "data.jsonl:700: the chat template refuses these messages: no  [31m<b> (model/chat_template.jinja)"
    )
    with pytest.raises(InvalidInput, match=r"^model/chat_template\.jinja: the chat template can't be used: "):
        render("{% if %}")


def test_sandbox_and_working_folder_are_shut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jinja2.py").write_text("open('was-run', 'w')")
    monkeypatch.chdir(tmp_path)
    render_process.close_all()
    for attack in ("{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__.os }}", "{{ messages.append(1) }}"):
        with pytest.raises(InvalidInput, match="refuses"):
            render(attack + "{{ x.y.z }}" + CHATML)
    assert render(CHATML)
    assert os.listdir() == ["jinja2.py"]


def test_a_template_for_tools_and_prompts() -> None:
    rendering = Rendering(template(CHATML, THINKING_LAST))
    tools = ({"type": "function", "function": {"name": "f", "parameters": {}}},)
    with_tools = Example(chat(1, "Q", "A").messages, None, "data.jsonl:1", "messages", tools=tools)
    plain, tooled = rendering.render([chat(1, "Q", "A"), with_tools])
    assert "<think>" not in plain.text
    assert "<think>" in tooled.text
    asked = [Message("user", "Q", learned=False)]
    assert rendering.prompt(asked) == "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert Rendering(None).prompt(asked, "alpaca") == "### Instruction:\nQ\n\n### Response:\n"


def test_remarks_are_summed_and_say_where() -> None:
    remarks = Remarks()
    thinking = [chat(number, "Q", f"<think>{number}</think>A") for number in range(1, 4)]
    for example, rendered in zip(thinking, Rendering(template(DROPS_THOUGHTS)).render(thinking), strict=True):
        remarks.add(rendered, example.where)
    assert Remarks.of([remarks, remarks]).sentences() == [
        "The chat template leaves out the thoughts of 6 turns of the assistant (first: data.jsonl:1)."
    ]


def test_without_a_template_calls_are_refused_and_thoughts_named() -> None:
    def example(**extras: Any) -> Example:
        messages = (Message("user", "Q", learned=False), Message("assistant", "A", learned=True, extras=extras))
        return Example(messages, None, "d:1", "messages")

    with pytest.raises(InvalidInput, match="d:1: calls tools, and the tokenizer has no chat template"):
        list(Rendering(None).render([example(tool_calls=[{"function": {"name": "f"}}])]))
    (rendered,) = Rendering(None).render([example(reasoning_content="T")])
    assert (rendered.text, rendered.counts) == ("user: Q\nassistant: A", {"unused": 1})


@pytest.mark.parametrize("form", ["file", "config", "list", "folder", "only tools", "none"])
def test_the_template_is_found_where_transformers_finds_it(tmp_path: Path, form: str) -> None:
    import json

    from transformers import AutoTokenizer

    from trainer.commands.demo.tokenizer import build
    from trainer.data.tokens import template_of

    tokenizer = build()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    two = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    config |= {"config": {"chat_template": "C"}, "list": {"chat_template": two}}.get(form, {"chat_template": "C"})
    if form in ("none", "only tools"):
        config.pop("chat_template")
    if form == "only tools":
        config["chat_template"] = [two[1]]
    file.write_text(json.dumps(config))
    if form in ("file", "folder"):
        (tmp_path / "chat_template.jinja").write_text("F")
    if form == "folder":
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("G")
    planned, trained = read_template(tmp_path), template_of(AutoTokenizer.from_pretrained(tmp_path))
    expected = {
        "file": ("F", None),
        "config": ("C", None),
        "list": ("D", "T"),
        "folder": ("F", "G"),
        "only tools": ("T", "T"),
    }
    assert (planned is None) == (trained is None) == (form == "none")
    if planned is not None:
        assert trained is not None
        assert (planned.source, planned.tool_source) == (trained.source, trained.tool_source) == expected[form]
        assert planned.tokens == {**trained.tokens, "pad_token": planned.tokens["pad_token"]}
        assert planned.place == trained.place


def test_one_process_serves_every_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, validation, chunks of examples, and the sample's prompt: a start costs a third of a second."""
    monkeypatch.setattr("planner.contract.data.rendering._AT_ONCE", 2)
    render_process.close_all()
    started: list[Any] = []
    whole = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **more: started.append(words) or whole(*words, **more))
    rendering = Rendering(template(CHATML))
    for _ in range(2):
        assert len(list(rendering.render([chat(number, "Q", "A") for number in range(5)]))) == 5
    rendering.prompt([Message("user", "Q", learned=False)])
    assert len(started) == 1


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    code = (
        "from planner.contract.data.rendering import Rendering\n"
        "from tests.planner.contract.data.test_data_rendering import HOSTILE, chat, template\n"
        "import os, signal, subprocess, threading, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job begins without it
        "found, start = [], subprocess.Popen\n"
        "def started(*words, **more):\n"
        "    found.append(start(*words, **more))\n"
        "    return found[-1]\n"
        "subprocess.Popen = started\n"
        "def stop():\n"
        "    while not found:\n"
        "        time.sleep(.05)\n"
        "    time.sleep(.5)\n"
        "    print(found[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=stop, daemon=True).start()\n"
        "try:\n"
        "    list(Rendering(template(HOSTILE['loops'][0])).render([chat(1, 'Q', 'A')]))\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.split()[1:] == ["stopped"], done
    assert done.stderr == ""
    number = done.stdout.split()[0]
    with pytest.raises(ProcessLookupError):
        os.kill(int(number), 0)


def test_no_template_runs_in_the_trainers_own_process() -> None:
    found = []
    for file in [*ROOT.glob("trainer/**/*.py"), *ROOT.glob("planner/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if name in ("apply_chat_template", "render_jinja_template", "_compile_jinja_template"):
                found.append(f"{file}:{node.lineno}")
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module.split(".")[0] == "jinja2" for module in modules) and file.stem != "render_engine":
                found.append(f"{file}:{node.lineno}")
    assert found == []
