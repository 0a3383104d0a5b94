"""Predicted against traced and measured where no recording looked: `python -m benchmarks.held_out [TYPE…]`.

Without a TYPE, model types are drawn by `--seed` from all causal and masked ones that transformers has until `--count`
of them have their numbers; a type that gets no plan is told with the reason. Of each type

- its own default config, cut to few layers, is planned (recorded on the way, or by its written program) and *traced* at
  two drawn shapes under two drawn settings: told is the largest relative difference of an instant's bytes;
- a small network is trained for a *real* step on the CPU under a third setting: told is the relative difference of its
  largest allocated instant.

Results are kept in `benchmarks/results/held_out.json` from run to run; `--docs` writes the table of docs/models.md from
them. Exit code 1 where a traced difference is above 0.1 % or a real one above 0.3 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import shrunk
from benchmarks.model_types import PUBLISHED, default_config, types
from planner import memory
from planner.calibration import attach
from planner.calibration.worker import Worker
from planner.contract.architectures import ARCHITECTURES
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled, TuneplanError
from planner.contract.records import ProbeRequest
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.contract.towers import text_part
from planner.contract.words import one_line
from planner.decide.learning import Teacher
from planner.memory import device
from planner.models.recorded import Unlearned
from planner.models.sources import from_config

RESULTS = Path(__file__).parent / "results" / "held_out.json"
DOCS = Path(__file__).parents[1] / "docs" / "models.md"
MARKS = ("<!-- held out -->", "<!-- /held out -->")
CARD = attach.find("a100-80gb")
CPU = attach.find("cpu")
INSTANTS = ("forward", "loss", "backward", "optimizer", "eval")
WORST, WORST_REAL = 1e-3, 3e-3
POINTS = 2
TRIES = 5
"""Settings that are drawn for a type, should one be refused by name."""
SHAPES = ((2, 1024), (3, 1000), (4, 512), (1, 1536), (6, 320), (2, 777))
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "nothing recomputed": {"gradient_checkpointing": False},
    "some recomputed": {"checkpoint_layers": 4},
    "peft": {"stack": "peft"},
    "full": {"method": "full"},
    "rank 32, dropout": {"lora_r": 32, "lora_dropout": 0.05, "lora_targets": ("attention",)},
    "fp32": {"precision": "fp32"},
    "dora": {"lora_variant": "dora"},
    "eager": {"attention": "eager"},
    "flash": {"attention": "flash"},
    "qlora": {"method": "qlora"},
    "full, 8-bit AdamW": {"method": "full", "optimizer": "adamw-8bit"},
    "accumulating": {"gradient_accumulation_steps": 2},
}
REAL: dict[str, dict[str, Any]] = {
    name: SETTINGS[name]
    for name in ("plain", "nothing recomputed", "peft", "full", "fp32", "eager", "accumulating", "dora")
}
REAL_SHAPES = ((4, 128), (3, 200), (5, 96))
REAL_SECONDS = 240

Result = dict[str, Any]


def order(seed: int) -> list[str]:
    """Model types of causal and masked classes, shuffled."""
    known = types()
    found = sorted({*known["causal"], *known["masked"]})
    random.Random(seed).shuffle(found)
    return found


def choices_of(given: dict[str, Any], batch: int, length: int, task: str, kind: str) -> TrainingChoices:
    """Choices for a type of this task on a device of this kind."""
    own = {"lora_targets": ("all-linear",), "lora_dropout": 0.0, "stack": "builtin", **given}
    own["loss"] = "chunked" if task == "causal" and own["stack"] == "builtin" else "full"
    return TrainingChoices(batch_size=batch, max_length=length, **own).with_usual_implementation(kind)


def with_its_loss(choices: TrainingChoices, work: Callable[[TrainingChoices], float]) -> float:
    """`work` on the choices, with the full loss where the network can't take its own in chunks."""
    try:
        return work(choices)
    except NotModelled as error:
        if "chunked" not in str(error):
            raise
    return work(replace(choices, loss="full"))


