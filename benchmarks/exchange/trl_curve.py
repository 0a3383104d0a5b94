"""`plan export --to trl` run by TRL itself beside tuneplan's own run: the same losses?

`python -m benchmarks.exchange.trl_curve` in an environment with the extras `train` and `bench`; some seconds on a CPU.
A tiny Llama, 16 turns of user and assistant, LoRA r4, fp32. Every optimizer step takes all examples, so that it does
not matter in which order either shuffles them; both draw the adapter from the plan's seed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from planner.cli import main as plan
from tests.support.trainer_support import make_model, make_plan, of_kind, train

STEPS = 12
EXAMPLES = 16
RUN = """
import json
import sys

import trl
from transformers import TrainerCallback
from trl.scripts import sft


class Tell(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **more):
        if "loss" in (logs or {}):
            print("LOSS", json.dumps([state.global_step, logs["loss"]]), flush=True)


class Told(trl.SFTTrainer):
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.add_callback(Tell())


trl.SFTTrainer = Told
script, training, model, data = sft.make_parser().parse_args_and_config(args=["--config", sys.argv[1]])
sft.main(script, training, model, data)
"""
"""TRL's own `sft` command on the exported file as it is, with a callback that prints what it logs."""


def losses(folder: Path) -> tuple[list[float], list[float]]:
    """Training losses of both, step by step."""
    model = make_model(folder / "model")
    data = _turns(folder / "turns.jsonl")
    path = make_plan(
        folder / "plan.yaml",
        model,
        data,
        settings={"batch_size": 4, "gradient_accumulation_steps": EXAMPLES // 4, "lora_dropout": 0.0, "stack": "peft"},
        data_settings={"validation_split": 0.0},
        epochs=float(STEPS),
        scheduler="constant",
        warmup_ratio=0.0,
        logging_steps=1,
        save_steps=1000,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as talk:
        code = plan(["export", str(path), "--to", "trl", "--output", str(folder / "trl")])
    if code:
        raise RuntimeError(talk.getvalue())
    events, failure = train(path, folder / "run")
    if failure is not None:
        raise failure
    own = [float(item["loss"]) for item in of_kind(events, "step")]
    config = next((folder / "trl").glob("*.yaml"))
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "WANDB_DISABLED": "true"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, config.name], cwd=folder / "trl", env=env, capture_output=True, text=True
    )
    lines = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("LOSS ")]
    if not lines:
        raise RuntimeError(done.stderr[-3000:])
    return own, [float(loss) for _, loss in lines]


def _turns(path: Path) -> Path:
    """Turns of user and assistant as prompt and completion: both put the model's chat template around them."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"say {'ab' * (number % 5 + 1)}"}],
            "completion": [{"role": "assistant", "content": "ab" * (number % 3 + 1)}],
        }
        for number in range(EXAMPLES)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def main() -> int:
    """Prints both curves and the largest relative distance."""
    with tempfile.TemporaryDirectory() as folder:
        own, theirs = losses(Path(folder))
    print(f"{'step':>4}  {'tuneplan':>10}  {'TRL':>10}  {'distance':>9}")
    for step, (one, other) in enumerate(zip(own, theirs, strict=True), 1):
        print(f"{step:4d}  {one:10.6f}  {other:10.6f}  {abs(one / other - 1):9.1e}")
    print(f"largest: {max(abs(one / other - 1) for one, other in zip(own, theirs, strict=True)):.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
