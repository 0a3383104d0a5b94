"""Tiny models of every family, and one real step of them on the CPU measured by the storage meter."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import torch

from planner.contract.choices import TrainingChoices
from trainer import modeling
from trainer.data.batches import Collator
from trainer.data.tokens import Tokens
from trainer.measure.meter import StorageMeter
from trainer.recovery import updates
from trainer.trace.step import make_optimizer_state, run_step

SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 160,
    "max_position_embeddings": 256,
}
TINY: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "num_key_value_heads": 2, **SIZES},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2, "tie_word_embeddings": True, **SIZES},
    "phi": {
        "architectures": ["PhiForCausalLM"],
        "hidden_act": "gelu_new",
        "resid_pdrop": 0.1,
        "partial_rotary_factor": 0.5,
        **SIZES,
    },
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256, "vocab_size": 512},
    "bert": {"architectures": ["BertForMaskedLM"], **SIZES},
    "t5": {
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": 512,
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 160,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
    },
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 32,
        **SIZES,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        **SIZES,
    },
    "granite": {
        "architectures": ["GraniteForCausalLM"],
        "num_key_value_heads": 2,
        "logits_scaling": 6.0,
        "embedding_multiplier": 12.0,
        "tie_word_embeddings": True,
        **SIZES,
    },
    "cohere": {"architectures": ["CohereForCausalLM"], "num_key_value_heads": 2, "logit_scale": 0.25, **SIZES},
}
for _name, _config in TINY.items():
    _config["model_type"] = _name


def choices(**changes: Any) -> TrainingChoices:
    """A small configuration of stack `peft`, with changes."""
    values: dict[str, Any] = {
        "stack": "peft",
        "batch_size": 3,
        "max_length": 64,
        "gradient_accumulation_steps": 1,
    }
    return TrainingChoices(**{**values, **changes})


def build(config: dict[str, Any], chosen: TrainingChoices, seed: int = 1) -> Any:
    """The real model with adapters and checkpointing, as the trainer makes it."""
    model = modeling.build(
        config, dtype=modeling.weights_dtype(chosen.precision), attention=chosen.attention, device="cpu", seed=seed
    )
    model = modeling.separate_experts(model, chosen)
    model = modeling.quantize(model, chosen, compute_dtype=torch.bfloat16)
    modeling.prepare_kbit(model, chosen)
    model = modeling.attach_adapters(model, chosen)
    modeling.use_loss_version(model, chosen)
    modeling.apply_checkpointing(model, chosen)
    return model


def make_batch(config: dict[str, Any], chosen: TrainingChoices, padded: bool = False) -> dict[str, torch.Tensor]:
    """Random tokens; with `padded` the first sequence ends in eight padding tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, config["vocab_size"], (chosen.batch_size, chosen.max_length), generator=generator)
    batch = {"input_ids": tokens, "labels": tokens.clone()}
    if chosen.padding != "packed":
        batch["attention_mask"] = torch.ones_like(tokens)
        if padded:
            batch["attention_mask"][0, -8:] = 0
    else:
        batch["position_ids"] = torch.arange(chosen.max_length).expand(chosen.batch_size, -1).contiguous()
    return batch


def ragged_batch(config: dict[str, Any], rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Random tokens in rows of the lengths given, as the trainer's own collator hands them over."""
    generator = torch.Generator().manual_seed(0)
    sequences = []
    for row in rows:
        made = [torch.randint(1, config["vocab_size"], (length,), generator=generator).tolist() for length in row]
        sequences.append([Tokens(array("l", ids), array("l", ids)) for ids in made])
    packed = any(len(row) > 1 for row in rows)
    longest = max(sum(row) for row in rows)
    batch = Collator(pad_token_id=0, max_length=longest, padding="packed" if packed else "longest")(sequences)
    del batch["real_tokens"]
    return batch


def measure(
    config: dict[str, Any],
    chosen: TrainingChoices,
    *,
    padded: bool = False,
    lengths: Sequence[Sequence[int]] | None = None,
) -> dict[str, int]:
    """Peaks by instant of the second step of a real run, from the storages of its tensors."""
    model = build(config, chosen)
    modeling.wrap_forward(model, modeling.autocast_dtype(chosen), "cpu")
    optimizer = modeling.build_optimizer(model, chosen)
    if chosen.stack == "builtin":
        updates.guard(optimizer, chosen, failed=updates.give_up)
    count = chosen.gradient_accumulation_steps
    if lengths is None:
        batches = [make_batch(config, chosen, padded and not number) for number in range(count)]
    else:
        batches = [ragged_batch(config, lengths) for _ in range(count)]
    batch = batches[0]
    num_items = torch.tensor(batch["labels"].numel())
    make_optimizer_state(optimizer)
    meter = StorageMeter()
    modeling.watch_loss(model, meter.enter)
    there = [value for made in batches for value in made.values() if isinstance(value, torch.Tensor)]
    meter.adopt_training(model, optimizer, [*there, num_items])
    with meter:
        run_step(
            model,
            batch,
            chosen,
            optimizer,
            phase=meter.enter,
            num_items=num_items,
            accumulating=chosen.gradient_accumulation_steps > 1,
        )
    meter.forget()
    return meter.instants
