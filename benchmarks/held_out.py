"""Predicted against traced at shapes and settings that no recording saw: `python -m benchmarks.held_out [TYPE…]`.

Without a TYPE, `--count 40` model types are drawn by `--seed 0` from all causal and masked ones that transformers has,
each with its own default config cut to few layers. Each is planned (recorded on the way, or by its written program) and
traced at two drawn shapes under drawn settings; told is the largest relative difference of an instant's bytes.
A type that gets no plan is told with the reason. Exit code 1 where a difference is above 0.1 %.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from typing import Any

from benchmarks.model_types import default_config, types
from planner import memory
from planner.calibration import attach
from planner.contract.choices import TrainingChoices
from planner.contract.errors import TuneplanError
from planner.contract.spec import ModelSpec
from planner.contract.towers import text_part
from planner.contract.words import one_line
from planner.decide.learning import Teacher
from planner.memory import device
from planner.models.recorded import Unlearned
from planner.models.sources import from_config

CARD = attach.find("a100-80gb")
INSTANTS = ("forward", "loss", "backward", "eval")
WORST = 1e-3
SHAPES = ((2, 1024), (3, 1000), (4, 512), (1, 1536), (6, 320), (2, 777))
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"gradient_checkpointing": False},
    {"stack": "peft"},
    {"method": "full"},
    {"lora_r": 32, "lora_dropout": 0.05},
    {"precision": "fp32"},
)


def drawn(seed: int, count: int) -> list[str]:
    """Model types of causal and masked classes."""
    known = types()
    return random.Random(seed).sample(sorted({*known["causal"], *known["masked"]}), count)


def asked(model_type: str, seed: int, task: str) -> list[TrainingChoices]:
    """Two shapes under two settings."""
    draw = random.Random(f"{seed} {model_type}")
    made = []
    for (batch, length), given in zip(draw.sample(SHAPES, 2), draw.sample(SETTINGS, 2), strict=True):
        own = {"lora_targets": ("all-linear",), "lora_dropout": 0.0, "stack": "builtin", **given}
        own["loss"] = "chunked" if task == "causal" and own["stack"] == "builtin" else "full"
        made.append(TrainingChoices(batch_size=batch, max_length=length, **own).with_usual_implementation("cuda"))
    return made


def learned(teacher: Teacher, work: Any) -> Any:
    """What `work` returns once everything that it lacks is recorded."""
    for _ in range(8):
        try:
            return work()
        except Unlearned as missing:
            teacher.learn(missing)
    raise RuntimeError("asks for more and more recordings")


def difference(config: dict[str, Any], spec: ModelSpec, choices: TrainingChoices, teacher: Teacher) -> float:
    """Largest relative difference of an instant, in blocks of the exact size."""
    from trainer.trace import run

    run.CUDA_GRANULARITY = 1
    ours = learned(teacher, lambda: memory.predict(spec, CARD, choices)).instants
    setup = run.Setup(cublas_workspace_bytes=int(device.workspace_bytes(CARD)), evaluate=True)
    theirs = run.trace(config, choices, setup).instants
    return max(abs(ours[name] - theirs[name]) / theirs[name] for name in INSTANTS if name in ours and name in theirs)


def tried(model_type: str, seed: int, teacher: Teacher) -> list[float | str]:
    """Differences at two held-out points, or why there is none."""
    known = types()
    cls = known["causal"].get(model_type) or known["masked"][model_type]
    config = text_part(default_config(model_type, cls))
    try:
        spec = learned(teacher, lambda: from_config(config, model_type))
    except TuneplanError as error:
        return [one_line(error)]
    found: list[float | str] = []
    for choices in asked(model_type, seed, spec.task):
        try:
            found.append(difference(config, spec, choices, teacher))
        except Exception as error:  # a refusal, or whatever a library makes of a network that nobody tried before
            found.append(f"{type(error).__name__}: {error}"[:160])
    return found


def main(arguments: list[str]) -> int:
    """Tries what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.held_out")
    parser.add_argument("types", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=40)
    given = parser.parse_args(arguments)
    numbers: list[float] = []
    teacher = Teacher(lambda line: None)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"TUNEPLAN_HOME": home, "TUNEPLAN_CACHE": "off"}
        for model_type in given.types or drawn(given.seed, given.count):
            found = tried(model_type, given.seed, teacher)
            numbers += [value for value in found if isinstance(value, float)]
            said = (f"{100 * value:.4f} %" if isinstance(value, float) else value for value in found)
            print(f"{model_type}: {' · '.join(said)}", flush=True)
    teacher.close()
    if numbers:
        print(
            f"{len(numbers)} points: median {100 * statistics.median(numbers):.4f} %, worst {100 * max(numbers):.4f} %"
        )
    return int(any(value > WORST for value in numbers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
