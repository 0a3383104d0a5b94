"""`plan report RUN|PLAN`: one HTML file that needs no network."""

from __future__ import annotations

import os
from pathlib import Path

from planner.cli.talk import say
from planner.contract.errors import InvalidInput, RunFailed
from planner.contract.files import write_whole


def run(subject: str, output: str | None) -> int:
    """Writes the page to a new file and names it."""
    from planner.report.page.content import gather
    from planner.report.page.html import page

    path = Path(subject)
    if not path.exists():
        raise InvalidInput(f"{subject}: there is no such plan file or run folder")
    target = Path(output) if output else Path(f"{path.resolve().stem}-report.html")
    if os.path.lexists(target):
        raise InvalidInput(f"--output {target} is there already; name a new file")
    text = page(gather(path))
    try:
        write_whole(target, text.encode())
    except OSError as error:
        raise RunFailed(f"--output {target} can't be written: {error.strerror or error}") from None
    say(f"wrote {target}")
    return 0
