"""`python -m trainer`: everything that needs torch, as commands. stdout is data, stderr is talk."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from pathlib import Path
from typing import NoReturn

from planner.contract import edge, process
from planner.contract.errors import Interrupted, RunFailed, TuneplanError
from planner.contract.words import LAYOUT, one_line, visible
from trainer.recovery import limits
from trainer.wire.events import steady_streams
from trainer.wire.failed import Failed


def complain(message: object, code: int) -> int:
    """One line on stderr; returns the exit code."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(complain(f"{message} (`{self.prog} --help` lists the options)", 2))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from trainer.commands.arguments import add_commands, add_hyperparameters

    root = _Parser(prog="python -m trainer", description="Trains what tuneplan has planned.")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="train from a plan file; JSON-lines events on stdout")
    run.add_argument("plan", type=Path, help="plan file (YAML or JSON)")
    run.add_argument("--data", help="training data instead of the plan's: file, folder or hub id")
    run.add_argument("--skip-invalid", action="store_true", help="leave invalid examples out and count them")
    run.add_argument("--output", type=Path, help="run folder (default: runs/<time>-<model>)")
    run.add_argument(
        "--resume", nargs="?", const="auto", help="go on from the newest good checkpoint, or from the one named"
    )
    run.add_argument("--control", choices=["stdin"], help="obey pause, resume and stop commands on stdin")
    run.add_argument(
        "--with-parent",
        action="store_true",
        help="with --control: stop with a checkpoint when stdin ends and the line alone hadn't come",
    )
    run.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    run.add_argument("--adapter", help="start from this adapter (PEFT format) instead of a new one")
    add_hyperparameters(run)

    generate = commands.add_parser("generate", help="text from a finished run")
    generate.add_argument("run_dir", type=Path)
    generate.add_argument("--prompt", required=True, help="text, or - to read it from stdin")
    generate.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token each time")
    generate.add_argument("--top-p", "--top_p", dest="top_p", type=float, default=1.0)
    generate.add_argument("--top-k", "--top_k", dest="top_k", type=int, default=0)
    generate.add_argument("--max-new-tokens", "--max_new_tokens", dest="max_new_tokens", type=int, default=128)
    generate.add_argument("--seed", type=int, default=42)
    generate.add_argument("--device", default="auto")

    talk = commands.add_parser("talk", help="answer prompts on stdin with a finished run and with its base, as JSON")
    talk.add_argument("run_dir", type=Path)
    talk.add_argument("--device", default="auto")

    add_commands(commands)

    assets = commands.add_parser("demo-assets", help="make the embedded demonstration model and its data")
    assets.add_argument("folder", type=Path, nargs="?", help="copy them here (default: only the user's data folder)")

    probe = commands.add_parser("probe", help="measure a few steps of one shape on random weights")
    probe.add_argument("settings", nargs="?", help="request as JSON file, or - for stdin")
    probe.add_argument("--serve", action="store_true", help="answer requests on stdin, one JSON line each")

    commands.add_parser("record", help="trace steps of a network at shapes that are asked for on stdin")

    commands.add_parser("doctor", help="versions and devices as JSON")
    return root


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    given = parser().parse_args(arguments)
    # Read by OpenMP when torch is first imported. Threads that spin at every barrier make a step 10 to 50 times slower
    # as soon as anything else wants the processor; threads that sleep cost a few percent on an idle machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from trainer.wire import interrupts

    try:
        if given.command == "run":
            interrupts.hold()  # until its libraries are there
            return _run(given)
        limits.prepare()
        with interrupts.as_one_line():
            interrupts.end_with_starter()
            return _other(given)
    except Interrupted as error:
        print(one_line(error), file=sys.stderr)
        return error.exit_code
    except (TuneplanError, Failed) as error:
        return complain(error, error.exit_code)
    except BrokenPipeError:
        return 0
    except Exception as error:
        return complain(*_unforeseen(error, given))


