"""What a run allocates before its first step, in the order in which it does: weights, casts, quantising, adapters.

Sources, read 2026-11: transformers 5.23 core_model_loading.py (`convert_and_load_state_dict_in_model`: the checkpoint's
tensors by name, one after another where they are quantised), modeling_utils.py (`caching_allocator_warmup`: one block
of the whole size, taken and given back), integrations/bitsandbytes.py; bitsandbytes 0.50 functional.py
(`quantize_4bit`, `int8_vectorwise_quant`); peft 0.21 utils/other.py (`prepare_model_for_kbit_training`); torch 2.13
nn/modules/module.py (`Module._apply`: a module's children before its own). Without quantised weights the model is moved
to the device module by module, as the Trainer does it (trainer.py, `_move_model_to_device`), adapters and all.

On a T4 the blocks that unquantised models take so are those that were measured, to 1 KiB (tests/cases/measured_t4.json,
`load`). Loading quantised weights is not one history: releases before 5.23 bring tensors by threads while others are
quantised, and the warm-up is left out where little would be gained. The same settings were measured at 1070 to 1078 MiB
there. So two ways are played (`WAYS`), and the middle of what they come to is what is told: over 37 configurations it
is that of six ways (0, 2 or 4 tensors ahead, warmed up or not) to 0.2 % on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from planner.contract.spec import Module
from planner.memory.engine.monomials import FP32
from planner.memory.engine.unroll import Event
from planner.memory.network import quantized
from planner.memory.network.net import Net
from planner.memory.step.optimizers import adapter_tensors, registered, whole_tensors
from planner.memory.step.program import buffer_bytes, module_sizes
from planner.memory.step.sharding import exchanges, kept_share

WAYS = ((2, False), (4, True))
"""How many tensors are brought ahead of the one that is quantised, and whether the allocator is warmed up first."""
AT_ONCE = (0, True)
"""One after another, as the trainer does it."""
CODE_BYTES = 16 * 4
"""The table of 4-bit values that belongs to every quantised weight."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The tensors of one module in one layer (None outside the layers)."""

    module: Module
    layer: int | None

    @property
    def path(self) -> str:
        """As the checkpoint names it."""
        return self.module.path if self.layer is None else self.module.path.replace("{}", str(self.layer), 1)


