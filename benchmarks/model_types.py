"""Which model types of transformers get a number, and on what it rests: `python -m benchmarks.model_types [TYPE…]`.

Every type of the causal, masked, sequence-to-sequence and image-text-to-text classes is tried with its own default
config, cut to few layers: the network is described and a training step of it recorded. Results are kept in
`benchmarks/results/model_types.json` from run to run; without a TYPE all that have none yet are tried. `--docs` writes
the table of docs/models.md from them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.calibration import attach
from planner.contract.architectures import ARCHITECTURES
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled, RunFailed, TuneplanError
from planner.contract.words import one_line
from planner.decide.learning import Teacher
from planner.memory.loads import case_of
from planner.memory.recorded.wanted import log_of
from planner.memory.step.case import Case
from planner.models.recorded import Unlearned
from planner.models.sources import from_config

RESULTS = Path(__file__).parent / "results" / "model_types.json"
DOCS = Path(__file__).parents[1] / "docs" / "models.md"
MARKS = ("<!-- types -->", "<!-- /types -->")
CLASSES = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "image-text-to-text": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
}
MOST_SECONDS = 240
"""That one type may take."""
CHOICES = TrainingChoices(
    batch_size=2, max_length=256, lora_targets=("all-linear",), lora_dropout=0.0, gradient_checkpointing=False
)


def types() -> dict[str, dict[str, str]]:
    """Class of head -> model type -> name of the class."""
    from transformers.models.auto import modeling_auto

    found = {}
    for head, name in CLASSES.items():
        mapping = getattr(modeling_auto, name)
        found[head] = {key: value if isinstance(value, str) else value[0] for key, value in mapping.items()}
    return found


def default_config(model_type: str, cls: str) -> dict[str, Any]:
    """The type's default config with few layers."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = CONFIG_MAPPING[model_type]()
    names = getattr(type(made), "attribute_map", {})
    layers = names.get("num_hidden_layers", "num_hidden_layers")
    config: dict[str, Any] = {"model_type": model_type, "architectures": [cls]}
    if isinstance(getattr(made, layers, None), int) and getattr(made, layers) > 8 and not hasattr(made, "layer_types"):
        config[layers] = 8
    text = getattr(made, "text_config", None)
    if text is not None:
        config["text_config"] = {"model_type": text.model_type}
    return config


class _Late(Exception):
    """A type takes too long: no TuneplanError, so that nothing goes on after it."""


class _Tried:
    """One type after the other, in one child that traces as long as it answers."""

    def __init__(self) -> None:
        self.teacher = Teacher(lambda line: None)
        self.card = attach.find("a100-80gb")
        signal.signal(signal.SIGALRM, self._late)

    def tried(self, model_type: str, cls: str) -> dict[str, str]:
        """`basis` of a figure (written, recorded, traced, refused), and why it is no better."""
        try:
            config = default_config(model_type, cls)
        except Exception as error:  # a class whose own defaults it refuses
            return {"basis": "refused", "why": f"its default config can't be made: {one_line(error)}"}
        if config.get("text_config", config)["model_type"] in ARCHITECTURES:
            return {"basis": "written"}
        signal.alarm(MOST_SECONDS)
        try:
            return self._recorded(config, model_type)
        except (_Late, RunFailed) as error:  # the child is still at it, or gone
            self.teacher.close()
            self.teacher = Teacher(lambda line: None)
            return {"basis": "refused", "why": one_line(error)}
        except TuneplanError as error:
            return {"basis": "refused", "why": one_line(error)}
        finally:
            signal.alarm(0)

    def _recorded(self, config: dict[str, Any], model_type: str) -> dict[str, str]:
        spec = self._learned(lambda: from_config(config, model_type))
        reasons = []
        for loss in ("chunked", "full") if spec.task == "causal" else ("full",):
            choices = replace(CHOICES.with_usual_implementation("cuda"), loss=loss)

            case = case_of(spec, self.card, choices, spec.total_layers, choices.max_length, 0)

            def work(case: Case = case) -> Any:
                return log_of(case)

            try:
                self._learned(work)
            except RunFailed:
                raise
            except TuneplanError as error:
                reasons.append(one_line(error))
                continue
            return {"basis": "recorded", **({"why": f"loss full: {reasons[0]}"} if reasons else {})}
        return {"basis": "traced or refused", "why": reasons[-1]}

    def _learned(self, work: Callable[[], Any]) -> Any:
        for _ in range(8):
            try:
                return work()
            except Unlearned as missing:
                self.teacher.learn(missing)
        raise NotModelled("asks for more and more recordings")

    def _late(self, *_: object) -> None:
        raise _Late(f"not done in {MOST_SECONDS} s")


def table(results: dict[str, dict[str, dict[str, str]]]) -> str:
    """The results as Markdown."""
    lines: list[str] = []
    known = types()
    for head, found in results.items():
        counts: dict[str, list[str]] = {}
        for name in sorted(found):
            counts.setdefault(found[name]["basis"], []).append(name)
        lines += [
            f"**{head}** ({len(found)} of {len(known[head])} types tried so far)",
            "",
            "| basis | types |",
            "|---|---|",
        ]
        for basis, names in sorted(counts.items()):
            lines.append(f"| {basis} ({len(names)}) | {' '.join(f'`{name}`' for name in names)} |")
        why = [
            (name, found[name]["why"])
            for name in sorted(found)
            if "recorded" not in found[name]["basis"] and "why" in found[name]
        ]
        lines += ["", *(f"- `{name}`: {reason[:200]}" for name, reason in why), ""]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Tries what was asked for and keeps it."""
    results: dict[str, dict[str, dict[str, str]]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments == ["--docs"]:
        text = DOCS.read_text(encoding="utf-8")
        before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
        DOCS.write_text(f"{before}{MARKS[0]}\n{table(results)}{MARKS[1]}{after}", encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"TUNEPLAN_HOME": home, "TUNEPLAN_CACHE": "off"}
        trying = _Tried()
        for head, names in types().items():
            for name, cls in names.items():
                known = results.setdefault(head, {})
                if name in arguments or (not arguments and name not in known):
                    known[name] = trying.tried(name, cls)
                    print(head, name, known[name], flush=True)
                    RESULTS.parent.mkdir(exist_ok=True)
                    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        trying.teacher.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
