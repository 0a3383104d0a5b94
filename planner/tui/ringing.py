"""The terminal's own notification, for the end of a run that took long. UI-free."""

from __future__ import annotations

from collections.abc import Mapping

from planner.contract.words import one_line

LONGEST = 160
"""Letters of a notification."""
NONE = ("", "dumb", "linux", "vt")
"""Terminals that know no notification and might print it: their names, or how those begin."""
NAMED = ("rxvt", "foot")
"""Terminals that take OSC 777, as rxvt-unicode brought it; VTE's (GNOME) do too. Most others take OSC 9, as iTerm2."""


def notification(text: str, environment: Mapping[str, str]) -> str:
    """What is written to the terminal so that it notifies; empty where the terminal is known to have no way.

    `text` is cut and loses everything that is no plain letter: it may hold names of others' files. Within tmux it is
    handed through to the outer terminal, which tmux does where `allow-passthrough` is on, and else drops.
    """
    term = environment.get("TERM", "")
    if any(term == name or (name and term.startswith(name)) for name in NONE):
        return ""
    plain = "".join(letter if letter.isprintable() else " " for letter in one_line(text)).replace(";", ",")[:LONGEST]
    named = term.startswith(NAMED) or "VTE_VERSION" in environment
    told = f"\x1b]777;notify;tuneplan;{plain}\x07" if named else f"\x1b]9;tuneplan: {plain}\x07"
    if "TMUX" in environment:
        doubled = told.replace("\x1b", "\x1b\x1b")
        return f"\x1bPtmux;{doubled}\x1b\\"
    return told
