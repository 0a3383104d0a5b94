"""What becomes of a small model of each type: `python -m benchmarks.trained_types [TYPE…]`.

A small model with random weights is trained for 20 steps by `plan train` on stack `builtin`, killed on the way and
resumed, merged, generated from, and its adapter is loaded by plain PEFT, which must say what the merged model says.
Without a TYPE all of `benchmarks.small_types` are tried. Exit code 1 where one fails.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.small_types import CONFIGS, small
from planner.contract.choices import TrainingChoices
from planner.contract.process import command
from planner.contract.records import Plan

STEPS, SAVED = 20, 5
MOST_SECONDS = 300
"""For one run of the trainer."""
SETTINGS = {
    "method": "lora",
    "precision": "fp32",
    "batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_length": 32,
    "gradient_checkpointing": True,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "stack": "builtin",
}


def prepare(folder: Path, model_type: str) -> Path:
    """Model with tokenizer, data and a plan file; returns the plan's path."""
    import torch

    from trainer import modeling
    from trainer.commands.demo import tokenizer

    made = tokenizer.build()
    masked = CONFIGS[model_type][0].endswith("MaskedLM")
    if masked:
        made.add_special_tokens({"mask_token": "<mask>"})
    made.save_pretrained(folder / "model")
    config = small(model_type, vocab_size=len(made))
    modeling.build(config, dtype=torch.float32, seed=3).save_pretrained(folder / "model")
    rows = ({"prompt": f"say {'ab' * (n % 5 + 1)}", "completion": "ab" * (n % 3 + 1)} for n in range(80))
    lines = ({"text": f"{row['prompt']} {row['completion']}"} if masked else row for row in rows)
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = Plan(model=str(folder / "model"), gpu="cpu", settings=TrainingChoices()).model_dump(
        mode="json", by_alias=True
    )
    content["settings"] = SETTINGS if masked else {**SETTINGS, "loss": "chunked"}
    content["hyperparameters"] |= {
        "learning_rate": 1e-2,
        "max_steps": STEPS,
        "save_steps": SAVED,
        "eval_steps": STEPS,
        "report_to": [],
        "sample_max_new_tokens": 4,
    }
    content["data"] |= {"path": str(folder / "data.jsonl"), "validation_split": 0.2}
    (folder / "plan.json").write_text(json.dumps(content))
    return folder / "plan.json"


def train(plan: Path, output: Path, *words: str, kill_after: int | None = None) -> list[dict[str, Any]]:
    """Events of `plan train`; killed with its children once step `kill_after` is done."""
    line = [*command("planner.cli"), "train", str(plan), "--output", str(output), "--device", "cpu", "--json", *words]
    child = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout is not None
    assert child.stderr is not None
    events: list[dict[str, Any]] = []
    ends = time.monotonic() + MOST_SECONDS
    for text in child.stdout:
        events.append(json.loads(text))
        steps = [event["data"]["step"] for event in events if event["kind"] == "step"]
        if (kill_after is not None and steps and steps[-1] >= kill_after) or time.monotonic() > ends:
            for pid in (*_children(child.pid), child.pid):
                os.kill(pid, signal.SIGKILL)
            break
    said = child.stderr.read().strip()
    child.wait()
    failed = [event["data"] for event in events if event["kind"] == "failed"]
    if failed or (kill_after is None and child.returncode != 0):
        why = str(failed[0].get("message", failed[0])) if failed else said.splitlines()[-1] if said else "no word"
        raise RuntimeError(f"plan train ended with {child.returncode}: {why}")
    return events


def _children(pid: int) -> list[int]:
    """Processes that a process started (Linux)."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def says(model: Any, ids: Any) -> Any:
    """Logits of a few tokens."""
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.float()


def tried(model_type: str, folder: Path) -> str:
    """Runs one type through all of it; returns what was seen. Raises where something fails."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    from trainer.commands import generate
    from trainer.commands.merge import merge

    plan, run = prepare(folder, model_type), folder / "run"
    train(plan, run, kill_after=STEPS // 2 + 2)
    events = train(plan, run, "--resume")
    steps = [event["data"] for event in events if event["kind"] == "step"]
    if not steps or steps[0]["step"] <= SAVED or steps[-1]["step"] != STEPS:
        raise RuntimeError(f"resumed at step {steps[0]['step'] if steps else '?'} of {STEPS}")
    merged = merge(run, folder / "merged")
    masked = CONFIGS[model_type][0].endswith("MaskedLM")
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    ids = torch.arange(3, 15).view(1, -1)
    base = auto.from_pretrained(folder / "model", dtype=torch.float32)
    before = says(base, ids)
    plain = says(PeftModel.from_pretrained(base, str(run / "adapter")), ids)
    whole = says(auto.from_pretrained(folder / "merged", dtype=torch.float32), ids)
    torch.testing.assert_close(plain, whole, rtol=1e-3, atol=1e-3)
    if not (plain - before).abs().max() > 1e-4:
        raise RuntimeError("the adapter changes nothing")
    if not masked:
        model, tokenizer = generate.load_trained(run, torch.device("cpu"))
        generate.complete(model, tokenizer, "say ab", max_new_tokens=4)
    return f"loss {steps[-1]['loss']:.3f}, merged within {merged.logit_difference:.0e}"


def main(arguments: list[str]) -> int:
    """Tries what was asked for."""
    failed = 0
    for model_type in arguments or CONFIGS:
        with tempfile.TemporaryDirectory() as place:
            try:
                print(f"{model_type}: {tried(model_type, Path(place))}", flush=True)
            except Exception as error:  # whatever a library makes of a network that nobody tried before
                failed += 1
                print(f"{model_type}: FAILED, {str(error).strip().splitlines()[0][:200]}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
