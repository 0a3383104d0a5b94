"""Builds the model of a request on the real device, runs its steps and writes down what they took."""

from __future__ import annotations

import contextlib
import datetime
import gc
import time
from dataclasses import asdict
from typing import Any

import torch

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.records import Observation, ProbeRequest
from planner.contract.settings import plan_choices
from trainer import modeling
from trainer.commands.probe.footprint import Footprint
from trainer.commands.probe.limits import LimitedStorageMeter, limit_device
from trainer.distributed import supported
from trainer.measure import devices
from trainer.measure.meter import HostPeakMeter, PeakMeter, StorageMeter, peak_meter
from trainer.recovery import updates
from trainer.trace.step import run_step

PADDING_TOKENS = 8
"""Tokens of padding at the end of the first sequence of a padded batch (fewer where the sequences are short)."""
INSTANTS = ("forward", "loss", "backward", "optimizer", "eval")


def choices_of(request: ProbeRequest) -> TrainingChoices:
    """The request's settings, checked; raises InvalidInput for an unknown one."""
    return plan_choices(request.settings, "probe")


def make_batch(
    config: dict[str, Any], choices: TrainingChoices, device: torch.device, *, padded: bool, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """What the collator hands over, with random tokens: int64, batch x length; a classifier has a label a sequence."""
    shape = (choices.batch_size, choices.max_length)
    tokens = torch.randint(1, int(config["vocab_size"]), shape, generator=generator)
    classifies = str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification")
    labels = torch.zeros(shape[0], dtype=torch.int64) if classifies else tokens.clone()
    if choices.max_target_length is not None and modeling.learns_answers(config):
        answers = (choices.batch_size, choices.max_target_length)
        labels = torch.randint(1, int(config["vocab_size"]), answers, generator=generator)
    batch = {"input_ids": tokens, "labels": labels}
    if choices.padding == "packed":
        # Two sequences share each row: positions start again in its middle.
        half = -(-shape[1] // 2)
        row = torch.cat([torch.arange(half), torch.arange(shape[1] - half)])
        batch["position_ids"] = row.expand(shape).contiguous()
    else:
        batch["attention_mask"] = torch.ones(shape, dtype=torch.int64)
        if padded:
            count = min(PADDING_TOKENS, max(1, shape[1] // 2))
            batch["attention_mask"][0, -count:] = 0
            if not classifies:
                labels[0, -count:] = -100
    return {name: tensor.to(device) for name, tensor in batch.items()}


def build_model(config: dict[str, object], choices: TrainingChoices, device: torch.device, seed: int) -> Any:
    """The model with random weights, quantised, adapted and checkpointed in the trainer's order."""
    supported.check_kernels(choices)
    model = modeling.build(
        config,
        dtype=modeling.weights_dtype(choices.precision),
        attention=choices.attention,
        device=device,
        seed=seed,
    )
    compute = modeling.autocast_dtype(choices) or modeling.weights_dtype(choices.precision)
    model = modeling.separate_experts(model, choices)
    model = modeling.quantize(model, choices, compute_dtype=compute)
    modeling.prepare_kbit(model, choices)
    model = modeling.attach_adapters(model, choices)
    modeling.use_loss_version(model, choices)
    modeling.apply_checkpointing(model, choices)
    modeling.wrap_forward(model, modeling.autocast_dtype(choices), device.type)
    return model


class _Probe:
    """One measurement; what is alive hangs on this object, so that dropping it frees the device."""

    def __init__(self, request: ProbeRequest, choices: TrainingChoices, device: torch.device) -> None:
        self.request, self.choices, self.device = request, choices, device
        self.padded = choices.padding == "max" if request.padded is None else request.padded
        self.phase = "load"
        self.evaluating = False
        self.meter: PeakMeter | StorageMeter | None = None
        self.instants: dict[str, int] = {}
        self.reserved: dict[str, int] = {}
        self.held_peak = 0
        """Largest bytes that the process held: resident on cpu, driver on mps."""
        self.step_seconds: list[float] = []
        self.details: dict[str, object] = {}

    def enter(self, name: str) -> None:
        """A new instant begins; what runs during evaluation belongs to `eval`."""
        self.phase = "eval" if self.evaluating else name
        if self.meter is not None and not (self.evaluating and name != "eval"):
            self.meter.enter(self.phase)

    def run(self) -> None:
        """Build, warm up, measure."""
        config, choices, device = self.request.model["config"], self.choices, self.device
        limit = self.request.memory_limit_bytes
        with contextlib.ExitStack() as stack:
            if device.type == "cpu" and limit is not None:
                self.meter = LimitedStorageMeter(limit)
                stack.enter_context(self.meter)
            self.enter("load")
            model = build_model(config, choices, device, self.request.seed)
            self.optimizer = modeling.build_optimizer(model, choices)
            if choices.stack == "builtin":
                updates.guard(self.optimizer, choices, failed=updates.give_up)
            modeling.watch_loss(model, self.enter)
            generator = torch.Generator().manual_seed(self.request.seed)
            batches = [
                make_batch(config, choices, device, padded=self.padded, generator=generator)
                for _ in range(choices.gradient_accumulation_steps)
            ]
            self.model, self.batches = model, batches
            self.num_items = torch.tensor(batches[0]["labels"].numel(), device=device)
            self.details["load_bytes"] = self._allocated_now()
            for _ in range(self.request.warmup_steps):
                self._step()
            self._measure()
            if isinstance(self.meter, LimitedStorageMeter):
                self.instants = {k: v for k, v in self.meter.instants.items() if k in INSTANTS}

    def _step(self) -> None:
        run_step(
            self.model,
            self.batches[-1],
            self.choices,
            self.optimizer,
            phase=self.enter,
            num_items=self.num_items,
            accumulating=self.choices.gradient_accumulation_steps > 1,
        )
        devices.synchronize(self.device)

    def _measure(self) -> None:
        if self.meter is not None:  # a limited cpu: everything runs under its meter already
            self._timed_steps()
            self._evaluate()
            return
        counters = HostPeakMeter() if self.device.type == "cpu" else peak_meter(self.device)
        self.meter = counters
        try:
            self._timed_steps()
            self._evaluate()
        finally:
            self.meter = None
            found = counters.stop()
        self.held_peak = max((v for k, v in counters.reserved.items() if k in INSTANTS), default=0)
        if self.device.type != "cpu":
            self.instants = {k: v for k, v in found.items() if k in INSTANTS}
            self.reserved = {k: v for k, v in counters.reserved.items() if k in INSTANTS}
            return
        # Tensors are counted in a step of their own: the meter slows each operator down.
        storages = StorageMeter()
        tensors = [self.num_items, *(tensor for batch in self.batches for tensor in batch.values())]
        storages.adopt_training(self.model, self.optimizer, tensors)
        self.meter = storages
        with storages:
            self._step()
            self._evaluate()
        self.meter = None
        storages.forget()
        self.instants = {k: v for k, v in storages.instants.items() if k in INSTANTS}

    def _timed_steps(self) -> None:
        for _ in range(self.request.steps):
            started = time.perf_counter()
            self._step()
            self.step_seconds.append(time.perf_counter() - started)

    def _evaluate(self) -> None:
        """One evaluation batch as the trainer runs it."""
        if not self.request.evaluate:
            return
        self.evaluating = True
        self.enter("eval")
        self.model.eval()
        try:
            size = self.choices.eval_batch_size or self.choices.batch_size
            if size == self.choices.batch_size:
                inputs = self.batches[-1]
            else:
                generator = torch.Generator().manual_seed(self.request.seed)
                changed = TrainingChoices(**{**asdict(self.choices), "batch_size": size})
                inputs = make_batch(
                    self.request.model["config"], changed, self.device, padded=self.padded, generator=generator
                )
            with torch.no_grad():
                loss, kept = modeling.compute_loss(self.model, inputs, self.choices, num_items=self.num_items)
            float(loss)
            del loss, kept
        finally:
            self.evaluating = False
            self.model.train()

    def _allocated_now(self) -> int | None:
        if self.device.type == "cuda":
            return int(torch.cuda.memory_allocated(self.device))
        if self.device.type == "mps":
            return int(torch.mps.current_allocated_memory())
        return None


def release(device: torch.device) -> int:
    """Frees what a finished probe left on the device; returns the bytes that tensors still take there."""
    gc.collect()
    if device.type == "cuda":
        clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()
        torch.cuda.empty_cache()
        return int(torch.cuda.memory_allocated(device))
    if device.type == "mps":
        torch.mps.empty_cache()
        return int(torch.mps.current_allocated_memory())
    return 0


def measure(request: ProbeRequest, footprint: Footprint | None = None, *, fresh: bool = True) -> Observation:
    """Runs the request's steps on its device. Out of memory is an outcome; what is invalid raises TuneplanError.

    `fresh`: nothing was measured in this process before; else a cpu's resident memory says nothing and is left out.
    """
    choices = choices_of(request)
    if not isinstance(request.model.get("config"), dict):
        raise InvalidInput("the request's model lacks its config")
    device = devices.choose(request.device)
    devices.check_precision(device, choices.precision, choices.method, choices.adapter_dtype)
    print_free = footprint or Footprint(device)
    if device.type == "cuda":
        torch.cuda.init()
        torch.zeros(1, device=device)
    import peft
    import transformers

    # Imported now, so that the process's own size without a model is known.
    del peft, transformers
    base = print_free.bytes_now()
    probe = _Probe(request, choices, device)
    outcome, notes = "ran", []
    limit_device(device, request.memory_limit_bytes)
    try:
        probe.run()
    except TuneplanError:
        raise
    except Exception as error:
        if not devices.is_out_of_memory(error):
            raise
        outcome = "out_of_memory"
        notes.append(" ".join(str(error).split())[:300])
    finally:
        limit_device(device, None)
    if device.type == "cpu" and not fresh:
        probe.held_peak = 0
    return _observe(request, choices, device, probe, outcome, notes, print_free, base)


def _observe(
    request: ProbeRequest,
    choices: TrainingChoices,
    device: torch.device,
    probe: _Probe,
    outcome: Any,
    notes: list[str],
    footprint: Footprint,
    base: int,
) -> Observation:
    reserved_peak, device_peak = None, None
    details = {
        "label": request.label,
        "padded": probe.padded,
        "warmup_steps": request.warmup_steps,
        "base_bytes": base,
        "device_basis": footprint.basis,
        **probe.details,
    }
    if request.memory_limit_bytes is not None:
        details["memory_limit_bytes"] = request.memory_limit_bytes
    if device.type == "cuda":
        # The context is what the process holds beyond the allocator; the allocator's own peak comes on top.
        held_now = footprint.bytes_now()
        context = max(0, held_now - int(torch.cuda.memory_reserved(device)))
        reserved_peak = max(probe.reserved.values(), default=int(torch.cuda.max_memory_reserved(device)))
        device_peak = context + reserved_peak
        details |= {"context_bytes": context, "reserved_instants": probe.reserved, "device_basis": footprint.basis}
    elif device.type == "mps":
        reserved_peak = device_peak = probe.held_peak or None
    else:
        device_peak = probe.held_peak or None
    if outcome == "out_of_memory":
        details["phase"] = probe.phase
    seconds = [round(value, 6) for value in probe.step_seconds]
    positions = choices.batch_size * choices.max_length
    typical = sorted(seconds)[len(seconds) // 2] if seconds else None
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(choices).items()}
    return Observation(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        source=request.source,
        hardware={"profile": request.profile, **devices.describe(device)},
        versions=devices.versions(),
        model=request.model,
        settings=settings,
        predicted=request.predicted,
        allocated_peak_bytes=max(probe.instants.values(), default=None),
        reserved_peak_bytes=reserved_peak,
        device_peak_bytes=device_peak,
        instants=probe.instants,
        step_seconds=seconds,
        tokens_per_second=positions / typical if typical else None,
        outcome=outcome,
        probe=details,
        notes=notes,
    )