class _Writer:
    """Events under keys of their own: of what stays, and of what goes again."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._key = 0

    def take(self, size: int) -> int:
        self._key += 1
        self.events.append((self._key, size))
        return self._key

    def give(self, key: int) -> None:
        self.events.append((key, -1))


def loading(net: Net) -> list[list[Event]]:
    """Allocations and releases until the model is ready, on the device that it is trained on; each way it may go."""
    if net.choices.method == "qlora" and net.choices.stack == "peft":
        found = [_loaded(net, way) for way in WAYS]
    else:
        found = [_loaded(net, AT_ONCE)]
    if not exchanges(net.choices):
        return found
    ranks = kept_share(net.choices)  # of each tensor its part; the order in which a rank gets them is roughly this one
    return [[(key, -(-size // ranks) if size > 0 else size) for key, size in way] for way in found]


def _loaded(net: Net, way: tuple[int, bool]) -> list[Event]:
    writer = _Writer()
    entries = list(in_module_order(net))
    if net.choices.method != "qlora":
        _moved(net, entries, writer)
    elif net.choices.stack == "peft":
        _quantised_by_transformers(net, entries, writer, *way)
    else:
        _quantised_by_trainer(net, entries, writer)
    if buffer_bytes(net.spec):
        writer.take(buffer_bytes(net.spec))
    if net.choices.method != "full" and (net.choices.method == "qlora" or net.choices.stack == "builtin"):
        for entry in entries:
            _adapters(net, entry, writer)
    return writer.events


def in_module_order(net: Net) -> Iterator[Entry]:
    """Modules as `named_modules` yields them: what stands before the layers, every layer in its order, the rest."""
    for layers, members in groupby(registered(net.spec), lambda module: module.layers is not None):
        stack = list(members)
        if not layers:
            for module in stack:
                yield Entry(module, None)
            continue
        # A layer makes its norms last (Llama and its kin); they are small, and others make them first.
        stack.sort(key=lambda module: module.kind == "norm")
        for index in sorted({index for module in stack for index in module.layers or ()}):
            for module in stack:
                if index in (module.layers or ()):
                    yield Entry(module, index)


def _moved(net: Net, entries: list[Entry], writer: _Writer) -> None:
    """`model.to(device)`: one tensor after another; on stack `peft` the adapters are part of the model by then."""
    for entry in entries:
        for size in module_sizes(net, entry.module):
            writer.take(size)
        if net.choices.stack == "peft" and net.choices.method != "full":
            _adapters(net, entry, writer)


def _adapters(net: Net, entry: Entry, writer: _Writer) -> None:
    """A and B (and DoRA's magnitude) of the module, where it carries an adapter, or its copy that is trained beside."""
    module = entry.module
    if module.path in net.saved:
        tensors = whole_tensors(module, net.itemsize)
    elif module.path in net.targeted and (entry.layer is None or entry.layer in (net.targeted[module.path] or ())):
        tensors = adapter_tensors(net.spec, net.choices, module, net.adapter_itemsize)
    else:
        return
    for tensor in tensors:
        writer.take(tensor.elements * tensor.itemsize)


def _quantised_by_transformers(net: Net, entries: list[Entry], writer: _Writer, ahead: int, warm: bool) -> None:
    """Tensors by name, each brought in 16 bit, then quantised while the 16-bit one is there; then the rest to fp32."""
    width = net.storage_itemsize
    if warm:
        quantized_width = 1.0 if net.choices.quantization == "int8" else 0.5
        widths = (quantized_width if quantized.is_quantized(net, entry.module) else width for entry in entries)
        whole = sum(entry.module.parameters * each for entry, each in zip(entries, widths, strict=True))
        writer.give(writer.take(int(whole)))
    tensors = [
        (entry, size, quantized.is_quantized(net, entry.module) and not number)
        for entry in sorted(entries, key=lambda entry: _natural(entry.path))
        for number, size in enumerate(_plain_sizes(entry.module, width))
    ]
    plain: dict[str, list[tuple[int, int]]] = {entry.path: [] for entry in entries}
    brought: list[int] = []
    for place, (entry, size, turned) in enumerate(tensors):
        while len(brought) <= min(place + ahead, len(tensors) - 1):
            brought.append(writer.take(tensors[len(brought)][1]))
        if not turned:
            plain[entry.path].append((brought[place], size))
            continue
        for _ in range(quantized.matrices(entry.module)):
            _quantise(net, entry.module, writer)
        writer.give(brought[place])
    for entry in entries:  # peft's preparation takes the parameters in the model's order
        wider = net.itemsize if entry.module.kind != "norm" else net.norm_itemsize
        for key, size in plain[entry.path]:
            if wider != width:
                writer.take(size // width * wider)
                writer.give(key)


def _quantised_by_trainer(net: Net, entries: list[Entry], writer: _Writer) -> None:
    """Module by module from host memory (trainer.modeling.quantized), then what stays as it is."""
    width = net.storage_itemsize
    for entry in entries:
        if quantized.is_quantized(net, entry.module):
            for _ in range(quantized.matrices(entry.module)):
                key = writer.take(_plain_sizes(entry.module, width)[0] // quantized.matrices(entry.module))
                _quantise(net, entry.module, writer)
                writer.give(key)
    for entry in entries:
        whole = not quantized.is_quantized(net, entry.module)
        for size in _plain_sizes(entry.module, width)[0 if whole else 1 :]:
            writer.take(size)


def _quantise(net: Net, module: Module, writer: _Writer) -> None:
    """Scales and values of one weight; under double quantisation the fp32 scales, their mean and their difference from
    it come and go."""
    values, others = quantized.stored(net.choices, module)
    if net.choices.quantization == "int8":
        writer.take(others)
        writer.take(values)
        return
    blocks = -(-values * 2 // quantized.BLOCK_4BIT)
    scales = writer.take(blocks * FP32)
    writer.take(values)
    writer.take(CODE_BYTES)
    if net.choices.quantization == "nf4-double":
        writer.take(FP32)  # their mean
        difference = writer.take(blocks * FP32)
        writer.take(256 * FP32)  # the table of 8-bit values
        writer.take(-(-blocks // quantized.BLOCK_NESTED) * FP32)
        writer.take(blocks)
        writer.give(difference)
        writer.give(scales)


def _plain_sizes(module: Module, width: int) -> list[int]:
    """Bytes of a module's weight and bias before any quantising."""
    bias = 0 if not module.bias else module.out_features if module.kind in ("linear", "conv1d") else module.shape[0]
    return [(module.parameters - bias) * width] + ([bias * width] if bias else [])


def _natural(path: str) -> list[tuple[int, int, str]]:
    """Sorting key of a name: numbers by their value, before words."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.split(".")]
