"""What `plan` says and prints: lines for a person on stderr, data on stdout."""

from __future__ import annotations

import contextlib
import json
import sys

from planner.contract.words import json_text, one_line


def say(message: object) -> None:
    """One line on stderr; a reader that went away is no reason to end."""
    with contextlib.suppress(BrokenPipeError):
        print(f"plan: {one_line(message)}", file=sys.stderr, flush=True)


def print_json(content: object) -> None:
    """One JSON object on stdout."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    # Where the output can't hold every character, escapes can.
    print(json_text(content, indent=2) if encoding.startswith("utf") else json.dumps(content, indent=2))
