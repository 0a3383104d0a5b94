"""What a run does besides what moves memory, and where its examples come from; each field with what it is beside it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from planner.contract.about import LEARNING, RUN, STEPS, About
from planner.contract.record import AtLeastOne, AtLeastZero, Number, Positive, Record, Share, Text

REPORTERS = ("tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "clearml", "swanlab", "dvclive", "neptune")
"""Names that `report_to` passes on to transformers."""


# fmt: off
class Hyperparameters(Record):
    """What a run does besides what moves memory; advice proposes them, the wizard edits them, the trainer obeys
    them.
    """

    learning_rate: Annotated[float, Field(gt=0, le=1e3, allow_inf_nan=False), Number, About(
        help="Size of a step at the schedule's top.", label="Learning rate", group=LEARNING,
        steps=(1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2),
    )] = 2e-4
    epochs: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), Number, About(
        help="Passes over the training examples.", label="Epochs", group=LEARNING,
        steps=(0.25, 0.5, 1, 2, 3, 4, 5, 8, 10, 15, 20, 30),
    )] = 3.0
    max_steps: Annotated[AtLeastOne | None, About(
        help="Stops after this many optimizer steps, whatever the epochs say.", label="Max steps", group=LEARNING,
        none="off", steps=STEPS,
    )] = None
    """Stops after this many optimizer steps, whatever `epochs` says."""
    scheduler: Annotated[
        Literal["cosine", "cosine-restarts", "linear", "constant", "polynomial", "step"],
        About(help="How the learning rate falls.", label="Scheduler", group=LEARNING),
    ] = "cosine"
    min_learning_rate_ratio: Annotated[Share, About(
        help="Last learning rate as a share of the first.", label="Final LR ratio", group=LEARNING,
        steps=(0, 0.01, 0.05, 0.1, 0.2, 0.5),
    )] = 0.1
    """The schedule's last learning rate as a share of the first."""
    scheduler_step_epochs: Annotated[Positive, About(
        help="Scheduler step: epochs between two drops of the rate.", label="Epochs per drop",
        steps=(0.5, 1, 2, 3, 5, 10),
    )] = 3.0
    """Scheduler `step`: epochs between two drops."""
    scheduler_gamma: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), Number, About(
        help="Scheduler step: factor of one drop.", label="Drop factor", steps=(0.1, 0.3, 0.5, 0.7, 0.9),
    )] = 0.5
    """Scheduler `step`: factor of one drop."""
    polynomial_power: Annotated[float, Field(gt=0, le=1e3, allow_inf_nan=False), Number, About(
        help="Scheduler polynomial: its exponent; 1 is a straight line.", label="Polynomial power",
        steps=(0.5, 1, 2, 3),
    )] = 1.0
    scheduler_cycles: Annotated[AtLeastOne, About(
        help="cosine-restarts: how often the rate falls from its top to its end.", label="Restarts",
        steps=(1, 2, 3, 4, 5, 8),
    )] = 2
    """Scheduler `cosine-restarts`: how often the rate falls from its peak to its minimum."""
    warmup_ratio: Annotated[Share, About(
        help="Share of the steps over which the learning rate rises.", label="Warm-up", group=LEARNING,
        steps=(0, 0.01, 0.03, 0.05, 0.1, 0.2),
    )] = 0.05
    warmup_steps: Annotated[AtLeastZero | None, About(
        help="Steps of the warm-up, in place of its share.", label="Warm-up steps", none="ratio",
        steps=(0, 5, 10, 20, 50, 100, 200, 500),
    )] = None
    """Takes precedence over `warmup_ratio`."""
    weight_decay: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False), Number, About(
        help="Pull of the trained weights towards zero.", label="Weight decay", group=LEARNING,
        steps=(0, 0.001, 0.01, 0.05, 0.1),
    )] = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), Number, About(
        help="How long the optimizer remembers gradients.", label="Adam beta1", steps=(0.8, 0.85, 0.9, 0.95),
    )] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), Number, About(
        help="How long the optimizer remembers their squares.", label="Adam beta2",
        steps=(0.95, 0.98, 0.99, 0.999, 0.9999),
    )] = 0.999
    epsilon: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), Number, About(
        help="Smallest divisor of the optimizer's step.", label="Adam epsilon", steps=(1e-10, 1e-8, 1e-7, 1e-6, 1e-5),
    )] = 1e-8
    eval_steps: Annotated[AtLeastOne | None, About(
        help="Optimizer steps between evaluations; `epoch`: once an epoch.", label="Evaluate every", group=RUN,
        none="epoch", steps=STEPS,
    )] = None
    """Optimizer steps between evaluations; None: once an epoch."""
    save_steps: Annotated[AtLeastOne | None, About(
        help="Optimizer steps between checkpoints; `eval`: at each evaluation.", label="Save every", group=RUN,
        none="eval", steps=STEPS,
    )] = None
    """None: at each evaluation."""
    save_epochs: Annotated[Positive | None, About(
        help="Epochs between checkpoints, where Save every isn't set.", label="Save every epochs", none="off",
        steps=(0.25, 0.5, 1, 2),
    )] = None
    """Epochs between checkpoints, where `save_steps` isn't given."""
    save_total_limit: Annotated[AtLeastOne, About(
        help="How many checkpoints stay on the disk, the best beside them.", label="Checkpoints kept",
        steps=(1, 2, 3, 5, 10),
    )] = 2
    logging_steps: Annotated[AtLeastOne, About(
        help="Optimizer steps between two points of the loss curve.", label="Log every", group=RUN, steps=STEPS,
    )] = 1
    early_stopping_patience: Annotated[AtLeastZero, About(
        help="Evaluations without improvement before the run stops; 0: never.", label="Early stopping", group=RUN,
        steps=(0, 1, 2, 3, 5, 8),
    )] = 0
    """Evaluations without improvement before the run stops; 0 switches it off."""
    early_stopping_threshold: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False), Number, About(
        help="Fall of the evaluation loss that early stopping counts as a gain.", label="Least gain",
        steps=(0, 0.001, 0.005, 0.01, 0.05),
    )] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**32), Number, About(
        help="Start of every random number.", label="Seed", group=RUN, steps=tuple(range(100)),
    )] = 42
    deterministic: Annotated[bool, About(
        help="Only operations that give the same bits every time; slower.", label="Deterministic",
    )] = False
    torch_compile: Annotated[bool, About(
        help="Compiles the model first; memory is then not what is predicted.", label="torch.compile",
    )] = False
    group_by_length: Annotated[bool, About(
        help="Batches hold examples of like length: less padding.", label="Group by length", group=RUN,
    )] = True
    dataloader_workers: Annotated[int, Field(ge=0, le=1024), Number, About(
        help="Processes that prepare batches; 0: the trainer itself.", label="Data workers", steps=(0, 1, 2, 4, 8),
    )] = 0
    report_to: Annotated[tuple[str, ...], About(
        help="Where the curves go besides this screen; each is a package that has to be installed.",
        label="Trackers", group=RUN, allowed=REPORTERS, none="none",
    )] = ("tensorboard",)
    train_on_prompt: Annotated[bool, About(
        help="off: only completions are learnt.", label="Train on prompt", group=RUN,
    )] = False
    """False: loss on completions only."""
    sample_prompt: Annotated[Text | None, About(
        help="Prompt of the sample that each evaluation generates; auto: a validation example's.",
        label="Sample prompt", group=RUN, none="auto",
    )] = None
    """Prompt of the sample that each evaluation generates; None: the first validation example's."""
    sample_max_new_tokens: Annotated[int, Field(ge=1, le=2**20), Number, About(
        help="Most tokens of the sample that each evaluation generates.", label="Sample length",
        steps=(8, 16, 32, 48, 64, 128, 256),
    )] = 48

    @field_validator("report_to")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in REPORTERS:
                raise ValueError(f"{name[:40]!r} is unknown; choose among {', '.join(REPORTERS)}")
        return names


