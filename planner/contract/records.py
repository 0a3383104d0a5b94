"""The wire format: plan file, check report and observations (events: `events.py`). What one part writes, another
reads, and nothing else.

pydantic models, so that each has a JSON schema and rejects what it does not know. Bytes are integers, times seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.record import BatchLengths, Bytes, Number, Rate, Record, Seconds
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.contract.sentence import Sentence

Verdict = Literal["fits", "tight", "does_not_fit"]
Ended = Literal["ran", "out_of_memory", "failed"]
"""How a measured run ended."""


R = TypeVar("R", bound=Record)


class _ByName:
    """Choices as they stand in JSON and YAML: an object with a key for each; a key that isn't there has its default."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _choices, serialization=core_schema.plain_serializer_function_ser_schema(_names_and_values)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, object]:
        return {"type": "object", "additionalProperties": True}


def _choices(value: object) -> TrainingChoices:
    from planner.contract.settings import plan_choices

    if isinstance(value, TrainingChoices):
        return value
    if not isinstance(value, Mapping):
        raise PydanticKnownError("dict_type")
    try:
        return plan_choices(value, "here")
    except InvalidInput as error:
        raise ValueError(str(error).removeprefix("here: settings").lstrip(".")) from None


def _names_and_values(choices: TrainingChoices) -> dict[str, object]:
    from planner.contract.settings import to_settings

    return to_settings(choices)


Choices = Annotated[TrainingChoices, _ByName()]


class _Kept:
    """A sentence that keeps the names of fields in it; JSON and YAML hold its text."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _sentence, serialization=core_schema.plain_serializer_function_ser_schema(str.__str__)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string"}


def _sentence(value: object) -> Sentence:
    if not isinstance(value, str):
        raise PydanticKnownError("string_type")
    return Sentence(value)


Said = Annotated[str, _Kept()]
"""Text for a person, in which fields may be named (`planner.contract.sentence`)."""


class ModelSummary(Record):
    """Which model a number belongs to."""

    id: str
    parameters: Annotated[int, Field(ge=0)]
    trainable_parameters: Annotated[int, Field(ge=0)]


class MemoryReport(Record):
    """The memory object of `plan check --json` and `plan trace --json`."""

    allocated_peak_bytes: Bytes
    """As the device's allocator counts it: blocks, which may be larger than the tensors in them."""
    reserved_peak_bytes: Bytes
    device_peak_bytes: Bytes
    interval_bytes: tuple[Bytes, Bytes]
    """Interval of the device peak: 95 of 100 runs on a calibrated device, 4 of 5 published ones without."""
    budget_bytes: Bytes
    binding_instant: str
    instants: dict[str, Bytes]
    """Bytes in tensors at the peak within each instant of the step."""
    components: dict[str, Annotated[int, Field(gt=-(2**63), lt=2**63)]]
    """Additive parts of the device peak at the binding instant; they sum to `device_peak_bytes`."""
    tensors_peak_bytes: Bytes | None = None
    """The largest instant; None in records from before blocks were told from tensors."""
    largest_tensor_bytes: Bytes | None = None
    """On devices that limit a single buffer: the largest tensor of a step."""
    largest_buffer_bytes: Bytes | None = None
    """That limit; None elsewhere."""
    batch_lengths: BatchLengths | None = None
    """Row by row the lengths of the sequences in the micro-batch that sets the peak; left out where no data was given
    and every row has max_length."""

    @model_serializer(mode="wrap")
    def _without_unknown(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        content: dict[str, object] = write(self)
        if self.batch_lengths is None:
            del content["batch_lengths"]
        return content


class SpeedReport(Record):
    """Roofline (or calibrated) speed of one configuration."""

    tokens_per_second: Rate
    step_seconds: Seconds
    """One optimizer step: all micro-batches, forward, backward, update."""
    epoch_seconds: Seconds | None
    """None while the data set is unknown."""
    model_flops_utilization: Rate
    interval_tokens_per_second: tuple[Rate, Rate]


class Remedy(Record):
    """One change that would free memory, with what it costs."""

    change: dict[str, object]
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
    hardware: dict[str, object]
    model: ModelSummary
    settings: Choices
    memory: MemoryReport
    speed: SpeedReport | None
    verdict: Verdict
    reasons: list[Said]
    remedies: list[Remedy]
    calibration: dict[str, object] | None = None
    """Which calibration was applied and how far off it has been; None when there is none."""

    model_config = ConfigDict(populate_by_name=True)


class Advice(Record):
    """One recommended hyperparameter with the rule it follows and the rule's source."""

    name: str
    value: Any
    rule: Said
    source: str
    spread: str = ""
    """How far off the value may be: the rule's regret on measured runs, or the range of what others take."""
    guides: str = ""
    """What the training guides say, where it is something else."""


class Plan(Record):
    """The plan file (YAML or JSON): everything the trainer needs, and what was promised."""

    schema_: Literal["tuneplan.plan/1"] = Field(default="tuneplan.plan/1", alias="schema")
    model: str
    """Hub id or folder to load the weights from."""
    model_config_inline: dict[str, object] | None = None
    """The config.json the plan was computed from; the trainer refuses weights whose config differs in a dimension."""
    gpu: str
    settings: Choices
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)
    advice: list[Advice] = Field(default_factory=list)
    data: DataSettings = Field(default_factory=DataSettings)
    predicted: MemoryReport | None = None
    predicted_speed: SpeedReport | None = None
    created: str = ""
    tuneplan_version: str = ""

    model_config = ConfigDict(populate_by_name=True)


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
    settings: dict[str, object]
    predicted: MemoryReport | None = None
    allocated_peak_bytes: Bytes | None = None
    """Tensor storages (CUDA max_memory_allocated, MPS current allocated, on CPU the storage meter)."""
    reserved_peak_bytes: Bytes | None = None
    device_peak_bytes: Bytes | None = None
    """What the device shows for the process; on CPU the process's peak RSS."""
    instants: dict[str, Bytes] = Field(default_factory=dict)
    """Measured allocated peak by instant."""
    batch_lengths: BatchLengths | None = None
    """Row by row the lengths of the sequences in the heaviest micro-batch that ran; None where rows had one length."""
    step_seconds: list[Seconds] = Field(default_factory=list)
    tokens_per_second: Rate | None = None
    outcome: Ended = "ran"
    """Whether the steps ran; peaks of a run that did not are those up to its end."""
    probe: dict[str, object] = Field(default_factory=dict)
    """How a probe measured: padded, memory_limit_bytes, warmup_steps, phase of an overflow, context_bytes,
    reserved_instants, base_bytes, load_bytes, label."""
    notes: list[str] = Field(default_factory=list)

    model_config = ConfigDict(populate_by_name=True)


