"""Traces one training step at full size without weights and without the device."""

from __future__ import annotations

import contextlib
import importlib
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.microbatches import Rows
from planner.contract.run_settings import Hyperparameters
from trainer import modeling
from trainer.modeling.checkpointing import base_model, checkpointable_layers
from trainer.recovery import updates
from trainer.trace import attention, int8, liger, operators, ragged, scratch
from trainer.trace.autocast import cuda_autocast_rules
from trainer.trace.fakes import make_fake, quantization_tensors
from trainer.trace.operators import Replacement
from trainer.trace.recorder import StepRecorder
from trainer.trace.result import TraceResult, summarise
from trainer.trace.step import make_optimizer_state, run_step

CUBLAS_WORKSPACES = 2
CUBLAS_WORKSPACE_BYTES = 8519680
"""One cuBLAS workspace on Ampere and Ada: 8.125 MiB; two handles make one each (32 MiB each on Hopper)."""
CUDA_GRANULARITY = 512
"""The CUDA caching allocator counts blocks in multiples of this."""
TARGETS = ("cuda", "cpu", "mps")


def make_batch(config: dict[str, Any], choices: TrainingChoices, lengths: Rows | None = None) -> dict[str, Any]:
    """What the collator hands over: int64 input_ids, labels and, unless packed, attention_mask (batch x length).

    A classifier's labels are one number per sequence, an encoder-decoder's are as long as its answers.
    """
    if lengths is not None:
        return ragged.make_batch(lengths, choices)
    shape = (choices.batch_size, choices.max_length)
    classifies = str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification")
    targets = shape[:1] if classifies else shape
    if choices.max_target_length is not None and modeling.learns_answers(config):
        targets = (choices.batch_size, choices.max_target_length)
    batch = {"input_ids": torch.zeros(shape, dtype=torch.int64), "labels": torch.zeros(targets, dtype=torch.int64)}
    if choices.padding != "packed":
        batch["attention_mask"] = torch.ones(shape, dtype=torch.int64)
    else:
        batch["position_ids"] = torch.zeros(shape, dtype=torch.int64)
    return batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What is traced, beside model and choices."""

    target: str = "cuda"
    """Whose operators run: `cuda`, `cpu`, `mps`."""
    padded: bool = False
    """Whether some token of the batch is padding, so that a mask is built and another attention kernel runs."""
    cublas_workspace_bytes: int = CUBLAS_WORKSPACES * CUBLAS_WORKSPACE_BYTES
    """All workspaces together, counted as allocated on cuda."""
    kernel: str = "auto"
    """Forces the attention kernel (`attention.KERNELS`)."""
    lengths: Rows | None = None
    """Row by row those of the sequences in it; the batch is then what the trainer's collator makes of them, and runs
    flattened where the trainer flattens it."""
    autocast: torch.dtype | None = None
    """Computes in this dtype over the weights' dtype (frameworks that combine half-precision weights with autocast); by
    default only the mixed precisions do."""
    kbit_preparation: bool = True
    """Whether a 4-bit model is prepared as its stack does it (stack `peft`: the rest becomes fp32)."""
    hyperparameters: Hyperparameters | None = None
    events: bool = False
    """Whether the result holds every allocation and release in order."""
    evaluate: bool = False
    """Whether an evaluation batch follows the step (instant `eval`)."""

    @property
    def cuda(self) -> bool:
        """Whether CUDA's operators run."""
        return self.target == "cuda"


