"""State and transient bytes of the optimizers, tensor by tensor where their rule looks at a tensor's size.

Sources: torch.optim (2.13) _multi_tensor_adamw, _single_tensor_adamw, _multi_tensor_sgd; transformers
optimization.Adafactor; bitsandbytes 0.50 optim/optimizer.py (8-bit states, 256-value blocks, pages); read 2026-11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec, Module
from planner.memory.engine.monomials import FP32
from planner.models.lora import adapter_modules, adapter_rank, learning_modules, saved_modules

BLOCK_8BIT = 256
MINIMUM_8BIT = 4096
"""Tensors below this many elements keep 32-bit states (bitsandbytes `min_8bit_size`)."""
PAGED_FROM = 100_000
"""Paged states of tensors from this size live in managed memory, outside the allocator."""


NOT_DECAYED = ("bias", "norm", "ln_", "layernorm")
"""Parameters whose name holds one of these form a group of their own, which has no weight decay and is updated last."""


@dataclass(frozen=True, slots=True)
class TrainedTensor:
    """`copies` trainable tensors of one shape."""

    shape: tuple[int, ...]
    copies: int
    itemsize: int
    decayed: bool = True
    """Whether it is in the group that has weight decay."""

    @property
    def elements(self) -> int:
        """Elements of one copy."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count

    @property
    def size(self) -> int:
        """Bytes of all copies."""
        return self.elements * self.copies * self.itemsize


def registered(spec: ModelSpec) -> list[Module]:
    """The modules in the order in which an optimizer meets them: that of their making, not of their use.

    Norms and biases are updated after everything else whatever their place. Of a part of a network (the modules that
    carry adapters) what isn't there moves nothing.
    """
    found, facts = list(spec.modules), spec.facts
    late, early = ([m for m in found if end and m.path.endswith(end)] for end in facts.made_after)
    if late and early:
        found.remove(late[0])
        found.insert(found.index(early[0]) + 1, late[0])
    if facts.made_first:
        found.sort(key=lambda module: not module.path.startswith(facts.made_first))
    return found


def trained_tensors(spec: ModelSpec, choices: TrainingChoices, base: int, adapter: int) -> list[TrainedTensor]:
    """Every trainable tensor: `base` and `adapter` are the bytes per element of base weights and adapters."""
    found: list[TrainedTensor] = []
    wide = frozenset(spec.config.get("recorded", {}).get("fp32", ()))
    whole = learning_modules(spec) if choices.method == "full" else saved_modules(spec, choices)
    adapted = adapter_modules(spec, choices)
    order = {module.path: index for index, module in enumerate(registered(spec))}
    for module in sorted([*whole, *adapted], key=lambda module: order[module.path]):
        if module in adapted:
            found += adapter_tensors(spec, choices, module, adapter)
        else:
            found += whole_tensors(module, max(base, FP32) if module.path in wide else base)
    return found


def whole_tensors(module: Module, itemsize: int) -> list[TrainedTensor]:
    """Weight and bias of a module that is trained in full."""
    found = [] if module.tied_to else [TrainedTensor(module.shape, module.copies, itemsize, decays(module.path))]
    if module.bias:
        width = module.out_features if module.kind in ("linear", "conv1d") else module.shape[0]
        found.append(TrainedTensor((width,), module.copies, itemsize, decayed=False))
    return found


def decays(name: str) -> bool:
    """Whether a parameter of this name has weight decay."""
    return not any(part in name.lower() for part in NOT_DECAYED)


def adapter_tensors(spec: ModelSpec, choices: TrainingChoices, module: Module, itemsize: int) -> list[TrainedTensor]:
    """A and B of a module's adapter, and DoRA's magnitude, which is decayed too."""
    rank = adapter_rank(spec, module, choices)
    experts = module.shape[0] if len(module.shape) == 3 else 1
    inputs, outputs = module.shape[-1], module.shape[-2]
    if module.kind == "conv1d":
        inputs, outputs = outputs, inputs
    found = [
        TrainedTensor((experts * rank, inputs), module.copies, itemsize),
        TrainedTensor((outputs, experts * rank), module.copies, itemsize),
    ]
    if choices.lora_variant == "dora":
        found.append(TrainedTensor((outputs,), module.copies, itemsize))
    return found