class ProbeRequest(Record):
    """What `python -m trainer probe` measures: a few real steps of one shape on random weights."""

    schema_: Literal["tuneplan.probe/1"] = Field(default="tuneplan.probe/1", alias="schema")
    model: dict[str, Any]
    """id, and the whole config.json under `config`."""
    settings: dict[str, object]
    """Fields of `TrainingChoices`; what is left out has its default."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    profile: str = ""
    """Hardware profile that the prediction was made for; goes into the observation."""
    predicted: MemoryReport | None = None
    padded: bool | None = None
    """Whether some tokens are padding; None: as the prediction takes it, under `padding=max`."""
    warmup_steps: Annotated[int, Field(ge=1, le=10_000), Number] = 2
    """The first one creates the optimizer's state and, on a GPU, its libraries' workspaces."""
    steps: Annotated[int, Field(ge=1, le=10_000), Number] = 3
    """Measured steps, all of the same shape."""
    evaluate: bool = True
    """Whether one evaluation batch follows."""
    memory_limit_bytes: Annotated[int, Field(ge=1, lt=2**63), Number] | None = None
    """Emulates a smaller card: the allocator may hold no more than this (on cpu: tensors may take no more)."""
    seed: Annotated[int, Field(ge=0, lt=2**32), Number] = 0
    source: str = "calibrate"
    label: str = ""

    model_config = ConfigDict(populate_by_name=True)


def read_plan(path: Path, *, links: bool = True) -> Plan:
    """Plan read from a YAML or JSON file; `InvalidInput` names the file, the line and the key that is wrong.

    Without `links` only a plain file is read: for the plan in a run folder.
    """
    from planner.contract import text_file, yaml_text

    text = text_file.read(path, str(path), max_bytes=yaml_text.MAX_BYTES, what="plan file", links=links)
    return parse_plan(text, str(path))


def parse_plan(text: str, where: str) -> Plan:
    """Plan from the text of a YAML or JSON plan file; `where` names the file in the one line of `InvalidInput`.

    Stands here, beside the record, because planner and trainer both read plan files and share only the wire format.
    """
    from planner.contract import complaints, yaml_text
    from planner.contract.settings import plan_choices

    document = yaml_text.parse(text, where, kind="a plan file")
    if not isinstance(document.value, dict):
        raise InvalidInput(f"{where}: not a plan file: expected keys such as `model`, `gpu` and `settings`")
    content = document.value
    given = content.get("settings")
    if isinstance(given, Mapping):  # before the record is made, so that the line names its place in the file
        content = {**content, "settings": plan_choices(given, document.place(("settings",)))}
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        key = complaints.path(error)
        raise InvalidInput(f"{document.place(key)}: {complaints.name(key)}{complaints.problem(error)}") from None


def parse_record(kind: type[R], content: object, where: str) -> R:
    """A record from what a strict reader took out of a file; `where` opens the one line of `InvalidInput`."""
    from planner.contract import complaints

    try:
        return kind.model_validate(content)
    except ValidationError as error:
        key = complaints.path(error)
        raise InvalidInput(f"{where}: {complaints.name(key)}{complaints.problem(error)}") from None
