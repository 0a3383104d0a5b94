"""`plan export PLAN --to TOOL`: the plan as another trainer's files, in a new folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from planner.cli.talk import print_json, say
from planner.contract.errors import InvalidInput, RunFailed
from planner.contract.files import write_whole
from planner.contract.units import format_bytes
from planner.contract.words import one_line, shown
from planner.exchange.write import Export, export
from planner.handover import plans


def run(*, plan_file: str, tool: str, output: str | None, as_json: bool) -> int:
    """Writes the files; a folder that is there already is refused."""
    from planner.calibration import attach

    plan = plans.load(plan_file)
    made = export(plan, tool, hardware=attach.find(plan.gpu))
    folder = Path(output) if output else Path(f"{Path(plan_file).stem}-{tool}")
    _write(folder, made)
    if as_json:
        print_json(_record(made, tool, folder))
        return 0
    for name in made.files:
        say(f"wrote {folder / name}")
    for line in made.not_said:
        say(f"not said there: {line}")
    if made.report is not None:
        memory = made.report.memory
        share = f"{format_bytes(memory.device_peak_bytes)} of {format_bytes(memory.budget_bytes)}"
        verdict = made.report.verdict.replace("_", " ")
        print(one_line(f"Predicted there: {share} on {made.report.hardware['title']} ({verdict})."))
    else:
        print(one_line(f"No predicted peak there: {made.no_figure}"))
    print(shown(f"Start: cd {folder} && {made.start}"))
    return 0


def _write(folder: Path, made: Export) -> None:
    """All files, or none; nothing that stands there is touched, and no name leads out of the folder."""
    if os.path.lexists(folder):
        raise InvalidInput(f"--output {folder} is there already; name a new folder")
    if not folder.parent.resolve().is_dir():
        raise InvalidInput(f"--output {folder}: there is no folder {folder.parent}")
    if any(Path(name).name != name for name in made.files):
        raise InvalidInput("a file of this export would leave its folder")
    try:
        folder.mkdir()
        try:
            for name, text in made.files.items():
                write_whole(folder / name, text.encode())
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except OSError as error:
        raise RunFailed(f"--output {folder} can't be written: {error.strerror or error}") from None


def _record(made: Export, tool: str, folder: Path) -> dict[str, object]:
    return {
        "schema": "tuneplan.export/1",
        "tool": tool,
        "folder": str(folder),
        "files": list(made.files),
        "start": made.start,
        "not_said": list(made.not_said),
        "no_figure": made.no_figure,
        "report": None if made.report is None else made.report.model_dump(mode="json", by_alias=True),
    }
