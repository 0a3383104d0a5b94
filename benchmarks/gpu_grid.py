"""The points of gpu_observe: facts of kernels, architectures, quantised bases, settings, shapes, and verdicts.

A verdict's card is smaller than the one that is there: the allocator is told to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from observe_common import Point, TrainingChoices

from planner import memory
from planner.contract.errors import TuneplanError
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.contract.units import GIB
from planner.decide.verdict import verdict_of
from planner.models import catalogue, sources

BASE: dict[str, Any] = {
    "batch_size": 2,
    "max_length": 1024,
    "gradient_accumulation_steps": 1,
    "precision": "bf16",
    "stack": "peft",
}

DECODERS = (
    *("smollm2-135m", "phi-2", "qwen2.5-0.5b", "llama-3.2-1b", "gemma-2b", "mistral-7b-v0.1", "qwen3-0.6b", "gpt2-xl"),
    *("pythia-1.4b", "olmo-2-1b", "phi-3-mini", "gemma-2-2b", "granite-3.1-2b", "stablelm-2-1.6b", "starcoder2-3b"),
    *("llama-3.1-8b", "gemma-3-1b", "phi-1.5", "olmo-1b", "smollm3-3b", "starcoderbase-1b", "falcon-7b", "qwen2.5-7b"),
    "qwen1.5-moe-a2.7b",
)
OTHERS = ("bert-large-uncased", "t5-large", "roberta-base", "distilbert-base-uncased")

SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora plain", {"gradient_checkpointing": False}),
    ("full adamw", {"method": "full"}),
    ("lora half the layers", {"checkpoint_layers": 8}),
    ("full fp32", {"method": "full", "precision": "fp32"}),
    ("full bf16-mixed", {"method": "full", "precision": "bf16-mixed"}),
    ("lora bf16-mixed", {"precision": "bf16-mixed"}),
    ("lora fp32 plain", {"precision": "fp32", "gradient_checkpointing": False}),
    ("lora eager", {"attention": "eager"}),
    ("lora eager plain", {"attention": "eager", "gradient_checkpointing": False, "max_length": 512}),
    ("lora padded", {"padding": "max"}),
    ("lora padded plain", {"padding": "max", "gradient_checkpointing": False}),
    ("lora chunked", {"loss": "chunked", "stack": "builtin"}),
    ("lora chunked plain", {"loss": "chunked", "stack": "builtin", "gradient_checkpointing": False}),
    ("full chunked", {"loss": "chunked", "stack": "builtin", "method": "full"}),
    ("full chunked plain", {"loss": "chunked", "stack": "builtin", "method": "full", "gradient_checkpointing": False}),
    ("lora bf16 adapters", {"adapter_dtype": "bf16"}),
    ("lora no dropout plain", {"lora_dropout": 0.0, "gradient_checkpointing": False}),
    ("lora r64", {"lora_r": 64}),
    ("lora attention only", {"lora_targets": ("attention",), "gradient_checkpointing": False}),
    ("dora", {"lora_variant": "dora"}),
    ("rslora", {"lora_variant": "rslora", "lora_r": 32}),
    ("lora with head", {"modules_to_save": ("lm_head",)}),
    ("lora accumulation", {"gradient_accumulation_steps": 4}),
    ("full accumulation", {"gradient_accumulation_steps": 4, "method": "full"}),
    ("lora keeps logits", {"keep_logits": True}),
    ("lora loss of 4.45", {"transformers_version": "4.45"}),
    ("lora loss of 4.48", {"transformers_version": "4.48"}),
    ("lora reentrant", {"checkpoint_reentrant": True}),
    ("lora offload", {"checkpoint_offload": True}),
    ("full sgd", {"method": "full", "optimizer": "sgd"}),
    ("full adafactor", {"method": "full", "optimizer": "adafactor"}),
    ("full fused", {"method": "full", "optimizer_implementation": "fused"}),
    ("full for-loop", {"method": "full", "optimizer_implementation": "forloop"}),
    ("full no clipping", {"method": "full", "max_grad_norm": 0.0}),
    ("full adamw-8bit", {"method": "full", "optimizer": "adamw-8bit"}),
    ("qlora nf4-double peft", {"method": "qlora"}),
    ("qlora nf4 builtin chunked", {"method": "qlora", "quantization": "nf4", "stack": "builtin", "loss": "chunked"}),
    ("qlora plain", {"method": "qlora", "gradient_checkpointing": False}),
    ("int8 peft", {"method": "qlora", "quantization": "int8"}),
    ("int8 builtin chunked", {"method": "qlora", "quantization": "int8", "stack": "builtin", "loss": "chunked"}),
    ("dora over nf4", {"method": "qlora", "quantization": "nf4", "lora_variant": "dora"}),
    ("dora builtin chunked", {"lora_variant": "dora", "stack": "builtin", "loss": "chunked"}),
)
SETTINGS_MODELS = ("llama-3.2-1b", "phi-2", "qwen2.5-1.5b")
"""The settings go round over these: grouped queries with a large vocabulary; plain heads with dropout; tied heads."""

SHAPES = ((1, 512), (8, 512), (16, 256), (1, 2048), (1, 4096), (4, 2048), (4, 4096), (1, 8192))
SHAPE_MODELS = ("llama-3.1-8b", "phi-2")

CARDS = {"24 GB": 24 * GIB, "16 GB": 16 * GIB, "8 GB": 8 * GIB}
VERDICTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("phi-2", {}),
    ("llama-3.2-1b", {"max_length": 2048, "gradient_checkpointing": False}),
    ("qwen2.5-1.5b", {"method": "full", "loss": "chunked", "stack": "builtin"}),
    ("smollm2-360m", {"method": "full", "max_length": 512, "gradient_checkpointing": False}),
    ("qwen3-0.6b", {"loss": "chunked", "stack": "builtin"}),
    ("llama-3.1-8b", {"max_length": 512}),
)
LARGEST_BATCH = 512


def point(name: str, changes: dict[str, Any], *, group: str, title: str, config: dict[str, Any] | None = None) -> Point:
    """A point on a catalogue model (or on `config`); lengths are cut to what the model's positions allow."""
    if config is None:
        entry = catalogue.entry(name)
        config, identity = entry.config, entry.hub_id
    else:
        identity = name
    values = {**BASE, **changes}
    positions = sources.from_config(config, identity).max_positions
    if positions:
        values["max_length"] = min(values["max_length"], positions)
    return Point(
        label=f"{group}: {name} {title} {values['batch_size']}x{values['max_length']}",
        model=identity,
        config=config,
        choices=TrainingChoices(**values),
        group=group,
    )


