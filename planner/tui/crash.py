"""A bug's traceback kept in a file, and the one line that says so."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path


def record(error: BaseException | None) -> str:
    """Writes the traceback to a file of its own; returns one line with what happened and where the file is."""
    what = "unknown error" if error is None else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="tuneplan-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            if error is not None:
                file.writelines(traceback.format_exception(error))
        place = f"; details for a report are in {Path(file.name)}"
    except OSError:
        place = ""
    return f"plan: internal error, please report it: {what}{place}"
