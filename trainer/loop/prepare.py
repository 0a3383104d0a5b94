"""Everything of a run but the run: data, model with adapters, loop. The run, the finder and the dry run begin here.

What the finder and the dry run measure is therefore what will be trained.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from planner.contract.choices import TrainingChoices
from planner.contract.data.reader import Reading, open_data
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.events import DataEvent
from planner.contract.files import expanded
from planner.contract.records import Plan
from planner.contract.run_settings import Hyperparameters
from planner.contract.units import format_bytes
from trainer.distributed import supported
from trainer.wire.events import EventStream, Muted, quiet, quiet_transformers
from trainer.wire.request import Request, read_plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from trainer.data.samples import SamplePrompt
    from trainer.data.tokens import TokenizedData
    from trainer.loop.inputs import Listeners, Material
    from trainer.loop.trainer import LoopTrainer
    from trainer.measure.instants import StepMeter
    from trainer.tasks import Task

Loop = TypeVar("Loop", bound="LoopTrainer")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What a run would start with."""

    plan: Plan
    choices: TrainingChoices
    material: Material
    model: Any
    meter: StepMeter


def prepare(plan_file: Path, *, data: str | None, device: str, skip_invalid: bool = False, **changes: Any) -> Prepared:
    """Loads what the plan names, for one process. `changes` replace fields of the choices."""
    request = Request(plan=plan_file, data=data, device=device, skip_invalid=skip_invalid)
    plan = read_plan(request)
    choices = on_one_device(dataclasses.replace(plan.settings, **changes))
    quiet()
    quiet_transformers()
    from trainer.measure.instants import StepMeter
    from trainer.recovery import room

    chosen = choose_device(plan, choices, device)
    if chosen.type == "cpu":
        room.make_ready()
    material = read_material(plan, choices, Muted())
    meter = StepMeter(chosen)
    model = load(plan, choices, material, meter, loss_begins=meter.loss_begins)
    return Prepared(plan=plan, choices=choices, material=material, model=model, meter=meter)


def on_one_device(choices: TrainingChoices) -> TrainingChoices:
    """The same effective batch on one device; a strategy that divides the weights has no such counterpart."""
    supported.check_kernels(choices)
    if choices.num_gpus == 1:
        return choices
    if choices.strategy != "ddp":
        raise NotModelled(
            f"this command runs on one device, which says nothing about --strategy {choices.strategy} on "
            f"{choices.num_gpus}; plan for one device, or for --strategy ddp"
        )
    accumulation = choices.gradient_accumulation_steps * choices.num_gpus
    return dataclasses.replace(choices, num_gpus=1, gradient_accumulation_steps=accumulation)


def make_loop(
    prepared: Prepared,
    work: Path,
    hyperparameters: Hyperparameters,
    *,
    cls: type[Loop],
    callbacks: Sequence[TrainerCallback],
    listeners: Listeners | None = None,
) -> Loop:
    """A loop over the training data that neither evaluates nor saves."""
    from trainer.loop.inputs import Job

    job = Job(run_dir=work, choices=prepared.choices, hyperparameters=hyperparameters, device=prepared.meter.device)
    material = dataclasses.replace(prepared.material, validation=None)
    return cls(prepared.model, job, material, prepared.meter, listeners=listeners, callbacks=callbacks)


# ---- parts ---------------------------------------------------------------------------------------------------------


def choose_device(plan: Plan, choices: TrainingChoices, name: str) -> torch.device:
    """The device that the plan and the request name, checked against the precision.

    A plan for a GPU does not quietly run on a CPU: that has to be asked for by name.
    """
    from trainer.measure import devices

    device = devices.choose("cpu" if plan.gpu == "cpu" and name == "auto" else name)
    if plan.gpu == "cpu" and device.type != "cpu":
        raise InvalidInput(f"--device {name}: the plan is for a CPU; leave it out, or plan for the device with --gpu")
    if name == "auto" and device.type == "cpu" and plan.gpu != "cpu":
        raise InvalidInput(
            f"the plan is for {_planned(plan)}, but PyTorch sees only a CPU here; --device cpu trains on it all the "
            "same (its memory and speed are other ones), plan --gpu auto plans for this machine"
        )
    devices.check_precision(device, choices.precision, choices.method, choices.adapter_dtype)
    devices.check_count(device, int(os.environ.get("LOCAL_WORLD_SIZE") or choices.num_gpus))
    return device


