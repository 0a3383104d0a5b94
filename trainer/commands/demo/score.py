"""How often a model answers held-out prompts of the demonstration exactly."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def exact_match(run_dir: Path, pairs: Path, device: torch.device, *, limit: int | None = None) -> float:
    """Share of prompts whose greedy answer equals the completion; `run_dir` is a run, an adapter or a model folder."""
    from planner.contract.data.examples import Message
    from trainer.commands.generate import complete, load_trained
    from trainer.data.tokens import render_prompt

    model, tokenizer = load_trained(run_dir, device)
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()][:limit]
    right = 0
    for row in rows:
        prompt = render_prompt(tokenizer, [Message("user", row["prompt"], False)])
        right += complete(model, tokenizer, prompt, max_new_tokens=24) == row["completion"]
    return right / len(rows)
