"""Text of others: nothing in it steers a terminal, and no password is told."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from planner.contract.events import Event
from planner.contract.words import LAYOUT, json_safe, json_text, one_line, shown, visible, without_secrets
from planner.report.words import make_console
from tests.support.clock import takes_at_most

STEERING = "\x00\x07\x1b\x7f\x9b\x85\r\n\t\u202e\u2066\u2028\ud800[/]"
HOSTILE = st.text(st.one_of(st.characters(), st.sampled_from(STEERING)))
TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def steers(text: str) -> list[str]:
    """What a terminal or a reader would obey, by Unicode's own categories."""
    steering = ("Cc", "Cs", "Zl", "Zp")
    return [c for c in text if unicodedata.category(c) in steering or unicodedata.bidirectional(c) in TURNS]


@runs(deadline=None)
@given(HOSTILE)
def test_what_is_shown_is_harmless_and_stays_so(text: str) -> None:
    assert steers(visible(text)) == []
    assert steers(one_line(text)) == []
    assert set(steers(visible(text, keep=LAYOUT))) <= set(LAYOUT)
    assert visible(visible(text)) == visible(text)
    visible(text).encode()


@runs(deadline=None)
@given(HOSTILE)
def test_json_reads_back_the_same_and_is_one_line(text: str) -> None:
    content = {text: [text, 1.5, None]}
    line = json_text(content)
    assert steers(line) == []
    assert json.loads(line) == content
    assert len(line.splitlines()) == 1
    assert json.loads(json_safe(json.dumps(content, indent=2, ensure_ascii=False))) == content
    if not any("\ud800" <= c <= "\udfff" for c in text):
        event = Event(kind="eval", time=0.0, data={"sample": text})
        assert Event.model_validate_json(json_safe(event.model_dump_json(by_alias=True))) == event


def test_ordinary_writing_is_left_alone() -> None:
    for text in ("naïve – “x” ≤ 3 µs", "日本語", "עברית", "👩‍👩‍👧", "C:\\new\\table", "[red]x[/red]"):
        assert shown(text) == text
        assert json_text(text) == json.dumps(text, ensure_ascii=False)


def test_a_line_of_any_length_keeps_its_beginning_and_its_end() -> None:
    line = one_line(f"model {'x' * 100_000}: unknown")
    assert len(line) < 2100
    assert line.startswith("model xx")
    assert line.endswith(": unknown")


def test_no_text_takes_long() -> None:
    """GIVEN a megabyte made against the patterns THEN it is a line within moments (nothing quadratic)."""
    with takes_at_most(30):
        for piece in ("\x1b", "?token", "token", "&", "://", "bearer ", "hf_", "a@", "key="):
            one_line("?" + piece * (10**6 // len(piece)) + " = :// ")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://anna:geheim@hub.example/x cannot be reached", "geheim"),
        ("https://hf-token-alone@hub.example", "hf-token-alone"),
        ("GET /x?access_token=abc123&b=1", "abc123"),
        ("https://s3/x?X-Amz-Signature=00ff&X-Amz-Credential=me", "00ff"),
        ("Authorization: Bearer abcdefgh1234", "abcdefgh1234"),
        ("token hf_AbCdEfGhIjKl is wrong", "hf_AbCdEfGhIjKl"),
    ],
)
def test_secrets_by_their_shape(text: str, secret: str) -> None:
    assert secret not in without_secrets(text)
    assert "***" in without_secrets(text)


@pytest.mark.parametrize(
    ("name", "value", "secrets"),
    [
        ("HF_TOKEN", "not-a-usual-one", ["not-a-usual-one"]),
        ("HF_ENDPOINT", "https://anna:pa/ss?w@rd@hub.example", ["pa/ss?w@rd", "anna:pa/ss?w@rd"]),
        ("HF_ENDPOINT", "anna:geheim@hub.example", ["geheim"]),
        ("HF_ENDPOINT", "https://hub.example/?key-of=geheim77", ["geheim77"]),
        ("HTTPS_PROXY", "http://anna:pass%2Fword@proxy:8080", ["pass%2Fword", "pass/word"]),
    ],
)
def test_secrets_of_the_environment(name: str, value: str, secrets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    text = one_line(f"{value!r} cannot be reached: {' | '.join(secrets)} (hub.example, anna)")
    assert not [secret for secret in secrets if secret in text]
    assert text.endswith("(hub.example, anna)")


def test_an_endpoint_without_secrets_is_named_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/mirror")
    assert without_secrets("https://hub.example/mirror answers 404") == "https://hub.example/mirror answers 404"


def test_reports_take_text_as_it_stands() -> None:
    """GIVEN names with markup, emoji codes and escape sequences in every place THEN a report shows them, harmless."""
    name = "x[/] [red]:smile:\x1b[2J\x9b1m\u202e"
    stream = io.StringIO()
    console = make_console(stream)
    table = Table(title=name, caption=name)
    table.add_column(name)
    table.add_row(name)
    table.add_row(Text(name))
    for piece in (name, Text(name), Text.assemble((name, "bold")), table, Panel(name), Panel(table, title=Text(name))):
        console.print(piece, style="bold", width=200)
    said = stream.getvalue()
    assert set(steers(said)) == {"\n"}
    assert said.count("x[/] [red]:smile:\\x1b[2J\\x9b1m\\u202e") >= 8