def architecture_points() -> Iterator[Point]:
    """Every architecture with the stock step, then with the lean one at a larger shape."""
    for changes, title in (
        ({}, "lora"),
        ({"loss": "chunked", "stack": "builtin", "batch_size": 4, "gradient_checkpointing": False}, "chunked plain"),
    ):
        for name in DECODERS:
            more = dict(changes)
            if "moe" in name:
                more["lora_targets"] = ("attention",)
            yield point(name, more, group="architecture", title=title)
    for name in OTHERS:
        yield point(name, {"batch_size": 8, "max_length": 512}, group="architecture", title="lora")
        plain = {"batch_size": 8, "max_length": 512, "method": "full", "gradient_checkpointing": False}
        yield point(name, plain, group="architecture", title="full plain")


def setting_points() -> Iterator[Point]:
    """Every setting on one model in turn."""
    for index, (title, changes) in enumerate(SETTINGS):
        yield point(SETTINGS_MODELS[index % len(SETTINGS_MODELS)], changes, group="settings", title=title)


def shape_points() -> Iterator[Point]:
    """LoRA over shapes, with and without checkpointing."""
    for batch, length in SHAPES:
        for name in SHAPE_MODELS:
            if length > (sources.load_model(name).max_positions or length):
                continue
            for checkpointing in (True, False):
                changes = {"batch_size": batch, "max_length": length, "gradient_checkpointing": checkpointing}
                yield point(name, changes, group="shapes", title="lora" if checkpointing else "lora plain")


