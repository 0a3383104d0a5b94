"""Random training configurations over models of the catalogue (drawn_from.json), the same for the same seed.

Widths are the models' own, since a trace on fake tensors costs by operators and not by bytes; depth is cut to a few
layers (encoder-decoders: of both stacks), except for a small share at full size.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.contract.choices import TrainingChoices
from planner.contract.errors import TuneplanError
from planner.contract.spec import ModelSpec
from planner.data.lengths import Batch
from planner.memory.step.case import flattens
from planner.models.lora import resolve_targets, trainable_parameters
from planner.models.sources import from_config, load_model

HARDWARE = "a100-80gb"
DRAWN_FROM = Path(__file__).parent / "drawn_from.json"
"""The models of the draws, with the date of the list."""
FULL_SIZE_SHARE = 0.02
FULL_SIZE_LAYERS = 32
"""Deeper models, and mixtures of experts, are not drawn at full size: their traces take minutes."""
SAVED_SHARE = 0.1
"""Share of adapter runs that also train the embeddings or the head."""
RAGGED_SHARE = 0.4
"""Share of the micro-batches that the trainer would flatten whose rows differ in length."""
MAX_TOKENS = 32768
"""Tokens in a micro-batch."""
MAX_SCORES = 1 << 34
"""batch · heads · length² of eager attention: beyond this nobody trains so."""

_DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
_PER_LAYER_KEYS = ("layer_types", "no_rope_layers", "attention_layers", "mlp_layer_types")


@dataclass(frozen=True, slots=True)
class Configuration:
    """One point of the grid."""

    model: str
    """Catalogue name."""
    layers: int | None
    """Layers that were kept; None at full size."""
    spec: ModelSpec
    choices: TrainingChoices
    rows: Batch | None = None
    """Row by row the lengths in tokens of the sequences in a ragged micro-batch; None where every row is full."""

    @property
    def architecture(self) -> str:
        """`model_type` of the model."""
        return self.spec.architecture


def reduced(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The config with only the first `layers` layers."""
    small = copy.deepcopy(config)
    for key in _DEPTH_KEYS:
        if small.get(key):
            small[key] = min(layers, int(small[key]))
    for key in _PER_LAYER_KEYS:
        if isinstance(small.get(key), list):
            small[key] = small[key][:layers]
    if small.get("max_window_layers") is not None:
        small["max_window_layers"] = min(int(small["max_window_layers"]), layers)
    return small


def by_architecture() -> dict[str, list[str]]:
    """The models that are drawn from, by architecture: a kept list, so that a larger catalogue moves no draws."""
    return dict(json.loads(DRAWN_FROM.read_text())["models"])


def _pick(draw: random.Random, weights: dict[Any, float]) -> Any:
    return draw.choices(list(weights), weights=list(weights.values()))[0]


def _targets(draw: random.Random, spec: ModelSpec) -> tuple[str, ...]:
    kind = _pick(draw, {"all-linear": 5, "attention": 3, "some": 2})
    if kind != "some":
        return (kind,)
    linears = sorted({m.leaf for m in spec.modules if m.kind in ("linear", "conv1d") and m.layers is not None})
    return tuple(sorted(draw.sample(linears, min(len(linears), draw.randint(1, 3))))) if linears else ("all-linear",)


def _saved(draw: random.Random, spec: ModelSpec) -> tuple[str, ...]:
    """Names of the embeddings, the head or both, to be trained in full beside the adapters."""
    outside = [m for m in spec.modules if m.layers is None and m.shape[0] == spec.vocab_size]
    names = sorted({m.leaf for m in outside if m.kind in ("embedding", "linear")})
    return tuple(sorted(draw.sample(names, draw.randint(1, len(names))))) if names else ()


def _shape(draw: random.Random, spec: ModelSpec, attention: str) -> tuple[int, int]:
    while True:
        batch = _pick(draw, {1: 3, 2: 3, 3: 1, 4: 3, 6: 1, 8: 3, 16: 2})
        length = _pick(draw, {128: 2, 200: 1, 256: 2, 384: 1, 512: 3, 768: 1, 1000: 1, 1024: 3, 2048: 3, 4096: 2})
        if spec.max_positions:
            length = min(length, spec.max_positions)
        scores = batch * spec.num_heads * length * length
        if batch * length <= MAX_TOKENS and (attention != "eager" or scores <= MAX_SCORES):
            return batch, length


