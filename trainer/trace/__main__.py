"""`python -m trainer.trace`: one JSON object with the memory of a traced step. See docs/trace.md."""

from __future__ import annotations

import sys

from planner.contract import process
from trainer.trace.cli import main
from trainer.wire.events import steady_streams

if __name__ == "__main__":
    process.shut_out_working_folder()
    steady_streams()
    sys.exit(main())