def verdict_points(
    hardware: HardwareProfile,
    cards: dict[str, int] = CARDS,
    scenarios: Sequence[tuple[str, dict[str, Any]]] = VERDICTS,
    configs: dict[str, dict[str, Any]] | None = None,
) -> Iterator[Point]:
    """For each card and scenario the largest batch that fits, which must run, and the smallest that does not fit."""
    for card, total in cards.items():
        emulated = replace(hardware, total_bytes=total)
        limit = total - hardware.reserve_bytes - hardware.context_bytes
        if limit <= 0:
            continue
        for name, changes in scenarios:
            base = point(name, changes, group="verdict", title=card, config=(configs or {}).get(name))
            spec = sources.from_config(base.config, base.model)
            try:
                fitting, refused = boundary(partial(_verdict, spec, emulated, base.choices, limit))
            except TuneplanError:
                continue
            for batch, expected in ((fitting, "ran"), (refused, "out_of_memory")):
                if batch is not None:
                    yield replace(
                        base,
                        label=f"verdict: {card} {name} {batch}x{base.choices.max_length} must {_must(expected)}",
                        choices=replace(base.choices, batch_size=batch),
                        memory_limit_bytes=limit,
                        expected=expected,
                        steps=1,
                    )


def _must(expected: str) -> str:
    return "run" if expected == "ran" else "overflow"


def _verdict(spec: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, limit: int, batch: int) -> str:
    """The verdict of one batch; on a cpu, where the meter's limit is on tensors, that of the allocated peak."""
    changed = replace(choices, batch_size=batch)
    report = memory.predict(spec, hardware, changed, budget_bytes=limit + hardware.context_bytes)
    if hardware.kind == "cpu":
        peak = max(size for name, size in report.instants.items() if name != "save")
        return "does_not_fit" if peak > 1.002 * limit else "fits" if peak < 0.998 * limit else "tight"
    return verdict_of(report)


def boundary(verdict: Callable[[int], str], largest: int = LARGEST_BATCH) -> tuple[int | None, int | None]:
    """(largest batch that fits, smallest that does not fit), None where there is none up to `largest`."""

    def first(bad: Callable[[str], bool]) -> int:
        low, high = 1, largest + 1
        while low < high:
            middle = (low + high) // 2
            if bad(known(middle)):
                high = middle
            else:
                low = middle + 1
        return low

    cache: dict[int, str] = {}

    def known(batch: int) -> str:
        if batch not in cache:
            cache[batch] = verdict(batch)
        return cache[batch]

    over = first(lambda word: word != "fits")
    refused = first(lambda word: word == "does_not_fit")
    return (over - 1 or None), (refused if refused <= largest else None)


def interleaved(groups: Sequence[Iterator[Point]], weights: Sequence[int]) -> Iterator[Point]:
    """Points of all groups in turn, so that a run that ends early has some of each."""
    running = list(zip(groups, weights, strict=True))
    while running:
        alive = []
        for group, weight in running:
            turn = list(islice(group, weight))
            yield from turn
            if len(turn) == weight:
                alive.append((group, weight))
        running = alive


QUANTIZED = (
    *("llama-3.2-1b", "qwen2.5-0.5b", "phi-2", "smollm2-360m", "qwen3-0.6b", "mistral-7b-v0.1", "gemma-2-2b"),
    *("smollm2-1.7b", "qwen2.5-1.5b", "llama-3.1-8b", "granite-3.1-2b", "phi-3-mini", "qwen2.5-7b", "olmo-2-1b"),
)


def quantized_points() -> Iterator[Point]:
    """QLoRA on the stock step and on ours by turns, checkpointed and not."""
    for name in QUANTIZED:
        for stack, loss in (("builtin", "chunked"), ("peft", "full")):
            changes = {"method": "qlora", "stack": stack, "loss": loss, "gradient_checkpointing": stack == "peft"}
            yield point(name, changes, group="quantized", title=f"qlora {stack}")


FACTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    # grouped heads
    ("eager", "llama-3.2-1b", {"attention": "eager", "batch_size": 1, "max_length": 2048}),
    ("eager", "smollm2-360m", {"attention": "eager", "max_length": 1024}),
    ("eager kept", "llama-3.2-1b", {"attention": "eager", "max_length": 512, "gradient_checkpointing": False}),
    ("eager fp32", "smollm2-360m", {"attention": "eager", "precision": "fp32", "max_length": 1024}),
    ("math", "llama-3.2-1b", {"precision": "fp32", "batch_size": 1, "max_length": 2048}),
    ("math", "smollm2-360m", {"precision": "fp32", "max_length": 1024}),
    # full heads
    ("eager", "smollm2-1.7b", {"attention": "eager", "batch_size": 1, "max_length": 2048}),
    ("eager kept", "smollm2-1.7b", {"attention": "eager", "max_length": 512, "gradient_checkpointing": False}),
    ("eager fp32", "smollm2-1.7b", {"attention": "eager", "precision": "fp32", "max_length": 1024}),
    ("efficient", "smollm2-1.7b", {"precision": "fp32", "max_length": 1024}),
    ("eager", "phi-2", {"attention": "eager", "batch_size": 1, "max_length": 1024}),
    # no matrix of scores at all
    ("flash", "llama-3.2-1b", {"batch_size": 1, "max_length": 2048}),
)
"""Which kernel runs, on which model: by dtype, mask and heads (planner.memory.network.layers)."""


def fact_points() -> Iterator[Point]:
    """Where attention's scores stand in memory while backward binds, and where they don't."""
    for kernel, name, changes in FACTS:
        yield point(name, {"lora_dropout": 0.0, **changes}, group="facts", title=kernel)


def tiny_facts() -> Iterator[Point]:
    """The same kinds at a size for a CPU."""
    from cpu_observe import ARCHITECTURES

    for kernel, name, changes in FACTS:
        config = ARCHITECTURES["phi" if name == "phi-2" else "llama"]
        full = {} if "num_key_value_heads" not in config or "1.7b" not in name else {"num_key_value_heads": 6}
        small = {"batch_size": 2, "max_length": 128 if changes["max_length"] > 1024 else 64}
        where = f"{name} tiny"
        yield point(where, {"lora_dropout": 0.0, **changes, **small}, group="facts", title=kernel, config=config | full)


def full_grid(hardware: HardwareProfile) -> Iterator[Point]:
    """All points, some 180, in an order that is balanced at any length: of the first 120 at least 25 run our step, and
    25 stand on quantised weights."""
    groups = (architecture_points(), quantized_points(), setting_points(), verdict_points(hardware), shape_points())
    return interleaved(groups, weights=(2, 3, 2, 2, 1))


TINY_CARDS = {"48 MiB": 48 << 20, "24 MiB": 24 << 20}


def tiny_grid(hardware: HardwareProfile) -> Iterator[Point]:
    """The self-test on a cpu: small models, the same kinds of points, limits that a meter holds."""
    from cpu_observe import ARCHITECTURES

    configs = {name: ARCHITECTURES[name] for name in ("llama", "qwen2", "phi")}
    small = {"batch_size": 2, "max_length": 64}

    def ordinary() -> Iterator[Point]:
        for name, config in configs.items():
            yield point(name, small, group="architecture", title="lora", config=config)
        for title, changes in SETTINGS[:2]:
            yield point("llama", {**changes, **small}, group="settings", title=title, config=configs["llama"])
        yield point("llama", {"batch_size": 4, "max_length": 32}, group="shapes", title="lora", config=configs["llama"])

    # On a cpu only tensors are limited, so the card is as large as the limit and what else the profile counts.
    cards = {name: size + hardware.reserve_bytes + hardware.context_bytes for name, size in TINY_CARDS.items()}
    verdicts = verdict_points(hardware, cards, (("llama", {"max_length": 64}),), configs)
    return interleaved((ordinary(), verdicts), weights=(2, 1))
