"""What every export has: the plan taken apart, a YAML file with a header of comments, a launcher's config beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.contract.spec import ModelSpec
from planner.contract.words import one_line
from planner.contract.yaml_text import dumps
from planner.models import lora


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenRun:
    """A plan as a writer needs it."""

    model: str
    """As the trainer loads it."""
    spec: ModelSpec
    choices: TrainingChoices
    hyperparameters: Hyperparameters
    data: DataSettings
    shape: str
    """Shape of the examples: `messages`, `prompt-completion`, `alpaca`, `sharegpt`, `text`."""

    @property
    def every_linear(self) -> bool:
        """Whether the adapters are on all linear layers of a block."""
        return self.choices.lora_targets == (lora.ALL_LINEAR,)

    def targets(self) -> tuple[str, ...]:
        """The modules with adapters by the last part of their name, the set `attention` written out."""
        if self.every_linear:
            return self.choices.lora_targets
        found = lora.resolve_targets(self.spec, self.choices.lora_targets)
        return tuple(dict.fromkeys(module.path.rpartition(".")[2] for module in found))


@dataclass(kw_only=True, slots=True)
class Written:
    """Files of an export, and what they could not say."""

    main: str
    """Name of the file that says what is trained."""
    content: Mapping[str, object] | str
    """Of that file: a mapping for YAML, or the text of a script."""
    start: str
    """The command that starts it, from within the folder."""
    not_said: list[str] = field(default_factory=list)
    launcher: dict[str, object] | None = None
    further: dict[str, str] = field(default_factory=dict)
    """Other files by name."""

    def drop(self, what: str) -> None:
        """Notes something that has no key there."""
        self.not_said.append(what)


LAUNCHER = "accelerate.yaml"


def yaml_text(content: Mapping[str, object]) -> str:
    """The mapping as YAML, in its own order; numbers as every reader of YAML takes them."""
    return dumps({key: _plain(value) for key, value in content.items()}, flow=None)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def header(lines: Iterable[str]) -> str:
    """Comments, whatever the lines hold."""
    return "".join(f"# {one_line(line)}".rstrip() + "\n" for line in lines)


def unsaid(run: WrittenRun, written: Written, *, validates: bool = False, liger: bool = False) -> None:
    """What no tool's file says of a plan, or says elsewhere; `liger`: whether this one has its switch."""
    choices, h = run.choices, run.hyperparameters
    if choices.max_target_length is not None:
        written.drop(f"max_target_length {choices.max_target_length}: answers have no length of their own there")
    if choices.checkpoint_layers is not None and choices.gradient_checkpointing:
        written.drop(f"checkpoint_layers {choices.checkpoint_layers}: all layers are recomputed there, or none")
    if choices.liger and not liger:
        written.drop("liger: no such switch there")
    if choices.expandable_segments:
        written.drop("expandable_segments: start with PYTORCH_ALLOC_CONF=expandable_segments:True")
    if (share := choices.garbage_collection_threshold) is not None:
        written.drop(
            f"garbage_collection_threshold: start with PYTORCH_ALLOC_CONF=garbage_collection_threshold:{share:g} and "
            "call torch.cuda.set_per_process_memory_fraction(0.999), without which it does nothing"
        )
    if h.early_stopping_patience:
        written.drop(f"early_stopping_patience {h.early_stopping_patience}")
    if run.data.validation_split and not validates:
        written.drop(f"validation_split {run.data.validation_split:g}: split the data yourself")
    if run.data.columns:
        written.drop(f"columns {', '.join(f'{role}={name}' for role, name in run.data.columns.items())}: rename them")
    written.drop("warm-up and the last step of the schedule are counted one step apart from tuneplan's")


def launcher(run: WrittenRun, written: Written) -> None:
    """accelerate's config for several devices."""
    choices = run.choices
    if choices.num_gpus == 1:
        return
    kinds = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    content: dict[str, object] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": kinds[choices.strategy],
        "num_processes": choices.num_gpus,
        "num_machines": 1,
        "machine_rank": 0,
        "mixed_precision": "no" if choices.precision in ("fp32", "bf16") else choices.precision[:4],
    }
    if choices.strategy == "fsdp":
        content["fsdp_config"] = {"fsdp_version": 2, "fsdp_reshard_after_forward": True, "fsdp_offload_params": False}
    elif choices.strategy in ("zero2", "zero3"):
        content["deepspeed_config"] = {
            "zero_stage": int(choices.strategy[-1]),
            "offload_optimizer_device": "none",
            "offload_param_device": "none",
            "gradient_accumulation_steps": choices.gradient_accumulation_steps,
        }
    written.launcher = content


def one_device(run: WrittenRun, tool: str) -> None:
    """Refuses what a tool's export has no file for."""
    if run.choices.num_gpus > 1:
        raise InvalidInput(f"--to {tool} is written for one device; the plan has {run.choices.num_gpus}")


def causal(run: WrittenRun, tool: str) -> None:
    """Refuses models without the head that these tools train."""
    if run.spec.task != "causal":
        raise InvalidInput(f"--to {tool}: {run.model} learns {run.spec.task}, and {tool}'s files are for causal models")
