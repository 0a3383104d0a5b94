"""`plan share`: an observation for others, shown before it is written."""

from __future__ import annotations

import os
from pathlib import Path

from planner.calibration import share
from planner.cli.talk import say
from planner.contract.errors import InvalidInput, RunFailed
from planner.contract.files import write_whole
from planner.contract.words import json_rows


def run(run_dir: str, output: str | None) -> int:
    """Prints all that would be shared; then, with `output`, writes exactly that."""
    found = share.of_run(Path(run_dir)).model_dump(mode="json", by_alias=True)
    if output is not None and os.path.lexists(output):
        raise InvalidInput(f"--output {output} is there already; name a new file")
    text = json_rows(found)
    print(text)
    if output is None:
        say("nothing is written or sent; --output FILE writes exactly this, for you to attach (docs/calibration.md)")
        return 0
    try:
        write_whole(Path(output), f"{text}\n".encode())
    except OSError as error:
        raise RunFailed(f"--output {output} can't be written: {error.strerror or error}") from None
    say(f"wrote {output}; nothing was sent")
    return 0