def choices_for(draw: random.Random, spec: ModelSpec) -> TrainingChoices:
    """Random choices that make sense for the model; raises TuneplanError where a combination is refused by name."""
    causal = spec.task == "causal"
    values: dict[str, Any] = {
        "method": _pick(draw, {"full": 3, "lora": 4.5, "qlora": 2.5}),
        "precision": _pick(draw, {"bf16": 5, "fp16": 1.2, "fp32": 1.5, "bf16-mixed": 2, "fp16-mixed": 0.3}),
        "stack": _pick(draw, {"peft": 1, "builtin": 1}),
        "attention": _pick(draw, {"sdpa": 6, "eager": 2, "flash": 2}),
        "padding": _pick(draw, {"longest": 6, "max": 2.5, "packed": 1.5 if causal else 0}),
        "loss": _pick(draw, {"full": 6, "chunked": 4 if causal else 0}),
        "optimizer": _pick(draw, {"adamw": 6, "sgd": 1.2, "adafactor": 1.2, "adamw-8bit": 1, "paged-adamw-8bit": 0.6}),
        "optimizer_implementation": _pick(draw, {"foreach": 6, "fused": 2, "forloop": 2}),
        "gradient_accumulation_steps": _pick(draw, {1: 6, 4: 4}),
        "max_grad_norm": _pick(draw, {1.0: 9, 0.0: 1}),
    }
    if values["precision"] == "fp32" and values["attention"] == "flash":
        values["attention"] = "sdpa"  # the package has no fp32 kernels
    if values["method"] != "full":
        values |= {
            "lora_variant": _pick(draw, {"lora": 6.5, "rslora": 1.5, "dora": 2}),
            "lora_r": _pick(draw, {4: 1, 8: 3, 16: 3, 32: 2, 64: 1}),
            "lora_alpha": 16,
            "lora_dropout": _pick(draw, {0.0: 4, 0.05: 4, 0.1: 2}),
            "lora_targets": _targets(draw, spec),
            "adapter_dtype": _pick(draw, {"fp32": 6, "bf16": 4}),
            "modules_to_save": _saved(draw, spec) if draw.random() < SAVED_SHARE else (),
        }
        if values["method"] == "qlora":
            values["quantization"] = _pick(draw, {"nf4": 1, "nf4-double": 2, "int8": 1})
    if values["loss"] == "full":
        values["keep_logits"] = _pick(draw, {False: 8.5, True: 1.5})
        if causal and values["stack"] == "peft":
            values["transformers_version"] = _pick(draw, {None: 8, "4.48": 1, "4.45": 1, "no-upcast": 0.5})
    kind = _pick(draw, {"none": 4, "all": 3.5, "some": 2.5})
    values["gradient_checkpointing"] = kind != "none"
    if kind == "some":
        values["checkpoint_layers"] = draw.randint(1, max(1, spec.total_layers - 1))
    if kind != "none":
        values["checkpoint_reentrant"] = _pick(draw, {False: 9, True: 1})
        values["checkpoint_offload"] = _pick(draw, {False: 9, True: 1})
    values["batch_size"], values["max_length"] = _shape(draw, spec, values["attention"])
    return TrainingChoices(**values)


def _rows(draw: random.Random, spec: ModelSpec, choices: TrainingChoices) -> Batch | None:
    """A ragged micro-batch, of which the longest row is full; None where the trainer would not flatten it."""
    if not flattens(spec, choices) or draw.random() > RAGGED_SHARE:
        return None
    if choices.padding == "packed":
        return tuple(_pieces(draw, choices.max_length) for _ in range(choices.batch_size))
    shortest = max(2, choices.max_length // 8)
    others = (draw.randint(shortest, choices.max_length) for _ in range(choices.batch_size - 1))
    rows = tuple((length,) for length in (choices.max_length, *sorted(others, reverse=True)))
    return rows if rows[-1] < rows[0] else None


def _pieces(draw: random.Random, room: int) -> tuple[int, ...]:
    """Lengths of the sequences that fill a row, the longest first."""
    found: list[int] = []
    while room >= 2:
        found.append(draw.randint(max(2, room // 8), room))
        room -= found[-1]
    return tuple(sorted(found, reverse=True))


def configurations(seed: int) -> Iterator[Configuration]:
    """An endless stream of configurations, architecture by architecture in turn."""
    draw, lengths = random.Random(seed), random.Random(f"lengths of {seed}")
    names = by_architecture()
    while True:
        for members in names.values():
            found = _one(draw, members)
            yield replace(found, rows=_rows(lengths, found.spec, found.choices))


def _one(draw: random.Random, members: list[str]) -> Configuration:
    for _ in range(100):
        name = draw.choice(members)
        whole = load_model(name)
        affordable = whole.total_layers <= FULL_SIZE_LAYERS and not whole.num_experts
        full_size = draw.random() < FULL_SIZE_SHARE and affordable
        layers = draw.randint(3, 5)
        spec = whole if full_size else from_config(reduced(dict(whole.config), layers), name)
        try:
            choices = choices_for(draw, spec)
            if choices.method != "full":
                resolve_targets(spec, choices.lora_targets)
                trainable_parameters(spec, choices)
        except TuneplanError:
            continue
        return Configuration(name, None if full_size else layers, spec, choices)
    raise RuntimeError(f"no valid configuration of {members} in 100 draws")