def learned(teacher: Teacher, work: Callable[[], Any]) -> Any:
    """What `work` returns once everything that it lacks is recorded."""
    for _ in range(8):
        try:
            return work()
        except Unlearned as missing:
            teacher.learn(missing)
    raise RuntimeError("asks for more and more recordings")


def predicted(teacher: Teacher, spec: ModelSpec, card: HardwareProfile, choices: TrainingChoices) -> Any:
    """The plan's bytes."""
    return learned(teacher, lambda: memory.predict(spec, card, choices))


def traced(config: dict[str, Any], spec: ModelSpec, choices: TrainingChoices, teacher: Teacher) -> float:
    """Largest relative difference of an instant, in blocks of the exact size."""
    from trainer.trace import run

    ours = predicted(teacher, spec, CARD, choices).instants
    run.CUDA_GRANULARITY = 1
    setup = run.Setup(cublas_workspace_bytes=int(device.workspace_bytes(CARD)), evaluate=True)
    theirs = run.trace(config, choices, setup).instants
    names = [name for name in INSTANTS if name in ours and name in theirs]
    return max(abs(ours[name] - theirs[name]) / theirs[name] for name in names)


def measured(config: dict[str, Any], choices: TrainingChoices, teacher: Teacher, worker: Worker) -> float:
    """Relative difference of the largest allocated instant of a real step on the CPU."""
    model_type = str(config["model_type"])
    spec = learned(teacher, lambda: from_config(config, model_type))
    plan = predicted(teacher, spec, CPU, choices)
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(choices).items()}
    request = ProbeRequest(
        model={"id": model_type, "config": config},
        settings=settings,
        device="cpu",
        profile=CPU.name,
        predicted=plan,
        steps=1,
        evaluate=True,
        seed=0,
        source="held_out",
        label=model_type,
    )
    found = worker.ask(request, timeout=REAL_SECONDS)
    if not found.allocated_peak_bytes:
        raise NotModelled("its step measured nothing")
    ours = max(plan.instants[name] for name in found.instants)
    return abs(ours - found.allocated_peak_bytes) / found.allocated_peak_bytes


def attempts(
    draw: random.Random, settings: dict[str, dict[str, Any]], count: int, work: Callable[[str], float]
) -> list[Result]:
    """Differences under so many drawn settings; those that are refused by name are told beside them."""
    found: list[Result] = []
    for name in draw.sample(list(settings), TRIES):
        if sum("difference" in one for one in found) == count:
            break
        try:
            found.append({"settings": name, "difference": work(name)})
        except Exception as error:  # a refusal, or whatever a library makes of a network that nobody tried before
            found.append({"settings": name, "why": f"{type(error).__name__}: {one_line(error)}"[:200]})
    return found


def tried(model_type: str, seed: int, teacher: Teacher, worker: Worker) -> Result:
    """Differences of one type, or why it has none."""
    known = types()
    cls = known["masked"].get(model_type) or known["causal"][model_type]  # an encoder is trained as one
    try:
        config = text_part(default_config(model_type, cls))
        spec = learned(teacher, lambda: from_config(config, model_type))
    except TuneplanError as error:
        return {"why": one_line(error)[:200]}
    except Exception as error:  # a class whose own defaults it refuses
        return {"why": f"its default config can't be made: {one_line(error)}"[:200]}
    draw = random.Random(f"{seed} {model_type}")
    shapes = iter(draw.sample(SHAPES, len(SHAPES)))

    def trace_one(name: str) -> float:
        batch, length = next(shapes)
        most = min(length, spec.max_positions or length)
        given = choices_of(SETTINGS[name], batch, most, spec.task, "cuda")
        return with_its_loss(given, lambda choices: traced(config, spec, choices, teacher))

    def run_one(name: str) -> float:
        batch, length = draw.choice(REAL_SHAPES)
        given = choices_of(REAL[name], batch, length, spec.task, "cpu")
        small = text_part(shrunk.small(model_type, cls, PUBLISHED.get(model_type)))
        return with_its_loss(given, lambda choices: measured(small, choices, teacher, worker))

    written = str(config["model_type"]) in ARCHITECTURES
    return {
        "basis": "written" if written else "recorded",
        "traced": attempts(draw, SETTINGS, POINTS, trace_one),
        "real": attempts(draw, REAL, 1, run_one),
    }


