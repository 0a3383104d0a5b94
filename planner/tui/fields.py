"""What the plan screen lets a person edit: one row per field, with its label, its range and what it means. UI-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from planner.contract import spec
from planner.contract.records import Hyperparameters
from planner.tui.field import Field, Where
from planner.tui.fields_more import MORE_FIELDS

POWERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LENGTHS = (64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768)
STEPS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000)


def _choice(key: str, label: str, group: str, where: Where, options: Sequence[str], help: str) -> Field:
    return Field(key=key, label=label, group=group, where=where, kind="choice", options=tuple(options), help=help)


def _switch(key: str, label: str, group: str, where: Where, help: str) -> Field:
    return Field(key=key, label=label, group=group, where=where, kind="switch", help=help)


def _whole(key: str, label: str, group: str, where: Where, help: str, **rest: Any) -> Field:
    return Field(key=key, label=label, group=group, where=where, kind="whole", help=help, **{"low": 1, **rest})


def _number(key: str, label: str, group: str, where: Where, help: str, **rest: Any) -> Field:
    return Field(key=key, label=label, group=group, where=where, kind="number", help=help, **{"low": 0, **rest})


SHAPE, METHOD, NUMERICS, LEARNING, RUN = "Batch and length", "Method", "Numerics", "Learning", "Run"

FIELDS: tuple[Field, ...] = (
    _whole(
        "batch_size",
        "Batch size",
        SHAPE,
        "choices",
        "Sequences in one forward pass. Memory grows with it; the accumulation follows, the effective batch stays.",
        ladder=POWERS,
    ),
    _whole(
        "gradient_accumulation_steps",
        "Accumulation",
        SHAPE,
        "choices",
        "Micro-batches per optimizer step. Costs time, not memory.",
        ladder=POWERS,
    ),
    _whole(
        "effective_batch_size",
        "Effective batch",
        SHAPE,
        "choices",
        "Batch × accumulation: what the training result depends on. Changing it changes the accumulation.",
        ladder=(*POWERS, 384, 512, 768, 1024),
    ),
    _whole(
        "max_length",
        "Max length",
        SHAPE,
        "choices",
        "Tokens per sequence; longer examples are cut. Memory grows with it.",
        ladder=LENGTHS,
    ),
    _choice(
        "padding",
        "Padding",
        SHAPE,
        "choices",
        spec.PADDINGS,
        "longest: to the batch's longest; max: to the max length; packed: examples share a row.",
    ),
    _switch(
        "gradient_checkpointing",
        "Checkpointing",
        SHAPE,
        "choices",
        "Layers keep only their input and are computed again in backward: much less memory, about a third more time.",
    ),
    _whole(
        "checkpoint_layers",
        "Checkpointed layers",
        SHAPE,
        "choices",
        "How many layers are checkpointed, the first ones; `all` is the default.",
        low=0,
        none="all",
        ladder=tuple(range(1, 129)),
    ),
    _choice(
        "method",
        "Method",
        METHOD,
        "choices",
        spec.METHODS,
        "lora: small adapters on a frozen model; qlora: over a 4-bit model; full: every weight.",
    ),
    _whole(
        "lora_r",
        "LoRA rank",
        METHOD,
        "choices",
        "Width of the adapters: more capacity, a larger adapter.",
        ladder=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    ),
    _number(
        "lora_alpha",
        "LoRA alpha",
        METHOD,
        "choices",
        "Scale of the adapters: alpha / rank multiplies their output.",
        ladder=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    ),
    _number(
        "lora_dropout",
        "LoRA dropout",
        METHOD,
        "choices",
        "Share of the adapter's input that is dropped in training.",
        high=0.99,
        ladder=(0, 0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3),
    ),
    Field(
        key="lora_targets",
        label="LoRA targets",
        group=METHOD,
        where="choices",
        kind="names",
        options=("all-linear", "attention"),
        help="Which linear layers carry an adapter: a set, or their names.",
    ),
    _choice(
        "lora_variant",
        "LoRA variant",
        METHOD,
        "choices",
        spec.LORA_VARIANTS,
        "rslora scales by the root of the rank; dora also learns a magnitude.",
    ),
    _choice(
        "quantization",
        "Quantization",
        METHOD,
        "choices",
        spec.QUANTIZATIONS,
        "Storage of the frozen weights under qlora.",
    ),
    _choice(
        "precision",
        "Precision",
        NUMERICS,
        "choices",
        spec.PRECISIONS,
        "bf16: weights in bf16; -mixed: fp32 weights, 16-bit arithmetic.",
    ),
    _choice(
        "adapter_dtype",
        "Adapter dtype",
        NUMERICS,
        "choices",
        spec.ADAPTER_DTYPES,
        "Storage of the adapters; fp32 is the safer one.",
    ),
    _choice(
        "optimizer",
        "Optimizer",
        NUMERICS,
        "choices",
        spec.OPTIMIZERS,
        "What it remembers per trained parameter: adamw 8 bytes, 8-bit 2, sgd none.",
    ),
    _choice(
        "loss",
        "Loss",
        NUMERICS,
        "choices",
        spec.LOSSES,
        "chunked: the logits of a few tokens at a time, never all of them.",
    ),
    _choice(
        "stack",
        "Stack",
        NUMERICS,
        "choices",
        spec.STACKS,
        "Whose step is planned: builtin is the trainer that `t` starts; peft is plain transformers + PEFT.",
    ),
    _choice(
        "attention",
        "Attention",
        NUMERICS,
        "choices",
        spec.ATTENTIONS,
        "sdpa and flash never hold the score matrix; eager does.",
    ),
    _switch(
        "expandable_segments",
        "Growing segments",
        NUMERICS,
        "choices",
        "CUDA's allocator extends its segments in place of making further ones: less is lost between them.",
    ),
    _number(
        "learning_rate",
        "Learning rate",
        LEARNING,
        "hyperparameters",
        "Size of a step at the schedule's top.",
        low=1e-9,
        high=10,
        ladder=(1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2),
    ),
    _number(
        "epochs",
        "Epochs",
        LEARNING,
        "hyperparameters",
        "Passes over the training examples.",
        low=1e-3,
        high=1e4,
        ladder=(0.25, 0.5, 1, 2, 3, 4, 5, 8, 10, 15, 20, 30),
    ),
    _whole(
        "max_steps",
        "Max steps",
        LEARNING,
        "hyperparameters",
        "Stops after this many optimizer steps, whatever the epochs say.",
        none="off",
        ladder=STEPS,
    ),
    _choice(
        "scheduler",
        "Scheduler",
        LEARNING,
        "hyperparameters",
        get_args(Hyperparameters.model_fields["scheduler"].annotation),
        "How the learning rate falls.",
    ),
    _number(
        "min_learning_rate_ratio",
        "Final LR ratio",
        LEARNING,
        "hyperparameters",
        "Last learning rate as a share of the first.",
        high=1,
        ladder=(0, 0.01, 0.05, 0.1, 0.2, 0.5),
    ),
    _number(
        "warmup_ratio",
        "Warm-up",
        LEARNING,
        "hyperparameters",
        "Share of the steps over which the learning rate rises.",
        high=1,
        ladder=(0, 0.01, 0.03, 0.05, 0.1, 0.2),
    ),
    _number(
        "weight_decay",
        "Weight decay",
        LEARNING,
        "hyperparameters",
        "Pull of the trained weights towards zero.",
        high=1,
        ladder=(0, 0.001, 0.01, 0.05, 0.1),
    ),
    _number(
        "max_grad_norm",
        "Clipping",
        LEARNING,
        "choices",
        "Largest gradient norm; 0 switches clipping off.",
        ladder=(0, 0.3, 0.5, 1, 2, 5),
    ),
    _number(
        "validation_split",
        "Validation split",
        RUN,
        "data",
        "Share of the examples kept for evaluation.",
        high=0.9,
        ladder=(0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
    ),
    _whole(
        "max_examples",
        "Max examples",
        RUN,
        "data",
        "Uses only so many examples.",
        none="all",
        ladder=(8, 16, 32, 64, 100, 200, 500, 1000, 5000, 10000),
    ),
    _whole(
        "eval_steps",
        "Evaluate every",
        RUN,
        "hyperparameters",
        "Optimizer steps between evaluations; `epoch`: once an epoch.",
        none="epoch",
        ladder=STEPS,
    ),
    _whole(
        "save_steps",
        "Save every",
        RUN,
        "hyperparameters",
        "Optimizer steps between checkpoints; `eval`: at each evaluation.",
        none="eval",
        ladder=STEPS,
    ),
    _whole(
        "logging_steps",
        "Log every",
        RUN,
        "hyperparameters",
        "Optimizer steps between two points of the loss curve.",
        ladder=STEPS,
    ),
    _whole(
        "early_stopping_patience",
        "Early stopping",
        RUN,
        "hyperparameters",
        "Evaluations without improvement before the run stops; 0: never.",
        low=0,
        ladder=(0, 1, 2, 3, 5, 8),
    ),
    _switch("train_on_prompt", "Loss on prompt", RUN, "hyperparameters", "off: only completions are learnt."),
    _switch(
        "group_by_length",
        "Group by length",
        RUN,
        "hyperparameters",
        "Batches hold examples of like length: less padding.",
    ),
    _whole(
        "seed",
        "Seed",
        RUN,
        "hyperparameters",
        "Start of every random number.",
        low=0,
        high=2**31 - 1,
        ladder=tuple(range(100)),
    ),
    Field(
        key="sample_prompt",
        label="Sample prompt",
        group=RUN,
        where="hyperparameters",
        kind="text",
        none="auto",
        help="Prompt of the sample that each evaluation generates; auto: a validation example's.",
    ),
    *MORE_FIELDS,
)

BY_KEY: dict[str, Field] = {field.key: field for field in FIELDS}