def trace(config: dict[str, Any], choices: TrainingChoices, setup: Setup | None = None) -> TraceResult:
    """Allocated bytes of one steady-state step of `choices` on the model of `config`.

    Raises NotModelled for what cannot be traced.
    """
    setup = setup or Setup()
    if setup.target not in TARGETS:
        raise NotModelled(f"no operators are known for target {setup.target!r}; choose one of {', '.join(TARGETS)}")
    if setup.lengths is not None:
        ragged.check(setup.lengths, choices)
    began = time.perf_counter()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    recorder = _recorder(setup)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = prepare(config, choices, setup)
        count_weights(model, fake_mode, recorder, adapted=choices.method != "full")
        optimizer = _optimizer(model, choices, setup)
        changes = [*_changes(choices, setup, recorder), *liger.replacements(model, choices, _loss_starts(recorder))]
        with operators.replaced(changes), contextlib.ExitStack() as stack:
            if setup.cuda:
                stack.enter_context(cuda_autocast_rules())
            stack.enter_context(fake_mode)
            stack.enter_context(recorder)
            stack.enter_context(recorder.naming(module_names(model)))
            watch(model, recorder)
            batches, num_items = _batches(config, choices, setup, recorder)
            with operators.optimizer_rules(optimizer, recorder, setup.target, fake_mode):
                make_optimizer_state(optimizer)
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        recorder.mark(value, "optimizer_state")
            recorder.reset_peaks()
            run_step(
                model,
                batches[0],
                choices,
                optimizer,
                phase=recorder.enter,
                num_items=num_items,
                accumulating=choices.gradient_accumulation_steps > 1,
            )
            if setup.evaluate:
                batches.clear()  # they are gone where an evaluation begins
                _evaluate(model, config, choices, recorder, num_items)
    seconds = time.perf_counter() - began
    result = summarise(recorder, choices, target=setup.target, seconds=seconds, events=setup.events)
    recorder.forget()
    return result


def _recorder(setup: Setup) -> StepRecorder:
    """The recorder of a device's allocator, with what its kernels hold."""
    recorder = StepRecorder(
        granularity=CUDA_GRANULARITY if setup.cuda else 1,
        constant_bytes=setup.cublas_workspace_bytes if setup.cuda else 0,
    )
    if setup.cuda:
        recorder.scratch_for(scratch.cuda_scratch())
        recorder.scratch_for(int8.scratch())
        recorder.scratch_for(ragged.scratch())
    recorder.stand_in_for(scratch.stand_ins())
    recorder.stand_in_for(int8.stand_ins())
    return recorder


def _optimizer(model: torch.nn.Module, choices: TrainingChoices, setup: Setup) -> torch.optim.Optimizer:
    """The optimizer over the model, which is made ready for a step as the trainer does it."""
    modeling.use_loss_version(model, choices)
    modeling.apply_checkpointing(model, choices)
    modeling.wrap_forward(model, setup.autocast or modeling.autocast_dtype(choices), "cpu")
    optimizer = modeling.build_optimizer(model, choices, setup.hyperparameters)
    if choices.stack == "builtin":
        updates.guard(optimizer, choices, failed=updates.give_up)
    return optimizer


def _changes(choices: TrainingChoices, setup: Setup, recorder: StepRecorder) -> list[Replacement]:
    """What is replaced while the step runs, so that it runs as on the device."""
    changes = [
        *operators.device_operators(setup.target, setup.kernel),
        *operators.mask_creation(setup.padded),
        *values_unknown(choices, setup.lengths),
        *ragged.device_kernels(setup.target, setup.kernel),
    ]
    if choices.checkpoint_offload and setup.cuda:
        changes += operators.host_offload(recorder)
    if choices.method == "qlora":
        changes += int8.readable_weights() + (int8.cuda_matmul() if setup.target != "cpu" else [])
    return changes


def _batches(
    config: dict[str, Any], choices: TrainingChoices, setup: Setup, recorder: StepRecorder
) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """The micro-batches of a step, which the transformers Trainer fetches all at once, and the number of targets."""
    made = [make_batch(config, choices, setup.lengths)]
    num_items = torch.ones((), dtype=torch.int64)
    made += [make_batch(config, choices, setup.lengths) for _ in range(choices.gradient_accumulation_steps - 1)]
    for value in (num_items, *(value for batch in made for value in batch.values())):
        if isinstance(value, torch.Tensor):
            recorder.mark(value, "batch")
    return made, num_items


def _evaluate(
    model: torch.nn.Module,
    config: dict[str, Any],
    choices: TrainingChoices,
    recorder: StepRecorder,
    num_items: torch.Tensor,
) -> None:
    """One full batch of the validation set, as the trainer evaluates it."""
    choices = replace(choices, batch_size=choices.eval_batch_size or choices.batch_size)
    recorder.enter("eval")
    batch = make_batch(config, choices)
    for value in batch.values():
        recorder.mark(value, "batch")
    if choices.liger:
        batch["skip_logits"] = True  # as the Trainer does where an evaluation asks for nothing but the loss
    model.eval()
    with operators.replaced(values_unknown(choices, None)), torch.no_grad():
        modeling.compute_loss(model, batch, choices, num_items=num_items)
    recorder.enter("end")