class DataSettings(Record):
    """Where the examples come from and how they are read."""

    path: Annotated[str | None, About(
        help="JSONL, JSON, CSV or parquet file, or a folder of them.", hidden="chosen in the data step",
    )] = None
    """JSONL, JSON, CSV or parquet file, a folder of them, or a hub id."""
    format: Annotated[
        Literal["auto", "messages", "prompt-completion", "alpaca", "sharegpt", "text", "classification", "preference"],
        About(help="Shape of the examples.", hidden="chosen in the data step"),
    ] = "auto"
    """`classification` (columns text and label) also says that a classifier is trained, whatever the model's head
    was. `preference` learns the chosen answers of pairs, or the good ones of labelled answers.
    """
    columns: Annotated[dict[str, str], About(
        help="Other column names, as role=name.", hidden="chosen in the data step",
    )] = Field(default_factory=dict)
    """Remap: role (prompt, completion, text, label, messages, instruction, input, output, system …) -> column."""
    validation_split: Annotated[float, Number, About(
        help="Share of the examples kept for evaluation.", low=0, high=1, open="high", label="Validation split",
        group=RUN, steps=(0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
    )] = 0.1
    """In [0, 1): share of the examples that validates, where the data brings no validation split of its own."""
    validation_path: Annotated[str | None, About(
        help="A file of its own to evaluate on, in place of a share of the examples.", label="Validation file",
        group=RUN, none="none",
    )] = None
    max_examples: Annotated[AtLeastOne | None, About(
        help="Uses only so many examples.", label="Max examples", group=RUN, none="all",
        steps=(8, 16, 32, 64, 100, 200, 500, 1000, 5000, 10000),
    )] = None
    skip_invalid: Annotated[bool, About(
        help="Leave invalid examples out.", hidden="decides what is read, which the data step does",
    )] = False
    """Whether invalid examples are left out and counted; else the first of them ends the command."""

    @field_validator("validation_split")
    @classmethod
    def _share(cls, value: float) -> float:
        if not 0 <= value < 1:
            raise ValueError(f"must lie in [0, 1), not {value:g}")
        return value
# fmt: on