def state_bytes(tensors: Sequence[TrainedTensor], choices: TrainingChoices) -> int:
    """Optimizer state that counts as allocated.

    AdamW: two moments in the parameters' dtype. 8-bit: one byte a value and moment, an fp32 scale per 256; small
    tensors keep two fp32 moments; paged states of large tensors are not counted. Adafactor: fp32 sums over rows and
    columns, over all elements of a vector. SGD without momentum: none.
    """
    if choices.optimizer == "adamw":
        return sum(2 * tensor.size for tensor in tensors)
    if choices.optimizer in ("adamw-8bit", "paged-adamw-8bit"):
        total = 2 * 256 * 4
        for tensor in tensors:
            if tensor.elements < MINIMUM_8BIT:
                total += 8 * tensor.elements * tensor.copies
                continue
            scales = 2 * -(-tensor.elements // BLOCK_8BIT) * 4
            moments = 2 * tensor.elements
            if choices.optimizer == "paged-adamw-8bit" and tensor.elements >= PAGED_FROM:
                moments = 0
            total += (moments + scales) * tensor.copies
        return total
    if choices.optimizer == "adafactor":
        total = 0
        for tensor in tensors:
            if len(tensor.shape) >= 2:
                leading = tensor.elements // (tensor.shape[-1] * tensor.shape[-2])
                total += leading * (tensor.shape[-1] + tensor.shape[-2]) * FP32 * tensor.copies
            else:
                total += tensor.elements * FP32 * tensor.copies
        return total
    return 0


def step_bytes(tensors: Sequence[TrainedTensor], choices: TrainingChoices) -> int:
    """Transient bytes of the optimizer's own step over `tensors`.

    AdamW foreach: the square roots of a group's second moments at once; for-loop: root and quotient of one tensor, and
    the quotient of the tensor before; fused: none. SGD with weight decay: the decayed gradients, those of a dtype at
    once or one at a time. Adafactor, for one tensor at a time: squared gradient and its sum with epsilon, or the
    estimate of the second moment and the update, in fp32, and fp32 copies of parameter and gradient where those are
    16-bit; besides, the update of the tensor before.
    """
    kind, implementation = choices.optimizer, choices.optimizer_implementation
    groups = [[tensor for tensor in tensors if tensor.decayed is decayed] for decayed in (True, False)]
    if kind == "adamw" and implementation != "fused":  # one call for each group, whose names end with it
        if implementation == "foreach":
            return max(sum(tensor.size for tensor in group) for group in groups)
        return max(_one_by_one([(t, 2 * t.itemsize, t.itemsize) for t in group]) for group in groups)
    if kind == "sgd" and implementation != "fused":
        if implementation == "foreach":
            by_dtype: dict[int, int] = {}
            for tensor in groups[0]:
                by_dtype[tensor.itemsize] = by_dtype.get(tensor.itemsize, 0) + tensor.size
            return max(by_dtype.values(), default=0)
        return max((tensor.elements * tensor.itemsize for tensor in groups[0]), default=0)
    if kind == "adafactor":
        steps = [(t, (4 if t.itemsize != FP32 else 2) * FP32, FP32) for group in groups for t in group]
        return _one_by_one(steps)
    return 0


def _one_by_one(steps: list[tuple[TrainedTensor, int, int]]) -> int:
    """Largest step where tensors are updated one after another and a loop's name holds the last result until the next.

    Each step is a tensor, the bytes per element while it is updated, and those that stay while the next one is.
    """
    peak = before = 0
    for index, (tensor, during, after) in enumerate(steps):
        if index and tensor.decayed and steps[index - 1][0].copies != tensor.copies > 1:
            # A layer's first tensor follows the last one of the layer before.
            last = [step for step in steps[index:] if step[0].copies == tensor.copies and step[0].decayed][-1]
            before = max(before, last[0].elements * last[2])
        peak = max(peak, tensor.elements * during + before)
        before = tensor.elements * after
    return peak