def device_warning(plan: Plan, device: torch.device) -> str | None:
    """What is planned and what is here, where they are not the same; None where nothing is known against it."""
    from trainer.measure import devices

    if plan.gpu == "cpu":
        return None
    found = devices.describe(device)
    here, budget = int(found.get("total_bytes") or 0), plan.predicted.budget_bytes if plan.predicted else 0
    if device.type != "cpu" and (not here or budget <= here):
        return None
    size = f" with {format_bytes(here)}" if here else ""
    return f"planned for {_planned(plan)}; here is {found.get('title') or device.type}{size}"


def _planned(plan: Plan) -> str:
    """Device of the plan, with the peak and the speed that were promised on it."""
    parts = []
    if plan.predicted is not None:
        memory = plan.predicted
        parts.append(f"{format_bytes(memory.device_peak_bytes)} of {format_bytes(memory.budget_bytes)}")
    if plan.predicted_speed is not None:
        parts.append(f"{plan.predicted_speed.tokens_per_second:,.0f} tokens/s")
    return plan.gpu + (f" ({', '.join(parts)})" if parts else "")


def read_material(plan: Plan, choices: TrainingChoices, events: EventStream) -> Material:
    """Tokenizer, task and data of the plan; no weights yet."""
    from trainer import tasks
    from trainer.loop import loading
    from trainer.loop.inputs import Material

    config = loading.read_config(plan.model)
    loading.check_config(plan, config)
    tokenizer = loading.load_tokenizer(plan.model)
    task = tasks.choose(config, plan.data)
    task.check(choices)
    found = read_data(plan, choices, task, tokenizer, events)
    return Material(config=config, tokenizer=tokenizer, task=task, **found._asdict())


def load(
    plan: Plan,
    choices: TrainingChoices,
    material: Material,
    meter: StepMeter,
    *,
    loss_begins: Callable[[str], None],
    adapter: str | None = None,
) -> Any:
    """The model with adapters, as it is trained; `load` is metered. `loss_begins` is called at the vocabulary head."""
    import transformers

    from trainer import modeling
    from trainer.loop import loading
    from trainer.weights import adapter_files, fingerprints
    from trainer.wire import portable

    seed = plan.hyperparameters.seed
    transformers.set_seed(seed)
    meter.begin("load")
    # Where each device holds a part, or quantised weights, the whole is built in host memory.
    divided = choices.num_gpus > 1 and choices.strategy in ("fsdp", "zero3")
    first = "cpu" if divided or choices.method == "qlora" else str(meter.device)
    model = loading.load_model(plan, choices, material.config, device=first, seed=seed, task=material.task)
    model.name_or_path = model.config.name_or_path = portable.model_name(plan.model)  # what adapters say of their base
    check_positions(plan, choices, model)
    model = modeling.separate_experts(model, choices)
    if choices.method == "qlora":
        model = modeling.quantize(model, choices, device=None if divided else meter.device)
        modeling.prepare_kbit(model, choices)
        for module in model.modules():
            # On a cpu, bitsandbytes would repack the weights in place for an evaluation; they stay as trained on.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    model = modeling.attach_adapters(model, choices)
    if adapter is not None:
        start = expanded(adapter)
        adapter_files.load(model, start, choices)
        fingerprints.check_base(start, plan.model, "--adapter ")
    if choices.method == "qlora":
        # transformers would ask the quantizer that loaded the weights whether they can be trained; they were
        # quantized here and there is none. Adapters are attached, which is what it wants to know.
        model.get_base_model().is_quantized = False
    modeling.apply_checkpointing(model, choices)
    modeling.use_loss_version(model, choices)
    modeling.watch_loss(model, loss_begins)
    meter.end()
    return model


class Sequences(NamedTuple):
    """The data as the model takes them."""

    train: TokenizedData
    validation: TokenizedData | None
    asked: SamplePrompt | None
    """What the sample asks."""


