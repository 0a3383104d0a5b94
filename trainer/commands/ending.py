"""Why a run ended before its time: one line, an exit code, and what there is to go on from."""

from __future__ import annotations

import logging
from pathlib import Path

from planner.contract import edge
from planner.contract.errors import Interrupted, RunFailed, TuneplanError
from planner.contract.events import FailedEvent
from planner.contract.shown import clause
from trainer.commands.accounts import Accounts
from trainer.distributed import environment, world
from trainer.distributed.launch import report_failure
from trainer.wire import files
from trainer.wire.events import EventStream
from trainer.wire.failed import Failed

log = logging.getLogger("trainer")


def failed(error: BaseException, accounts: Accounts | None, events: EventStream) -> Failed:
    """Tells of whatever ended the run, and keeps what is known of it; the exception to raise then."""
    message, code = explain(error, accounts)
    log.info("failed: %s", message, exc_info=error)
    if accounts is not None and accounts.start.world.main:
        accounts.observe_failure(type(error).__name__)
    if environment.launched():
        from trainer.recovery.pieces import StartAgain

        # The launcher tells it: it knows which process failed first.
        lost = world.is_lost_connection(error)
        report_failure(message, code, secondary=lost, again=error if isinstance(error, StartAgain) else None)
    else:
        events.emit(FailedEvent(message=message, exit_code=code))
    return Failed(message, code)


def explain(error: BaseException, accounts: Accounts | None) -> tuple[str, int]:
    """One line and the exit code for whatever ended the run."""
    if isinstance(error, TuneplanError):
        return str(error), error.exit_code
    folder = accounts.start.run_dir if accounts is not None else Path(".")
    if world.is_lost_connection(error):
        what = "another process of the run ended, or the connection to it broke; its own message says why"
        return f"{what} (details in {folder / 'log.txt'})", RunFailed.exit_code
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted before the step was finished; {kept(accounts)}", Interrupted.exit_code
    problem = files.disk_problem(error, folder)
    if problem is not None and not isinstance(error, ImportError):
        return f"{problem}; free some space or choose another --output, then --resume", RunFailed.exit_code
    from trainer.measure.devices import is_out_of_memory

    if is_out_of_memory(error):
        return "out of memory" if accounts is None else accounts.report_out_of_memory(), RunFailed.exit_code
    if accounts is None:  # there is no log yet
        return edge.account(error)
    return f"{type(error).__name__}: {clause(error, 300)} (details in {folder / 'log.txt'})", RunFailed.exit_code


def kept(accounts: Accounts | None) -> str:
    """What a run that ends now leaves to go on from."""
    from trainer.recovery.checkpoints import last_good

    good = last_good(accounts.start.run_dir) if accounts is not None else None
    return f"--resume goes on from {good}" if good else "no checkpoint had been written yet"
