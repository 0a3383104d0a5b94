"""A file typed in place of a model: a plan, or another trainer's. What it says, as the wizard's next state. UI-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.files import expanded
from planner.contract.records import Plan
from planner.exchange.foreign import Foreign
from planner.tui.opening import Opening, imported, opened
from planner.tui.state import WizardState
from planner.tui.work import error_line

ENDINGS = (".yaml", ".yml", ".json", ".py", ".ipynb", ".sh")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFound:
    """What a file says; `final` where it is to be taken, not only looked at."""

    path: str
    source: Plan | Foreign | None = None
    state: WizardState | None = None
    """What has been chosen once it is taken."""
    final: bool = False
    error: str | None = None


def may_be(text: str) -> bool:
    """Whether a typed text names a file of settings, by its ending; a model's own `config.json` is none."""
    path = Path(text)
    return path.suffix in ENDINGS and path.name != "config.json" and not (path.suffix == ".json" and _of_model(path))


def _of_model(path: Path) -> bool:
    content = _content(path)
    return isinstance(content, dict) and "model_type" in content


def _content(path: Path) -> object:
    """The file's value as YAML or JSON; None where it can't be read, which its own reader says."""
    from planner.contract import text_file, yaml_text

    try:
        where = expanded(path)
        return yaml_text.parse(text_file.read(where, str(path), max_bytes=yaml_text.MAX_BYTES), str(path)).value
    except InvalidInput:
        return None


def source_of(path: str) -> Plan | Foreign:
    """The plan or the other trainer's file. Raises `TuneplanError` where it is neither, or can't be read."""
    from planner.exchange import recognise
    from planner.handover import plans

    where = expanded(path)
    if where.suffix in (".yaml", ".yml", ".json"):
        content = _content(where)
        if not isinstance(content, dict) or {"settings", "hyperparameters"} & content.keys():
            return plans.load(where)
    try:
        foreign = recognise.read([where])
    except recognise.Unrecognised:
        tools = ", ".join(recognise.TOOLS)
        raise InvalidInput(f"{path}: neither a plan nor a trainer's file that is known by its keys ({tools})") from None
    if foreign.no_figure:
        raise NotModelled(foreign.no_figure)
    return foreign


def read_file(path: str, chosen: WizardState, *, final: bool) -> FileFound:
    """Reads a file and what comes of it for the device, and where it names none the model, that are chosen."""
    try:
        source = source_of(path)
        if isinstance(source, Foreign):
            state, source = imported(chosen, source)
        else:
            made = opened(Opening(plan=source, gpu=chosen.hardware or source.gpu))
            machine = (chosen.this_machine, chosen.used_by_others_bytes, chosen.note)
            state = replace(made, this_machine=machine[0], used_by_others_bytes=machine[1], note=machine[2])
    except Exception as error:
        return FileFound(path=path, final=final, error=error_line(error))
    return FileFound(path=path, source=source, state=state, final=final)
