"""`plan export --to litgpt` and `--to mlx-lm` run by those tools themselves, on the file as it is.

`python -m benchmarks.exchange.tool_runs FOLDER`, with FOLDER as tests/support/tool_schemas.py says; a minute on a CPU,
for which MLX is made too. A tiny Llama, 16 examples, every step takes all of them. Both draw other adapters than
tuneplan, LitGPT puts Alpaca's form around the prompts and mlx-lm learns one padding token more, so the losses are alike
and not the same.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from planner.cli import main as plan
from tests.support.trainer_support import make_model, make_plan, of_kind, train

STEPS = 12
EXAMPLES = 16
LITGPT = """
import sys
sys.path.insert(0, sys.argv[2])
import lightning
import litgpt.__main__ as command
def told(fabric, metrics, step=None):
    if "loss" in metrics:
        print("LOSS", float(metrics["loss"]), metrics["learning_rate"], flush=True)
lightning.Fabric.log_dict = told
sys.argv[:] = ["litgpt", "finetune_lora", "--config", sys.argv[1]]
command.main()
"""
MLX_LM = """
import sys
sys.path.insert(0, sys.argv[2])
from mlx_lm import lora
class Tell:
    def on_train_loss_report(self, info):
        print("LOSS", info["train_loss"], info["learning_rate"], flush=True)
    def on_val_loss_report(self, info):
        pass
lora.get_reporting_callbacks = lambda *given, **named: Tell()
sys.argv[:] = ["mlx_lm.lora", "--config", sys.argv[1]]
lora.main()
"""
"""Each tool's own command, with its log printed."""


def losses(tool: str, packages: str, folder: Path) -> list[tuple[float, float, float, float]]:
    """Loss and rate of each step: tuneplan's, then the tool's."""
    model = make_model(folder / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps(_row(tool, number)) for number in range(EXAMPLES)) + "\n")
    path = make_plan(
        folder / "plan.yaml",
        model,
        data,
        settings={
            "batch_size": EXAMPLES,
            "gradient_accumulation_steps": 1,
            "lora_dropout": 0.0,
            "stack": "peft",
            "max_length": 400,
            "max_grad_norm": 0.0,
        },
        data_settings={"validation_split": 0.0},
        max_steps=STEPS,
        scheduler="cosine",
        warmup_steps=3,
        warmup_ratio=0.0,
        logging_steps=1,
        min_learning_rate_ratio=0.0,
        save_steps=1000,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as talk:
        code = plan(["export", str(path), "--to", tool, "--output", str(folder / "out")])
    if code:
        raise RuntimeError(talk.getvalue())
    events, failure = train(path, folder / "run")
    if failure is not None:
        raise failure
    own = [(float(item["loss"]), float(item["learning_rate"])) for item in of_kind(events, "step")]
    _beside(tool, packages, folder, model, config)
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    script = LITGPT if tool == "litgpt" else MLX_LM
    words = [sys.executable, "-P", "-c", script, f"{tool}.yaml", packages]
    done = subprocess.run(words, cwd=folder / "out", env=env, capture_output=True, text=True)
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("LOSS ")]
    if not lines or done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return [(*one, float(other[0]), float(other[1])) for one, other in zip(own, lines, strict=True)]


def _row(tool: str, number: int) -> dict[str, Any]:
    prompt, answer = f"say {'ab' * (number % 5 + 1)}", "ab" * (number % 3 + 1)
    if tool == "litgpt":
        return {"instruction": prompt, "output": answer}
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def _beside(tool: str, packages: str, folder: Path, model: Path, config: dict[str, Any]) -> None:
    """What the header asks for: mlx-lm's folder of data, the weights in LitGPT's own format."""
    if tool == "mlx-lm":
        (folder / "out" / "data").mkdir()
        shutil.copy(folder / "rows.jsonl", folder / "out" / "data" / "train.jsonl")
        return
    sys.path.insert(0, packages)
    import torch
    from litgpt.config import Config
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.utils import save_config
    from safetensors.torch import load_file

    place = folder / "out" / "checkpoints" / str(model).strip("/")
    shutil.copytree(model, place)
    own = Config(
        name="tiny",
        hf_config={},
        block_size=512,
        vocab_size=config["vocab_size"],
        padded_vocab_size=config["vocab_size"],
        n_layer=config["num_hidden_layers"],
        n_head=config["num_attention_heads"],
        n_query_groups=config["num_key_value_heads"],
        n_embd=config["hidden_size"],
        head_size=config["head_dim"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        norm_eps=config["rms_norm_eps"],
        intermediate_size=config["intermediate_size"],
    )
    weights: dict[str, Any] = {}
    copy_weights_hf_llama(own, {}, weights, load_file(model / "model.safetensors"))
    torch.save(weights, place / "lit_model.pth")
    save_config(own, place)


def main(packages: str) -> int:
    """Prints both curves and rates for each tool."""
    for tool in ("litgpt", "mlx-lm"):
        with tempfile.TemporaryDirectory() as folder:
            rows = losses(tool, packages, Path(folder))
        print(f"{'step':>4}  {'tuneplan':>9}  {'rate':>8}  {tool:>9}  {'rate':>8}")
        for step, (one, rate, other, there) in enumerate(rows, 1):
            print(f"{step:4d}  {one:9.5f}  {rate:8.2g}  {other:9.5f}  {there:8.2g}")
        first, last = (abs(row[0] / row[2] - 1) for row in (rows[0], rows[-1]))
        print(f"first step {first:.1e} apart, last {last:.1e}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
