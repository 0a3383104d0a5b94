"""`python -m trainer.trace`: one JSON object with the memory of a traced step. See docs/trace.md."""

from __future__ import annotations

import sys

from planner.contract import process
from trainer.events import steady_streams
from trainer.trace.cli import main

if __name__ == "__main__":
    process.shut_out_working_folder()
    steady_streams()
    sys.exit(main())
