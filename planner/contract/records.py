"""The wire format: plan file, check report, events and observations. What one part writes, another reads, and
nothing else.

pydantic models, so that each has a JSON schema and rejects what it does not know. Bytes are integers, times seconds.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from planner.contract.errors import InvalidInput

Verdict = Literal["fits", "tight", "does_not_fit"]


class Record(BaseModel):
    """Frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelSummary(Record):
    """Which model a number belongs to."""

    id: str
    parameters: int
    trainable_parameters: int


class MemoryReport(Record):
    """The memory object of `plan check --json` and `plan trace --json`."""

    allocated_peak_bytes: int
    reserved_peak_bytes: int
    device_peak_bytes: int
    interval_bytes: tuple[int, int]
    """Interval of the device peak: 95 of 100 runs on a calibrated device, 4 of 5 published ones without."""
    budget_bytes: int
    binding_instant: str
    instants: dict[str, int]
    """Allocated bytes at the peak within each instant of the step."""
    components: dict[str, int]
    """Additive parts of the device peak at the binding instant; they sum to `device_peak_bytes`."""
    batch_lengths: tuple[tuple[int, ...], ...] | None = None
    """Row by row the lengths of the sequences in the micro-batch that sets the peak; left out where no data was given
    and every row has max_length."""

    @model_serializer(mode="wrap")
    def _without_unknown(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        if self.batch_lengths is None:
            del content["batch_lengths"]
        return content


class SpeedReport(Record):
    """Roofline (or calibrated) speed of one configuration."""

    tokens_per_second: float
    step_seconds: float
    """One optimizer step: all micro-batches, forward, backward, update."""
    epoch_seconds: float | None
    """None while the data set is unknown."""
    model_flops_utilization: float
    interval_tokens_per_second: tuple[float, float]


class Remedy(Record):
    """One change that would free memory, with what it costs."""

    change: dict[str, Any]
    saves_bytes: int
    costs_seconds_per_step: float | None
    fits: bool = False
    """Whether the changed configuration's interval lies inside the budget."""
    verdict: Verdict = "does_not_fit"
    """Of the changed configuration."""


class CheckReport(Record):
    """Answer to: does this configuration fit, how tightly, how fast, why, and what would help."""

    schema_: Literal["tuneplan.check/1"] = Field(default="tuneplan.check/1", alias="schema")
    tier: str | None = None
    """high, balanced, low or safe when it comes from a recommendation."""
    hardware: dict[str, Any]
    model: ModelSummary
    settings: dict[str, Any]
    """The fields of `TrainingChoices`."""
    memory: MemoryReport
    speed: SpeedReport | None
    verdict: Verdict
    reasons: list[str]
    remedies: list[Remedy]
    calibration: dict[str, Any] | None = None
    """Which calibration was applied and how far off it has been; None when there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


class Advice(Record):
    """One recommended hyperparameter with the rule it follows and the rule's source."""

    name: str
    value: Any
    rule: str
    source: str


class Hyperparameters(Record):
    """What a run does besides what moves memory; advice proposes them, the wizard edits them, the trainer obeys
    them.
    """

    learning_rate: float = 2e-4
    epochs: float = 3.0
    max_steps: int | None = None
    """Stops after this many optimizer steps, whatever `epochs` says."""
    scheduler: Literal["cosine", "cosine-restarts", "linear", "constant", "polynomial", "step"] = "cosine"
    min_learning_rate_ratio: float = 0.1
    """The schedule's last learning rate as a share of the first."""
    scheduler_step_epochs: float = 3.0
    """Scheduler `step`: epochs between two drops."""
    scheduler_gamma: float = 0.5
    """Scheduler `step`: factor of one drop."""
    polynomial_power: float = 1.0
    scheduler_cycles: int = 2
    """Scheduler `cosine-restarts`: how often the rate falls from its peak to its minimum."""
    warmup_ratio: float = 0.05
    warmup_steps: int | None = None
    """Takes precedence over `warmup_ratio`."""
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    eval_steps: int | None = None
    """Optimizer steps between evaluations; None: once an epoch."""
    save_steps: int | None = None
    """None: at each evaluation."""
    save_epochs: float | None = None
    """Epochs between checkpoints, where `save_steps` isn't given."""
    save_total_limit: int = 2
    logging_steps: int = 1
    early_stopping_patience: int = 0
    """Evaluations without improvement before the run stops; 0 switches it off."""
    early_stopping_threshold: float = 0.0
    seed: int = 42
    deterministic: bool = False
    torch_compile: bool = False
    group_by_length: bool = True
    dataloader_workers: int = 0
    report_to: tuple[str, ...] = ("tensorboard",)
    train_on_prompt: bool = False
    """False: loss on completions only."""
    sample_prompt: str | None = None
    """Prompt of the sample that each evaluation generates; None: the first validation example's."""
    sample_max_new_tokens: int = 48


class DataSettings(Record):
    """Where the examples come from and how they are read."""

    path: str | None = None
    """JSONL, JSON, CSV or parquet file, a folder of them, or a hub id."""
    format: Literal["auto", "messages", "prompt-completion", "alpaca", "sharegpt", "text", "classification"] = "auto"
    """`classification` (columns text and label) also says that a classifier is trained, whatever the model's head
    was.
    """
    columns: dict[str, str] = {}
    """Remap: role (prompt, completion, text, label, messages, instruction, input, output, conversations) -> column."""
    validation_split: float = 0.1
    validation_path: str | None = None
    max_examples: int | None = None


class Plan(Record):
    """The plan file (YAML or JSON): everything the trainer needs, and what was promised."""

    schema_: Literal["tuneplan.plan/1"] = Field(default="tuneplan.plan/1", alias="schema")
    model: str
    """Hub id or folder to load the weights from."""
    model_config_inline: dict[str, Any] | None = None
    """The config.json the plan was computed from; the trainer refuses weights whose config differs in a dimension."""
    gpu: str
    settings: dict[str, Any]
    """The fields of `TrainingChoices`."""
    hyperparameters: Hyperparameters = Hyperparameters()
    advice: list[Advice] = []
    data: DataSettings = DataSettings()
    predicted: MemoryReport | None = None
    predicted_speed: SpeedReport | None = None
    created: str = ""
    tuneplan_version: str = ""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


class Event(Record):
    """One line of the trainer's stdout (JSON lines). `kind` says which fields of `data` are there.

    started {run_dir, pid, device, total_steps, epochs, trainable_parameters, parameters, versions, predicted}
    phase {name, detail}: load, data, train, eval, save, finish
    data {examples, validation_examples, tokens, truncated, lengths, skipped}
    step {step, total_steps, epoch, loss, learning_rate, grad_norm, tokens_per_second, step_seconds,
    allocated_peak_bytes,
          device_bytes, seconds_left}
    eval {step, loss, perplexity, best, sample}; a classifier also accuracy
    checkpoint {path, step, kind: last|best}
    warning {what, message, advice}
    oom {phase, step, batch_size, new_batch_size, gradient_accumulation_steps}
    paused {step} / resumed {step}
    finished {reason: completed|stopped|early_stopping, adapter_path, steps, seconds, eval_loss, eval_loss_before,
              predicted_bytes, measured_bytes, observation_path}
    failed {message, exit_code}
    """

    schema_: Literal["tuneplan.event/1"] = Field(default="tuneplan.event/1", alias="schema")
    kind: str
    time: float
    """Seconds since the epoch."""
    data: dict[str, Any] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


class Observation(Record):
    """One measured run: settings, versions, hardware, peaks by instant, step time. Calibration reads these."""

    schema_: Literal["tuneplan.observation/1"] = Field(default="tuneplan.observation/1", alias="schema")
    created: str
    """ISO 8601 date and time, UTC."""
    source: str
    """`run`, `calibrate`, `gpu_observe`, or where a published figure was found."""
    hardware: dict[str, Any]
    """profile name, device title, total_bytes, driver."""
    versions: dict[str, str]
    model: dict[str, Any]
    """id, and the whole config.json under `config`."""
    settings: dict[str, Any]
    predicted: MemoryReport | None = None
    allocated_peak_bytes: int | None = None
    """Tensor storages (CUDA max_memory_allocated, MPS current allocated, on CPU the storage meter)."""
    reserved_peak_bytes: int | None = None
    device_peak_bytes: int | None = None
    """What the device shows for the process; on CPU the process's peak RSS."""
    instants: dict[str, int] = {}
    """Measured allocated peak by instant."""
    batch_lengths: tuple[tuple[int, ...], ...] | None = None
    """Row by row the lengths of the sequences in the heaviest micro-batch that ran; None where rows had one length."""
    step_seconds: list[float] = []
    tokens_per_second: float | None = None
    outcome: Literal["ran", "out_of_memory", "failed"] = "ran"
    """Whether the steps ran; peaks of a run that did not are those up to its end."""
    probe: dict[str, Any] = {}
    """How a probe measured: padded, memory_limit_bytes, warmup_steps, phase of an overflow, context_bytes,
    reserved_instants, base_bytes, load_bytes, label."""
    notes: list[str] = []

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


class ProbeRequest(Record):
    """What `python -m trainer probe` measures: a few real steps of one shape on random weights."""

    schema_: Literal["tuneplan.probe/1"] = Field(default="tuneplan.probe/1", alias="schema")
    model: dict[str, Any]
    """id, and the whole config.json under `config`."""
    settings: dict[str, Any]
    """Fields of `TrainingChoices`; what is left out has its default."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    profile: str = ""
    """Hardware profile that the prediction was made for; goes into the observation."""
    predicted: MemoryReport | None = None
    padded: bool | None = None
    """Whether some tokens are padding; None: as the prediction takes it, under `padding=max`."""
    warmup_steps: int = Field(default=2, ge=1)
    """The first one creates the optimizer's state and, on a GPU, its libraries' workspaces."""
    steps: int = Field(default=3, ge=1)
    """Measured steps, all of the same shape."""
    evaluate: bool = True
    """Whether one evaluation batch follows."""
    memory_limit_bytes: int | None = Field(default=None, ge=1)
    """Emulates a smaller card: the allocator may hold no more than this (on cpu: tensors may take no more)."""
    seed: int = 0
    source: str = "calibrate"
    label: str = ""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


def parse_plan(text: str, where: str) -> Plan:
    """Plan from the text of a YAML or JSON plan file; `where` names the file in the one line of `InvalidInput`.

    Stands here, beside the record, because planner and trainer both read plan files and share only the wire format.
    """
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it is neither YAML nor JSON"
        raise InvalidInput(f"{where}{line}: not a plan file: {problem}") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{where}: not a plan file: expected keys such as `model`, `gpu` and `settings`")
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "top level"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        problem = {"extra_forbidden": "this key is unknown", "missing": "this key is missing"}.get(
            first["type"], f"{first['msg'][:1].lower()}{first['msg'][1:]}, not {first['input']!r:.60}"
        )
        raise InvalidInput(f"{where}: {key}: {problem}{more}") from None