def prepare(config: dict[str, Any], choices: TrainingChoices, setup: Setup) -> Any:
    """The model with its adapters, on `meta`."""
    flash = choices.attention == "flash"
    if flash and not setup.cuda:
        raise NotModelled(f"--attention flash exists on cuda only, not on {setup.target}")
    model = modeling.build(
        config,
        dtype=modeling.weights_dtype(choices.precision),
        attention=choices.attention,
        device="meta",
        implementation=attention.register_flash(setup.padded) if flash else None,
    )
    model = modeling.separate_experts(model, choices)
    model = modeling.quantize(model, choices, compute_dtype=_compute_dtype(choices))
    if setup.kbit_preparation:
        modeling.prepare_kbit(model, choices)
    with operators.replaced(int8.readable_weights() if choices.method == "qlora" else []):
        model = modeling.attach_adapters(model, choices, low_cpu_mem_usage=True)
    liger.patch(model, choices)
    return model


def count_weights(model: torch.nn.Module, fake_mode: FakeTensorMode, recorder: StepRecorder, *, adapted: bool) -> None:
    """Turns the model into fake tensors and counts them."""
    make_fake(model, fake_mode)
    for name, parameter in model.named_parameters():
        trained = adapted and parameter.requires_grad
        recorder.take(parameter, "adapters" if trained else "weights", name)
    for name, buffer in model.named_buffers():
        recorder.take(buffer, "weights", name)
    for name, tensor in quantization_tensors(model):
        recorder.take(tensor, "weights", name)


def _compute_dtype(choices: TrainingChoices) -> torch.dtype:
    """What 4-bit weights are de-quantised to: half precision where the run computes in it."""
    return modeling.autocast_dtype(choices) or modeling.weights_dtype(choices.precision)


def module_names(model: torch.nn.Module) -> dict[int, str]:
    base = base_model(model)
    return {id(module): name for name, module in base.named_modules()}


def watch(model: torch.nn.Module, recorder: StepRecorder) -> None:
    """Hooks that tell gradients, layer inputs under checkpointing, and the start of the loss."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: recorder.mark(p.grad, "gradients"))

    def on_layer(layer: torch.nn.Module, args: Any) -> None:
        if layer.gradient_checkpointing and args and recorder.phase == "forward" and recorder.role_of(args[0]) == "":
            recorder.mark(args[0], "checkpoints")

    for layer in checkpointable_layers(model):
        layer.register_forward_pre_hook(on_layer)

    modeling.watch_loss(model, _loss_starts(recorder))


def _loss_starts(recorder: StepRecorder) -> Callable[..., None]:
    """What to call where a loss starts."""

    def on_loss(name: str = "loss") -> None:
        if recorder.phase != "eval":  # all of an evaluation is one instant
            recorder.enter(name)

    return on_loss


def _spread_evenly(sent: torch.Tensor, experts: int) -> tuple[torch.Tensor, ...]:
    """Rows of one expert where all get as many: int64 (rows,) twice."""
    rows = sent.numel() // experts
    return torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)


def values_unknown(choices: TrainingChoices, lengths: Rows | None) -> list[Replacement]:
    """Places that read a tensor's value: a fake has none, and memory does not depend on it."""
    from trainer.modeling import chunked, experts
    from trainer.modeling.lean import apply as lean

    learned = choices.batch_size * (choices.max_length - 1) if lengths is None else ragged.targets(lengths)
    changes: list[Replacement] = [
        (lean, "draw_seed", lambda: 0),
        (chunked, "valid_rows", lambda labels: torch.arange(learned)),
        (experts, "rows_sent", _spread_evenly),
    ]
    for name in ("adam", "sgd"):
        module = importlib.import_module(f"torch.optim.{name}")
        if hasattr(module, "_get_value"):
            changes.append((module, "_get_value", lambda x: 1.0))
    return changes