def read_data(
    plan: Plan, choices: TrainingChoices, task: Task, tokenizer: PreTrainedTokenizerBase, events: EventStream
) -> Sequences:
    """The plan's data, split and tokenized; `events` is told of them."""
    from planner.contract.data.render_process import close_all
    from trainer.data.batches import split_validation
    from trainer.data.hub import local_data
    from trainer.data.samples import asked

    h, settings = plan.hyperparameters, local_data(task.data_settings(plan.data))
    reading = open_data(settings)
    examples = list(reading.training())
    held_out = list(reading.validation())
    if not reading.has_validation:
        kept, chosen = split_validation(len(examples), settings.validation_split, h.seed)
        held_out = [examples[index] for index in chosen]
        examples = [examples[index] for index in kept]
    options: Any = {"max_length": choices.max_length, "train_on_prompt": h.train_on_prompt}
    task.prepare(examples, tokenizer)
    train = task.tokenize(examples, tokenizer, **options)
    validation = task.tokenize(held_out, tokenizer, **options) if held_out else None
    if not train.sequences:
        raise InvalidInput(
            f"{settings.path}: none of the {len(examples)} training examples leaves a token to learn within "
            f"--max-length {choices.max_length}; raise it or check the completions"
        )
    if validation is not None and not validation.sequences:
        validation = None
    _tell_data(events, reading, train, validation, choices.max_length, examples[0].shape)
    prompt = task.sample_prompt(held_out[0], tokenizer, h.sample_prompt) if held_out else None
    close_all()
    return Sequences(train, validation, None if prompt is None else asked(held_out[0], prompt, h.sample_prompt))


def _tell_data(
    events: EventStream,
    reading: Reading,
    train: TokenizedData,
    validation: TokenizedData | None,
    max_length: int,
    shape: str,
) -> None:
    """The `data` event, and a warning of each thing that isn't as the person may think."""
    from planner.contract.data.rendering import Remarks

    both = [train] if validation is None else [train, validation]
    truncated, skipped = sum(data.truncated for data in both), sum(data.skipped for data in both)
    lengths = sorted(train.lengths)
    told = DataEvent(
        examples=len(train.sequences),
        validation_examples=len(validation.sequences) if validation else 0,
        tokens=train.tokens,
        truncated=truncated,
        lengths=histogram(lengths, max_length),
        skipped=skipped,
        split=sum(data.split for data in both),
        shape=shape,
        longest=lengths[-1],
        median=lengths[len(lengths) // 2],
        account=reading.account.summary(),
    )
    events.emit(told)
    for sentence in reading.account.sentences():
        events.warn("data", sentence.rstrip("."), "")
    if truncated:
        events.warn(
            "truncated",
            f"{truncated} examples are longer than --max-length {max_length} and were cut",
            "raise --max-length if their ends matter",
        )
    for sentence in Remarks.of(data.remarks for data in both).sentences():
        events.warn("template", sentence, "")
    if skipped:
        events.warn("skipped", f"{skipped} examples have nothing to learn and were left out", "")


def identity(plan: Plan, choices: TrainingChoices, material: Material) -> dict[str, Any]:
    """What a checkpoint must share with a run that goes on from it."""
    from trainer.weights import fingerprints
    from trainer.wire import portable

    c, h = choices, plan.hyperparameters
    adapters: dict[str, object] = {}
    if c.method != "full":
        adapters = {
            "lora_r": c.lora_r,
            "lora_alpha": c.lora_alpha,
            "lora_variant": c.lora_variant,
            "lora_dropout": c.lora_dropout,
            "lora_targets": sorted(c.lora_targets),
            "modules_to_save": sorted(c.modules_to_save),
            "adapter_dtype": c.adapter_dtype,
        }
    if c.method == "qlora":
        adapters |= {"quantization": c.quantization, "kbit_preparation": c.kbit_prepared}
    return {
        "batch_size": c.batch_size,
        "gradient_accumulation_steps": c.gradient_accumulation_steps * c.num_gpus,  # whoever makes them
        "max_length": c.max_length,
        "padding": c.padding,
        "seed": h.seed,
        "group_by_length": h.group_by_length,
        "method": c.method,
        **adapters,
        "precision": c.precision,
        "optimizer": c.optimizer,
        "task": material.task.describe(),
        "weights": fingerprints.of_model(plan.model),
        "tokenizer": fingerprints.of_tokenizer(material.tokenizer),
        "data": material.train.fingerprint(),
        "model": portable.model_name(plan.model),
    }


def check_positions(plan: Plan, choices: TrainingChoices, model: torch.nn.Module) -> None:
    """Lengths past the model's positions would train on garbage or crash."""
    positions = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    if positions and choices.max_length > positions:
        raise InvalidInput(
            f"--max-length {choices.max_length} is longer than the {positions} positions of {plan.model}"
        )


def histogram(lengths: list[int], max_length: int, bins: int = 32) -> dict[str, object]:
    """Counts of sequence lengths in `bins` equal bins up to `max_length`; edges in tokens."""
    width = max(1, -(-max_length // bins))
    counts = [0] * (-(-max_length // width))
    for length in lengths:
        counts[min(len(counts) - 1, (length - 1) // width)] += 1
    return {"bin_width": width, "counts": counts, "min": lengths[0], "max": lengths[-1]}