def differences(results: dict[str, Result], what: str) -> list[float]:
    """All that were found."""
    return [one["difference"] for found in results.values() for one in found.get(what, ()) if "difference" in one]


def complete(found: Result) -> bool:
    """Whether a type has its two traced points and its real step."""
    return all(
        sum("difference" in one for one in found.get(what, ())) >= least
        for what, least in (("traced", POINTS), ("real", 1))
    )


def said(found: Result) -> str:
    """A type's result in a line."""
    if "why" in found:
        return str(found["why"])
    parts = []
    for what in ("traced", "real"):
        for one in found[what]:
            told = f"{100 * one['difference']:.4f} %" if "difference" in one else one["why"]
            parts.append(f"{what} {one['settings']}: {told}")
    return " · ".join(parts)


def table(results: dict[str, Result]) -> str:
    """The results as Markdown."""
    lines = []
    for what, name in (("traced", "against a trace"), ("real", "against a real step on the CPU")):
        values = differences(results, what)
        if values:
            lines.append(
                f"- {name}: {len(values)} points of {sum(bool(differences({'': r}, what)) for r in results.values())} "
                f"types; median {statistics.median(values):.3%}, worst {max(values):.3%}"
            )
    lines += ["", "| type | basis | traced | real step |", "|---|---|---|---|"]
    for name, found in sorted(results.items()):
        if "why" not in found:
            cells = (
                ", ".join(f"{one['settings']} {one['difference']:.3%}" for one in found[what] if "difference" in one)
                for what in ("traced", "real")
            )
            lines.append(f"| `{name}` | {found['basis']} | {' | '.join(cell or '–' for cell in cells)} |")
    refused = [f"`{name}`" for name, found in sorted(results.items()) if "why" in found]
    if refused:
        lines += ["", f"Drawn too, without a plan (the reasons are in the table of types): {' '.join(refused)}."]
    return "\n".join(lines) + "\n"


def write_docs(results: dict[str, Result]) -> None:
    """The table between its marks."""
    text = DOCS.read_text(encoding="utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    DOCS.write_text(f"{before}{MARKS[0]}\n{table(results)}{MARKS[1]}{after}", encoding="utf-8")


def run_types(names: list[str], seed: int, count: int, kept: dict[str, Result]) -> None:
    """Tries types until so many are complete; writes what was found after each."""
    teacher = Teacher(lambda line: None)
    with tempfile.TemporaryDirectory() as home, Worker() as worker:
        os.environ |= {"TUNEPLAN_HOME": home, "TUNEPLAN_CACHE": "off"}
        for name in names:
            if sum(complete(found) for found in kept.values()) >= count:
                break
            if name in kept:
                continue
            kept[name] = tried(name, seed, teacher, worker)
            print(f"{name}: {said(kept[name])}", flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps({"seed": seed, "types": kept}, indent=1, sort_keys=True) + "\n")
    teacher.close()


def main(arguments: list[str]) -> int:
    """Tries what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.held_out")
    parser.add_argument("types", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--docs", action="store_true", help="write the table of docs/models.md, try nothing")
    given = parser.parse_args(arguments)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept: dict[str, Result] = known.get("types", {}) if known.get("seed") == given.seed or given.docs else {}
    if given.docs:
        write_docs(kept)
        return 0
    for name in given.types:
        kept.pop(name, None)
    names = given.types or order(given.seed)
    run_types(names, given.seed, len(kept) + len(names) if given.types else given.count, kept)
    print(table(kept))
    wrong = any(value > WORST for value in differences(kept, "traced"))
    return int(wrong or any(value > WORST_REAL for value in differences(kept, "real")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
