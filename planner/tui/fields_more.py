"""The rarer rows of the plan screen, and what has no row, with the reason. UI-free."""

from __future__ import annotations

from planner.contract import spec
from planner.tui.field import Field

MORE = "More"

MORE_FIELDS: tuple[Field, ...] = (
    Field(
        key="scheduler_cycles", label="Restarts", group=MORE, where="hyperparameters", kind="whole", low=1,
        ladder=(1, 2, 3, 4, 5, 8), help="cosine-restarts: how often the rate falls from its top to its end.",
    ),
    Field(
        key="scheduler_step_epochs", label="Epochs per drop", group=MORE, where="hyperparameters", kind="number",
        low=1e-3, ladder=(0.5, 1, 2, 3, 5, 10), help="Scheduler step: epochs between two drops of the rate.",
    ),
    Field(
        key="scheduler_gamma", label="Drop factor", group=MORE, where="hyperparameters", kind="number", low=1e-3,
        high=1, ladder=(0.1, 0.3, 0.5, 0.7, 0.9), help="Scheduler step: factor of one drop.",
    ),
    Field(
        key="polynomial_power", label="Polynomial power", group=MORE, where="hyperparameters", kind="number", low=1e-3,
        ladder=(0.5, 1, 2, 3), help="Scheduler polynomial: its exponent; 1 is a straight line.",
    ),
    Field(
        key="warmup_steps", label="Warm-up steps", group=MORE, where="hyperparameters", kind="whole", low=0,
        none="ratio", ladder=(0, 5, 10, 20, 50, 100, 200, 500), help="Steps of the warm-up, in place of its share.",
    ),
    Field(
        key="beta1", label="Adam beta1", group=MORE, where="hyperparameters", kind="number", low=0, high=0.9999,
        ladder=(0.8, 0.85, 0.9, 0.95), help="How long the optimizer remembers gradients.",
    ),
    Field(
        key="beta2", label="Adam beta2", group=MORE, where="hyperparameters", kind="number", low=0, high=0.999999,
        ladder=(0.95, 0.98, 0.99, 0.999, 0.9999),
        help="How long the optimizer remembers their squares.",
    ),
    Field(
        key="epsilon", label="Adam epsilon", group=MORE, where="hyperparameters", kind="number", low=1e-12, high=1,
        ladder=(1e-10, 1e-8, 1e-7, 1e-6, 1e-5), help="Smallest divisor of the optimizer's step.",
    ),
    Field(
        key="eval_batch_size", label="Evaluation batch", group=MORE, where="choices", kind="whole", low=1, none="batch",
        ladder=(1, 2, 4, 8, 16, 32, 64), help="Sequences in one batch of an evaluation; batch: as in training.",
    ),
    Field(
        key="save_epochs", label="Save every epochs", group=MORE, where="hyperparameters", kind="number", low=1e-3,
        none="off", ladder=(0.25, 0.5, 1, 2), help="Epochs between checkpoints, where Save every isn't set.",
    ),
    Field(
        key="save_total_limit", label="Checkpoints kept", group=MORE, where="hyperparameters", kind="whole", low=1,
        ladder=(1, 2, 3, 5, 10), help="How many checkpoints stay on the disk, the best beside them.",
    ),
    Field(
        key="early_stopping_threshold", label="Least gain", group=MORE, where="hyperparameters", kind="number", low=0,
        ladder=(0, 0.001, 0.005, 0.01, 0.05), help="Fall of the evaluation loss that early stopping counts as a gain.",
    ),
    Field(
        key="sample_max_new_tokens", label="Sample length", group=MORE, where="hyperparameters", kind="whole", low=1,
        ladder=(8, 16, 32, 48, 64, 128, 256), help="Most tokens of the sample that each evaluation generates.",
    ),
    Field(
        key="dataloader_workers", label="Data workers", group=MORE, where="hyperparameters", kind="whole", low=0,
        high=64, ladder=(0, 1, 2, 4, 8), help="Processes that prepare batches; 0: the trainer itself.",
    ),
    Field(
        key="deterministic", label="Deterministic", group=MORE, where="hyperparameters", kind="switch",
        help="Only operations that give the same bits every time; slower.",
    ),
    Field(
        key="torch_compile", label="torch.compile", group=MORE, where="hyperparameters", kind="switch",
        help="Compiles the model first; memory is then not what is predicted.",
    ),
    Field(
        key="modules_to_save", label="Trained in full", group=MORE, where="choices", kind="names", none="none",
        help="Modules trained whole beside the adapters, by name.",
    ),
    Field(
        key="checkpoint_reentrant", label="Re-entrant ckpts", group=MORE, where="choices", kind="switch",
        help="The older, re-entrant variant of checkpointing.",
    ),
    Field(
        key="checkpoint_offload", label="Offload ckpts", group=MORE, where="choices", kind="switch",
        help="Keeps saved layer inputs in host memory.",
    ),
    Field(
        key="num_gpus", label="Devices", group=MORE, where="choices", kind="whole", low=1, high=1024,
        ladder=(1, 2, 4, 8), help="Devices that train together, each like the one chosen.",
    ),
    Field(
        key="strategy", label="Strategy", group=MORE, where="choices", kind="choice", options=spec.STRATEGIES,
        help="How several devices share the work.",
    ),
    Field(
        key="kbit_preparation", label="k-bit preparation", group=MORE, where="choices", kind="choice", none="default",
        options=spec.KBIT_PREPARATIONS, help="What stack peft turns into fp32 beside quantised weights.",
    ),
    Field(
        key="transformers_version", label="transformers", group=MORE, where="choices", kind="text", none="today's",
        help="Stack peft: whose loss code runs, as X.Y.",
    ),
    Field(
        key="keep_logits", label="Keep logits", group=MORE, where="choices", kind="switch",
        help="Stack peft: the loop holds the model's output through backward.",
    ),
    Field(
        key="keep_cache", label="Keep cache", group=MORE, where="choices", kind="switch",
        help="Stack peft: the model returns keys and values too.",
    ),
)  # fmt: skip

HIDDEN: dict[str, str] = {
    "optimizer_implementation": "follows from device, stack, optimizer and precision",
    "report_to": "the wizard draws the curves itself; --report-to of plan train names other places",
    "path": "chosen in the data step",
    "format": "chosen in the data step",
    "columns": "chosen in the data step",
    "validation_path": "a file of its own for validation is named in the plan file",
    "skip_invalid": "decides what is read, which the data step does",
}
"""Fields of the plan without a row, and why."""
