"""Makes runs fail in every way that long runs fail, and shows that none is lost.

    python benchmarks/faults.py [--short] [--seed N] [--part NAME]... [--kept rows.json] [--output docs/faults.md]

A tiny Llama is fine-tuned on the cpu: once undisturbed, then with one failure each. A run counts as lost when it can't
be brought to its end, or ends elsewhere than the undisturbed one: after out-of-memory the loss may differ by 1e-4 and
the recovered update's gradients by 1e-6 (relative, fp32); after everything else the weights must be equal bit for bit.

The whole takes long: `--kept` writes down each part as it ends, and what stands there isn't run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import fault_runs
from trainer.wire.files import TEMPORARY

LOSS_WITHIN, GRADIENTS_WITHIN = 1e-4, 1e-6
JUDGED = (
    "Each run is a process of its own that fine-tunes a tiny Llama in fp32 and meets one failure. It counts as lost "
    "when it can't be brought to its end, or ends elsewhere than the undisturbed run: after out-of-memory the loss "
    "curve may differ by 1e-4 and the struck update's gradients by 1e-6 (relative; no dropout), after everything else "
    "the weights must be equal bit for bit (with dropout). `docs/recovery.md` says how it works."
)
ENDS = "ends trained, with fewer rows at a time and the same curve; or exit 4 and one line where one row doesn't fit"
PLACES = ("forward", "loss", "backward", "optimizer")


@dataclass
class Row:
    """One line of the table."""

    name: str
    expected: str
    runs: int = 0
    lost: list[str] = field(default_factory=list)
    loss: float | None = None
    gradients: float | None = None
    notes: list[str] = field(default_factory=list)

    def judge(self, survived: bool, why: str) -> None:
        """Counts one run."""
        self.runs += 1
        if not survived:
            self.lost.append(why)


class Bench:
    """The folders, the undisturbed runs, and one method per kind of failure."""

    def __init__(self, folder: Path, *, seed: int, short: bool) -> None:
        from tests.support.trainer_support import make_model, make_plan, write_pairs

        self.folder = folder
        self.seed = seed
        self.rng = random.Random(seed)
        self.short = short
        self.count = 0
        self.ended: list[str] = []
        """Exit codes of the runs of a row, a resumed run's after a slash."""
        self._large: dict[int, float] = {}
        model, data = make_model(folder / "model"), write_pairs(folder / "pairs.jsonl", 60)
        common: dict[str, Any] = {"save_total_limit": 3, "learning_rate": 3e-3}
        self.steps = 12 if short else 24
        self.plan = make_plan(
            folder / "plan.json", model, data, settings={"lora_dropout": 0.1}, epochs=4.0,
            max_steps=self.steps, eval_steps=6, save_steps=4, **common,
        )  # fmt: skip
        self.exact = {
            method: make_plan(
                folder / f"{method}.json", model, data, settings={"lora_dropout": 0.0, "method": method}, epochs=4.0,
                max_steps=self.steps, eval_steps=6, save_steps=4, **common,
            )
            for method in ("lora", "full")
        }  # fmt: skip
        self.brief = make_plan(
            folder / "brief.json", model, data, settings={"lora_dropout": 0.1}, max_steps=4, eval_steps=2, **common
        )
        lines = [json.dumps({"prompt": "x" * 90, "completion": "y" * (20 + n % 15)}) for n in range(96)]
        (folder / "long.jsonl").write_text("\n".join(lines) + "\n")
        wide = make_model(folder / "wide", width=128)
        # A step takes some 110 MiB beside the model as planned, and 2 MiB with one row.
        self.large, self.least = (
            make_plan(
                folder / f"large-{rows}.json", wide, folder / "long.jsonl", max_steps=3, save_steps=1, eval_steps=2,
                settings={"lora_dropout": 0.0, "batch_size": rows, "gradient_accumulation_steps": 64 // rows,
                          "max_length": 128},
            )
            for rows in (64, 1)
        )  # fmt: skip
        self.reference = folder / "reference"
        self.must(fault_runs.run(self.plan, self.reference))
        # The first process pays for pages and caches that later ones find warm.
        self.undisturbed = self.must(fault_runs.run(self.plan, folder / "timed"))
        self.must(fault_runs.run(self.brief, folder / "brief", names=folder / "names"))

    def must(self, outcome: fault_runs.Outcome) -> fault_runs.Outcome:
        """An undisturbed run that fails makes everything else meaningless."""
        if outcome.code != 0:
            raise SystemExit(f"the undisturbed run failed: {outcome.message or outcome.code}")
        return outcome

    def fresh(self, name: str) -> Path:
        """A new run folder."""
        self.count += 1
        return self.folder / f"{name}-{self.count}"

    def same_weights(self, ours: Path, theirs: Path) -> bool:
        """Whether two finished runs hold equal weights, bit for bit, in their last checkpoint and their result."""
        import torch
        from safetensors.torch import load_file

        last = sorted(theirs.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))[-1].name
        for part in (last, "adapter"):
            try:
                mine, other = (load_file(run / part / "adapter_model.safetensors") for run in (ours, theirs))
            except (OSError, RuntimeError):
                return False
            if mine.keys() != other.keys() or not all(torch.equal(mine[name], other[name]) for name in other):
                return False
        return True

    # ---- out of memory ---------------------------------------------------------------------------------------------

    def out_of_memory(self) -> Row:
        """At every place once for adapters and whole models, then at random places of random steps."""
        row = Row("out of memory", "goes on by itself with half the micro-batch; same effective batch, same curve")
        row.loss = row.gradients = 0.0
        for method, plan in self.exact.items():
            kept = self.folder / f"gradients-{method}"
            reference = self.must(fault_runs.run(plan, self.fresh(method), gradients=kept))
            strikes = [f"{place}@3" for place in PLACES] + ["eval@6"]
            if self.short:
                strikes = ["backward@3,eval@6"] if method == "full" else ["loss@3,optimizer@5"]
            elif method == "lora":
                strikes += [f"{self.rng.choice(PLACES)}@{self.rng.randint(1, self.steps)}" for _ in range(20)]
            for strike in strikes:
                self._struck(row, method, plan, strike, reference, kept)
        return row

    def _struck(self, row: Row, method: str, plan: Path, strike: str, reference: Any, kept: Path) -> None:
        import torch

        ours = self.folder / f"gradients-{self.count}"
        outcome = fault_runs.run(plan, self.fresh("oom"), faults=strike, gradients=ours)
        name = f"{method} {strike}"
        if outcome.code != 0 or len(outcome.of("oom")) != len(strike.split(",")):
            row.judge(False, f"{name}: exit {outcome.code}, {outcome.message}")
            return
        before = {step["step"]: step["loss"] for step in reference.of("step")}
        after = {step["step"]: step["loss"] for step in outcome.of("step")}
        off = max(abs(after[step] - loss) / abs(loss) for step, loss in before.items())
        struck = min(int(part.partition("@")[2]) for part in strike.split(","))
        mine, theirs = (torch.load(folder / f"{struck}.pt", weights_only=True) for folder in (ours, kept))
        apart = sum(float((mine[n] - theirs[n]).double().square().sum()) for n in theirs) ** 0.5
        apart /= sum(float(g.double().square().sum()) for g in theirs.values()) ** 0.5
        row.loss, row.gradients = max(row.loss or 0.0, off), max(row.gradients or 0.0, apart)
        row.judge(
            before.keys() == after.keys() and off <= LOSS_WITHIN and apart <= GRADIENTS_WITHIN,
            f"{name}: loss off by {off:.1e}, gradients by {apart:.1e}",
        )
        shutil.rmtree(ours)

    # ---- memory that really runs out -------------------------------------------------------------------------------

    def limited(self) -> Row:
        """A process whose address space ends, at 20 sizes."""
        row = Row("address space limited (RLIMIT_AS)", ENDS)
        if not sys.platform.startswith("linux"):
            row.notes.append("left out: limits the address space as Linux does")
            return row
        sizes = [60, 150] if self.short else [40, 80, *range(110, 200, 5)]
        for size in sizes:
            self._short_of_memory(row, f"{size} MiB", room=size * 2**20)
        self._ends(row)
        return row

    def in_group(self) -> Row:
        """A process in a memory cgroup, whose answer to too much is SIGKILL."""
        row = Row("memory cgroup", ENDS)
        sizes = [640] if self.short else [360, 400, *range(440, 640, 20), *range(640, 720, 10)]
        for size in sizes:
            with fault_runs.memory_group(size * 2**20) as group:
                if group is None:
                    row.notes.append("left out: no cgroup can be made here")
                    return row
                self._short_of_memory(row, f"cgroup of {size} MiB", group=group)
        self._ends(row)
        return row

    def _short_of_memory(self, row: Row, name: str, **limit: Any) -> None:
        """Ends trained, resumed under the same limit if need be; or says that not even one row fits, and is right."""
        reference = self.large_reference()
        output = self.fresh("short")
        outcome = fault_runs.run(self.large, output, **limit)
        tries = [outcome]
        while outcome.code < 0 and len(tries) < 8:  # killed: what a user does is to resume
            resume = any(output.glob("checkpoint-*"))
            outcome = fault_runs.run(self.large, output, resume=resume, **limit)
            tries.append(outcome)
        self.ended.append("/".join(str(each.code) for each in tries))
        if outcome.code == 4:
            one_line = "out of memory" in outcome.message and "\n" not in outcome.message
            least = fault_runs.run(self.least, self.fresh("least"), **limit)
            tries.append(fault_runs.finish(self.large, output))
            if not one_line or least.code == 0 or tries[-1].code != 0:
                row.judge(False, f"{name}: exit 4 {outcome.message!r}; one row: {least.code}; then {tries[-1].code}")
                return
        elif outcome.code != 0:
            row.judge(False, f"{name}: exit {outcome.code}, {outcome.message}")
            return
        losses = {step["step"]: step["loss"] for each in tries for step in each.of("step")}
        off = max(abs(losses.get(step, 1e9) - loss) / abs(loss) for step, loss in reference.items())
        row.loss = max(row.loss or 0.0, off)
        row.judge(off <= LOSS_WITHIN, f"{name}: loss off by {off:.1e}")

    def large_reference(self) -> dict[int, float]:
        """Losses of the undisturbed run of the large plan."""
        if not self._large:
            outcome = self.must(fault_runs.run(self.large, self.folder / "large"))
            self._large.update({step["step"]: step["loss"] for step in outcome.of("step")})
        return self._large

    def _ends(self, row: Row) -> None:
        counts = {code: self.ended.count(code) for code in sorted(set(self.ended))}
        row.notes.append("exit codes " + ", ".join(f"{code}: {count}" for code, count in counts.items()))
        self.ended.clear()

    # ---- killed ----------------------------------------------------------------------------------------------------

    def killed(self) -> Row:
        """SIGKILL at random moments of the whole process."""
        row = Row("kill -9 at a random moment", "resumed: same weights bit for bit")
        places: dict[str, int] = {}
        for _ in range(2 if self.short else 20):
            output, delay, outcome = self._signalled("killed", 0.02, "kill_after", lambda found: found.code != 0)
            where = (outcome.of("phase") or [{"name": "start"}])[-1]["name"]
            places[where] = places.get(where, 0) + 1
            end = fault_runs.finish(self.plan, output)
            row.judge(
                end.code == 0 and self.same_weights(output, self.reference),
                f"killed after {delay:.2f} s in {where}: {end.message or 'other weights'}",
            )
        row.notes.append("hit in " + ", ".join(f"{name} {count}" for name, count in sorted(places.items())))
        return row

    def killed_while_saving(self) -> Row:
        """SIGKILL within the first moments after a save began, where it hurts most."""
        row = Row("kill -9 while a checkpoint is written", "resumed: same weights bit for bit")
        for _ in range(1 if self.short else 8):
            for _ in range(10):  # a save that was over before is left out
                output = self.fresh("saving")
                hidden = f"{TEMPORARY}checkpoint-{self.rng.choice((4, 8))}"
                outcome = _kill_when(
                    self.plan, output, lambda folder=output / hidden: folder.exists(), self.rng.uniform(0, 0.02)
                )
                if outcome.code:
                    break
            else:
                row.judge(False, "no run could be killed while it saved")
                continue
            end = fault_runs.finish(self.plan, output)
            row.judge(end.code == 0 and self.same_weights(output, self.reference), end.message or "other weights")
        return row

    def stopped(self) -> Row:
        """SIGTERM."""
        row = Row("SIGTERM at a random moment", "stops after the step with a checkpoint, exit 0; resumed: same weights")
        for _ in range(1 if self.short else 5):
            output, delay, outcome = self._signalled("stopped", 0.3, "signal_after", _stopped)
            end = fault_runs.finish(self.plan, output)
            good = outcome.code == 0 and end.code == 0 and self.same_weights(output, self.reference)
            row.judge(good, f"after {delay:.2f} s: exit {outcome.code}, {end.message or 'other weights'}")
        return row

    def _signalled(
        self, name: str, earliest: float, how: str, hit: Callable[[fault_runs.Outcome], bool]
    ) -> tuple[Path, float, fault_runs.Outcome]:
        """A run that was struck at a random moment of its life; one that was over before is left out and drawn anew.

        `earliest`: share of an undisturbed run's time. Returns its folder, the moment in seconds and how it ended.
        """
        longest = self.undisturbed.seconds
        while True:
            output = self.fresh(name)
            delay = self.rng.uniform(earliest, 1.0) * longest
            outcome = fault_runs.run(self.plan, output, **{how: delay})
            if hit(outcome):
                return output, delay, outcome
            if outcome.code != 0:  # it failed by itself: the row judges that
                return output, delay, outcome
            longest = min(longest, max(delay, 0.5 * longest))

    # ---- damaged checkpoints ---------------------------------------------------------------------------------------

    def corrupted(self) -> list[Row]:
        """Six kinds of damage to the newest checkpoint."""

        def truncated(folder: Path) -> None:
            os.truncate(
                folder / "adapter_model.safetensors", (folder / "adapter_model.safetensors").stat().st_size // 2
            )

        def flipped(folder: Path) -> None:
            content = bytearray((folder / "optimizer.safetensors").read_bytes())
            content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
            (folder / "optimizer.safetensors").write_bytes(content)

        def missing(folder: Path) -> None:
            (folder / "random.json").unlink()

        def empty(folder: Path) -> None:
            (folder / "scheduler.json").write_bytes(b"")

        def wrong_manifest(folder: Path) -> None:
            shutil.copy(folder.with_name("checkpoint-6") / "manifest.json", folder / "manifest.json")

        def half_written(folder: Path) -> None:
            (folder / "manifest.json").unlink()
            folder.rename(folder.with_name(f"{TEMPORARY}{folder.name}"))

        rows = []
        for name, damage in {
            "truncated file": truncated, "flipped bit": flipped, "missing file": missing, "empty file": empty,
            "manifest of another checkpoint": wrong_manifest, "half-written temporary folder": half_written,
        }.items():  # fmt: skip
            row = Row(f"checkpoint: {name}", "refused with a warning, the one before taken; same weights")
            output = self.fresh("damaged")
            shutil.copytree(self.cut_back(), output)
            damage(output / "checkpoint-8")
            end = fault_runs.run(self.plan, output, resume=True)
            what = "half-written folder" if damage is half_written else "damaged checkpoint"
            loud = any(warning["what"] == what for warning in end.of("warning"))
            began = (end.of("started") or [{"resumed_from": ""}])[0]["resumed_from"] or ""
            row.judge(
                end.code == 0 and loud and began.endswith("checkpoint-6") and self.same_weights(output, self.reference),
                f"exit {end.code}, warned {loud}, from {began}: {end.message}",
            )
            rows.append(row)
        return rows

    def cut_back(self) -> Path:
        """The long run's folder as it was after step 8: made by a run that was stopped there."""
        folder = self.folder / "cut-back"
        if not folder.exists():
            outcome = _kill_when(self.plan, folder, lambda: (folder / "checkpoint-8").exists(), 0.0)
            shutil.rmtree(folder / "checkpoint-12", ignore_errors=True)
            if outcome.code == 0 or not (folder / "checkpoint-6").exists():
                raise SystemExit("the run could not be cut back")
            for leftover in folder.glob(f"{TEMPORARY}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        return folder

    # ---- the disk --------------------------------------------------------------------------------------------------

    def full_disk(self) -> Row:
        """The disk is full from one write on, for every write of a run; then room is made and the run resumed."""
        row = Row(
            "disk full, from each write on", "one line and exit 4 (or goes on without its log); resumed: same weights"
        )
        if not os.environ.get(fault_runs.PRELOADED):
            row.notes.append("left out: needs Linux and a C compiler")
            return row
        written = (self.folder / "names").read_text().splitlines()
        numbers = list(range(1, len(written) + 1))
        if self.short:
            saves = [n for n in numbers if f"/{TEMPORARY}checkpoint-4/" in written[n - 1]]
            numbers = self.rng.sample(saves, 1)
        # Files that are written whole have a temporary name of their own each: they count once.
        files = {TEMPORARY if (last := Path(name).name).startswith(TEMPORARY) else last for name in written}
        row.notes.append(f"{len(numbers)} of {len(written)} writes to {len(files)} files")
        ended: dict[int, int] = {}
        for number in numbers:
            output = self.fresh("full")
            outcome = fault_runs.run(self.brief, output, fail_write=number)
            ended[outcome.code] = ended.get(outcome.code, 0) + 1
            one_line = outcome.code == 0 or (
                outcome.code in (2, 4) and "\n" not in outcome.message and "space" in outcome.message + "No space"
            )
            end = outcome if outcome.code == 0 else fault_runs.finish(self.brief, output)
            row.judge(
                one_line and end.code == 0 and self.same_weights(output, self.folder / "brief"),
                f"write {number} ({Path(written[number - 1]).name}): exit {outcome.code} {outcome.message!r}, "
                f"then {end.code} {end.message!r}",
            )
            shutil.rmtree(output, ignore_errors=True)
        row.notes.append("exit codes " + ", ".join(f"{code}: {count}" for code, count in sorted(ended.items())))
        return row

    # ---- the rest --------------------------------------------------------------------------------------------------

    def no_number(self) -> Row:
        """A loss that becomes NaN."""
        row = Row("loss becomes NaN", "stops before the update, exit 4; the last good checkpoint is named and resumes")
        output = self.fresh("nan")
        outcome = fault_runs.run(self.plan, output, faults="nan@6")
        end = fault_runs.finish(self.plan, output)
        named = outcome.code == 4 and "checkpoint-4" in outcome.message
        row.judge(named and end.code == 0 and self.same_weights(output, self.reference), outcome.message)
        return row

    def refused(self) -> Row:
        """Two runs in one folder, and a folder that can't be written."""
        row = Row("two runs in one folder; unwritable folder", "refused with one line, exit 2; the first run goes on")
        from trainer.wire.folder import FolderLock

        output = self.fresh("busy")
        shutil.copytree(self.reference, output)
        lock = FolderLock(output)
        lock.sign()
        outcome = fault_runs.run(self.plan, output, resume=True)
        row.judge(outcome.code == 2 and "in use by another run" in outcome.message, outcome.message)
        row.judge(self.same_weights(output, self.reference), "the first run's files changed")
        lock.release()
        (self.folder / "file").write_text("")
        outcome = fault_runs.run(self.plan, self.folder / "file" / "run")
        row.judge(outcome.code == 2 and "can't be written" in outcome.message, outcome.message)
        return row

    def rows(self, part: str) -> list[Row]:
        """The rows of one of `PARTS`; what it draws hangs on its name and the seed alone."""
        self.rng = random.Random(f"{self.seed}-{part}")
        found: Row | list[Row] = getattr(self, part)()
        return found if isinstance(found, list) else [found]


PARTS = (
    "out_of_memory", "limited", "in_group", "killed", "killed_while_saving", "stopped", "corrupted", "full_disk",
    "no_number", "refused",
)  # fmt: skip


def _stopped(outcome: fault_runs.Outcome) -> bool:
    """Whether a run ended because it was asked to, and not because it was done."""
    return outcome.code == 0 and (outcome.of("finished") or [{}])[-1].get("reason") == "stopped"


def _kill_when(plan: Path, output: Path, seen: Callable[[], bool], wait: float) -> fault_runs.Outcome:
    """SIGKILL `wait` seconds after `seen` first holds."""
    import threading

    moment: list[float] = []
    done = threading.Event()
    began = time.perf_counter()

    def watch() -> None:
        while not done.is_set():
            if seen():
                moment.append(time.perf_counter() - began + wait)
                return
            time.sleep(0.0005)

    class Delay(float):
        """Compares with the clock as infinitely late until the moment is known."""

        def __gt__(self, other: Any) -> bool:
            return not moment or moment[0] > other

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return fault_runs.run(plan, output, kill_after=Delay(0))
    finally:
        done.set()
        watcher.join()


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| what | what must happen | runs | lost | loss off | gradients off | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        loss = "" if row.loss is None else f"{row.loss:.1e}"
        gradients = "" if row.gradients is None else f"{row.gradients:.1e}"
        notes = "; ".join(row.notes)
        lines.append(f"| {row.name} | {row.expected} | {row.runs} | {len(row.lost)} | {loss} | {gradients} | {notes} |")
    runs, lost = sum(row.runs for row in rows), sum(len(row.lost) for row in rows)
    return "\n".join([*lines, f"| **all** | | **{runs}** | **{lost}** | | | |"])


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; exit code 1 when a run was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a few of each kind, for the tests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part of the table; may be repeated")
    parser.add_argument("--kept", type=Path, help="file of finished parts: read first, then written after each part")
    parser.add_argument("--output", type=Path, help="write the table into this file too")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tuneplan-faults-") as name:
        folder = Path(name)
        if fault_runs.PRELOADED not in os.environ:
            library = fault_runs.compile_full_disk(folder)
            if library is not None:
                # The loader reads LD_PRELOAD only at a program's start.
                import subprocess

                environment = {**os.environ, **fault_runs.SPARING}
                environment |= {"LD_PRELOAD": str(library), fault_runs.PRELOADED: str(library)}
                return subprocess.run(
                    [sys.executable, __file__, *(arguments if arguments is not None else sys.argv[1:])], env=environment
                ).returncode
        os.environ["TUNEPLAN_HOME"] = str(folder / "home")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        began = time.perf_counter()
        wanted = [part for part in PARTS if part in (given.part or PARTS)]
        found = json.loads(given.kept.read_text()) if given.kept and given.kept.exists() else {}
        asked = {"seed": given.seed, "short": given.short}
        kept = {part: done for part, done in found.items() if asked.items() <= done.items()}
        seconds = sum(kept[part]["seconds"] for part in wanted if part in kept)
        missing = [part for part in given.part or PARTS if part not in kept]
        if missing:
            fault_runs.import_slow_parts()
            bench = Bench(folder, seed=given.seed, short=given.short)
            print(f"{bench.steps} steps undisturbed: {bench.undisturbed.seconds:.1f} s", file=sys.stderr, flush=True)
        for part in missing:
            rows = bench.rows(part)
            for row in rows:
                line = f"{row.name}: {row.runs} runs, {len(row.lost)} lost {'; '.join(row.lost)}"
                print(line, file=sys.stderr, flush=True)
            took, began = time.perf_counter() - began, time.perf_counter()
            seconds += took
            kept[part] = {**asked, "seconds": took, "rows": [asdict(row) for row in rows]}
            if given.kept:
                given.kept.write_text(json.dumps(kept, indent=1) + "\n")
    rows = [Row(**row) for part in wanted for row in kept[part]["rows"]]
    text = table(rows)
    print(f"{text}\n\n{seconds:.0f} s")
    if given.output is not None:
        import datetime

        import torch

        given.output.write_text(
            f"# Fault table\n\nSeen {datetime.date.today()} with `python benchmarks/faults.py --seed {given.seed}`: "
            f"torch {torch.__version__} on a cpu, one thread, {seconds:.0f} s. {JUDGED}\n\n{text}\n"
        )
    return 1 if any(row.lost for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
