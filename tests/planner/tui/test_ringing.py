"""The terminal's notification at the end of a run."""

from __future__ import annotations

import pytest

from planner.tui.ringing import notification

OSC9, OSC777 = "\x1b]9;tuneplan: done\x07", "\x1b]777;notify;tuneplan;done\x07"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"TERM": "xterm-256color"}, OSC9),
        ({"TERM": "xterm-kitty"}, OSC9),
        ({"TERM": "rxvt-unicode-256color"}, OSC777),
        ({"TERM": "foot"}, OSC777),
        ({"TERM": "xterm-256color", "VTE_VERSION": "7200"}, OSC777),
        ({"TERM": "linux"}, ""),
        ({"TERM": "vt220"}, ""),
        ({"TERM": "dumb"}, ""),
        ({}, ""),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x,1,0"}, "\x1bPtmux;\x1b\x1b]9;tuneplan: done\x07\x1b\\"),
    ],
)
def test_each_terminal_is_told_in_its_way(environment: dict[str, str], wanted: str) -> None:
    assert notification("done", environment) == wanted


@pytest.mark.parametrize(
    "text", ["a\x07\x1b]52;c;aGk=\x07b", "a\x9d0;title\x9cb", "a\nb\rc", "a;b;c", "x" * 5000, "\u202eabc"]
)
def test_what_others_named_closes_no_sequence(text: str) -> None:
    for term in ("xterm", "foot"):
        told = notification(text, {"TERM": term})
        inner = told.split(":" if term == "xterm" else "tuneplan;", 1)[1].removesuffix("\x07")
        assert told.endswith("\x07")
        assert told.count("\x1b") == told.count("\x07") == 1
        assert ";" not in inner
        assert inner.isprintable()
        assert len(told) < 220
