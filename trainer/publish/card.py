"""The model card: what it is, how it was made, what it took, and how to load it."""

from __future__ import annotations

import re

from planner.contract.choices import DEFAULTS
from planner.contract.events import FinishedEvent
from planner.contract.units import format_bytes
from planner.contract.words import one_line
from planner.contract.yaml_text import dumps
from trainer.publish.facts import Facts

UNKNOWN = "not known here: look at the base model's page before you share this"


def card(facts: Facts, *, merged: bool, licence: str | None, loads: str) -> str:
    """Markdown with the hub's front matter. `loads`: Python that loads it."""
    full = facts.plan.settings.method == "full"
    front = dumps(
        {
            "base_model": one_line(facts.base),
            "library_name": "transformers" if merged else "peft",
            **({"license": licence} if licence else {}),
            "pipeline_tag": "text-generation",
            "tags": ["tuneplan", *([] if full else ["lora"])],
        }
    )
    kind = "fine-tuned model" if full else "model with a LoRA adapter merged into it" if merged else "LoRA adapter"
    lines = [
        f"# {_plain(facts.base)}, fine-tuned",
        "",
        f"A {kind}, made with tuneplan from `{_word(facts.base)}`.",
        "",
    ]
    lines += [f"Licence of the base: {_plain(licence) if licence else UNKNOWN}.", ""]
    lines += ["## Loading", "", "```python", loads, "```", ""]
    lines += ["## Data", "", *_data(facts), ""]
    lines += ["## Result", "", *_result(facts), ""]
    lines += ["## Memory", "", *_memory(facts), ""]
    lines += ["## Settings", "", *_settings(facts), ""]
    lines += ["## Versions", "", *_versions(facts), ""]
    return "\n".join(["---", front.rstrip("\n"), "---", "", *lines])


def _word(text: str) -> str:
    return one_line(text).replace("`", "'")


def _plain(text: str) -> str:
    """Text for a heading or a sentence: what Markdown could take for its own, or for HTML, stands as code."""
    return text if re.fullmatch(r"[\w./ -]+", text) else f"`{_word(text)}`"


def _data(facts: Facts) -> list[str]:
    examples, held = facts.data.examples, facts.data.validation_examples
    counted = f": {examples:,} examples" if examples is not None else ""
    counted += f", {held:,} held back" if held else ""
    learned = "whole texts" if facts.plan.hyperparameters.train_on_prompt else "answers alone"
    return [f"`{_word(facts.dataset)}`{counted}. The loss is on {learned}."]


def _result(facts: Facts) -> list[str]:
    done = facts.finished
    if done is None:
        return ["The run has not finished."]
    lines = [f"{'?' if done.steps is None else done.steps} steps ({one_line(done.reason or '')})."]
    before, after = done.eval_loss_before, done.eval_loss
    if after is not None:
        was = f", {before:.4f} before training" if before is not None else ""
        lines.append(f"Loss on held-back examples {after:.4f}{was}.")
    if facts.losses:
        lines += ["", "| step | validation loss |", "|---|---|"]
        few = (
            facts.losses
            if len(facts.losses) <= 20
            else (*facts.losses[:: len(facts.losses) // 20 + 1], facts.losses[-1])
        )
        lines += [f"| {step} | {loss:.4f} |" for step, loss in few]
    return lines


def _memory(facts: Facts) -> list[str]:
    done = facts.finished or FinishedEvent()
    rows = [
        f"{name}: {format_bytes(value)}"
        for name, value in (("Predicted peak", done.predicted_bytes), ("measured peak", done.measured_bytes))
        if value is not None
    ]
    return [", ".join(rows) + f" (plan for {_word(facts.plan.gpu)})."] if rows else ["Not measured."]


def _settings(facts: Facts) -> list[str]:
    choices = facts.plan.settings
    h = facts.plan.hyperparameters
    base = DEFAULTS
    rows: dict[str, object] = {
        "effective batch": choices.effective_batch_size,
        "length": choices.max_length,
        "method": choices.method,
        "precision": choices.precision,
        "learning rate": f"{h.learning_rate:g}",
        "schedule": h.scheduler,
        "epochs": f"{h.epochs:g}" if h.max_steps is None else f"at most {h.max_steps} steps",
        "seed": h.seed,
    }
    if choices.method != "full":
        targets = ", ".join(choices.lora_targets)
        rows["adapter"] = f"{choices.lora_variant}, rank {choices.lora_r}, alpha {choices.lora_alpha:g}, on {targets}"
    if choices.method == "qlora":
        rows["quantization"] = choices.quantization
    if choices.optimizer != base.optimizer:
        rows["optimizer"] = choices.optimizer
    return ["| | |", "|---|---|", *(f"| {name} | {_word(str(value))} |" for name, value in rows.items())]


def _versions(facts: Facts) -> list[str]:
    rows = {"tuneplan": facts.plan.tuneplan_version, **(facts.started.versions or {})}
    return [", ".join(f"{_word(str(name))} {_word(str(value))}" for name, value in rows.items() if value) + "."]