def _unforeseen(error: Exception, given: argparse.Namespace) -> tuple[str, int]:
    """What to say of it and the exit code: a full disk and a lack of memory have words of their own."""
    from trainer.wire.files import disk_problem

    problem = None
    with contextlib.suppress(Exception):  # a message that can't be made
        place = getattr(error, "filename", None) or getattr(given, "output", None) or "."
        problem = disk_problem(error, Path(os.fsdecode(place)))
    if problem is not None and not isinstance(error, (PermissionError, ImportError)):
        return problem, RunFailed.exit_code
    if "torch" in sys.modules:
        from trainer.measure.devices import is_out_of_memory

        if is_out_of_memory(error):
            return f"out of memory in {given.command}", RunFailed.exit_code
    return edge.account(error)


def _other(given: argparse.Namespace) -> int:
    """Every command but `run`."""
    if given.command == "generate":
        return _generate(given)
    if given.command == "talk":
        from trainer.commands import talk

        return talk.serve(given.run_dir, given.device)
    if given.command == "probe":
        from trainer.commands.probe import command

        if given.serve == (given.settings is not None):
            parser().error("probe takes either a settings file or --serve")
        return command.serve() if given.serve else command.run(given.settings)
    if hasattr(given, "module"):
        return _tool(given)
    if given.command == "record":
        from trainer.commands import record

        return record.serve()
    if given.command == "demo-assets":
        from trainer.commands.demo import assets

        print(json.dumps(assets.make(given.folder), indent=1))
        return 0
    from trainer.commands.doctor import report

    print(json.dumps(report(), indent=1))
    return 0


def _run(given: argparse.Namespace) -> int:
    from trainer.commands.arguments import given_hyperparameters
    from trainer.commands.run import main as run_plan
    from trainer.distributed import environment
    from trainer.wire.events import EventStream, Muted
    from trainer.wire.request import Request

    events = EventStream()  # also keeps the libraries' prints away from stdout
    if environment.rank() > 0:
        events = Muted()
    request = Request(
        plan=given.plan,
        data=given.data,
        skip_invalid=given.skip_invalid,
        output=given.output,
        resume=given.resume,
        control_stdin=given.control == "stdin",
        with_parent=given.with_parent,
        device=given.device,
        adapter=given.adapter,
        overrides=given_hyperparameters(given),
        alone=True,
    )
    try:
        return run_plan(request, events)
    except Failed as error:
        if not environment.launched():  # else the launcher says it
            who = f"rank {environment.rank()}: " if environment.rank() > 0 else ""
            complain(f"{who}{error}", error.exit_code)
        return error.exit_code


def _tool(given: argparse.Namespace) -> int:
    import importlib

    return int(importlib.import_module(given.module).command(given))


def _generate(given: argparse.Namespace) -> int:
    from planner.contract.errors import InvalidInput

    warm = 0 <= given.temperature < math.inf
    if not warm or not 0 < given.top_p <= 1 or given.top_k < 0 or given.max_new_tokens < 1:
        raise InvalidInput("need --temperature >= 0, 0 < --top-p <= 1, --top-k >= 0 and --max-new-tokens >= 1")
    if given.temperature == 0 and (given.top_p < 1 or given.top_k > 0):
        raise InvalidInput(
            "--top-p and --top-k choose among tokens that are drawn; at --temperature 0 none is: add --temperature 0.7"
        )
    from trainer.wire.events import quiet

    quiet()
    import transformers

    transformers.logging.disable_progress_bar()
    from planner.contract.data.examples import Message
    from trainer.commands.generate import complete, load_trained
    from trainer.data.tokens import render_prompt
    from trainer.measure import devices

    prompt = sys.stdin.read() if given.prompt == "-" else given.prompt
    model, tokenizer = load_trained(given.run_dir, devices.choose(given.device))
    transformers.set_seed(given.seed)
    text = complete(
        model,
        tokenizer,
        render_prompt(tokenizer, [Message("user", prompt, False)]),
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        top_k=given.top_k,
    )
    # A model may write escape sequences: into a file or a pipe as they are, to a terminal never.
    print(visible(text, keep=LAYOUT) if sys.stdout.isatty() else text)
    return 0


if __name__ == "__main__":
    process.shut_out_working_folder()
    steady_streams()
    edge.watch_threads(lambda line: print(f"error: {one_line(line)}", file=sys.stderr))
    sys.exit(main())
