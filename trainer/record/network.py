"""A network as the planner counts it, read off the one that transformers builds: no weights, no code of the model's."""

from __future__ import annotations

import re
from typing import Any

import torch

from planner.contract.errors import NotModelled
from trainer import modeling
from trainer.modeling import adapters
from trainer.modeling.checkpointing import base_model, checkpointable_layers

_INDEX = re.compile(r"idx|index|layer_id|block_id|layer_number|is_first|is_last")
"""Attributes of a layer that say where it stands, not what it does."""
_TOKEN_BY_TOKEN = re.compile(r"for \w+ in range\((seq_?len|seq_?length|\w+\.shape\[1\])\)")
"""A loop over the tokens in a network's code."""
ENDINGS = {
    "causal": ("ForCausalLM", "LMHeadModel"),
    "masked": ("ForMaskedLM",),
    "seq2seq": ("ForConditionalGeneration", "MTModel"),
    "classification": ("ForSequenceClassification",),
}

MAPPINGS = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
}
"""transformers' own lists of classes by head, for names that end otherwise."""


def on_meta(config: object, *, attention: str = "sdpa", dtype: torch.dtype = torch.bfloat16) -> Any:
    """The model of a transformers config object or a config.json's content, without bytes."""
    if isinstance(config, dict):
        return modeling.build(config, dtype=dtype, attention=attention, device="meta")
    raise TypeError(type(config))


def describe(config: dict[str, object]) -> dict[str, object]:
    """Everything that a `ModelSpec` says, as JSON values, with the kinds of the layers in forward order."""
    made = modeling.as_config(config)
    model = on_meta(config)
    layers = layer_paths(model)
    text = made.get_text_config() if hasattr(made, "get_text_config") else made
    heads = _first(text, "num_attention_heads", "n_head", "num_heads", "encoder_attention_heads") or 1
    hidden = _first(text, "hidden_size", "d_model", "n_embd", "dim") or _width(model)
    window = _window(text)
    types = getattr(text, "layer_types", None) or []
    head = model.get_output_embeddings()
    return {
        "architecture": made.model_type,
        "task": task_of(model),
        "class": type(model).__name__,
        "vocab_size": int(_first(text, "vocab_size") or _rows(model)),
        "hidden_size": int(hidden),
        "num_layers": len(layers),
        "num_heads": int(heads),
        "num_kv_heads": int(_first(text, "num_key_value_heads") or heads),
        "head_dim": int(_first(text, "head_dim") or max(1, int(hidden) // int(heads))),
        "intermediate_size": int(_first(text, "intermediate_size", "ffn_dim", "n_inner", "d_ff") or 4 * int(hidden)),
        "max_positions": int(_first(text, "max_position_embeddings", "n_positions", "max_sequence_length") or 0),
        "activation": str(_first(text, "hidden_act", "hidden_activation", "activation_function") or "silu"),
        "sliding_window": window if isinstance(window, int) and "sliding_attention" in types else None,
        "sliding_layers": [i for i, kind in enumerate(types[: len(layers)]) if kind == "sliding_attention"],
        "tie_embeddings": head is not None and any(head.weight is p for p in _embedding_weights(model, head)),
        "num_experts": int(_first(text, "num_local_experts", "num_experts", "n_routed_experts") or 0),
        "experts_per_token": int(
            _first(text, "num_experts_per_tok", "moe_top_k", "num_experts_per_token", "top_k_experts") or 0
        ),
        "modules": modules(model, layers),
        "kinds": kinds(model),
        "buffer_bytes": sum(buffer.untyped_storage().nbytes() for buffer in model.buffers()),
        "head": next((name for name, module in model.named_modules() if module is head and head is not None), None),
        "recurrent_piece": recurrent_piece(model, text),
        "left_out": sorted(adapters.refused_leaves(model)),
        "experts": expert_tensors(model),
        "fp32": fp32_modules(model, layers),
        "frozen": frozen_modules(model, layers),
        "unquantized": unquantized_modules(model, layers),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _window(config: Any) -> Any:
    """Tokens that layers with a window see; refused where some see more than others, of which a recording knows
    nothing."""
    try:
        return getattr(config, "sliding_window", None)
    except Exception:  # a value of each layer's own, which transformers refuses to read for all
        found = sorted({one.sliding_window for one in config.per_layer_config if one.sliding_window})
    if len(found) > 1:
        raise NotModelled(f"its layers have windows of {', '.join(map(str, found))} tokens; a recording knows one")
    return found[0] if found else None


def recurrent_piece(model: Any, config: object) -> int:
    """Tokens that a recurrence or a linear attention takes at a time, as the config or the network's own code has it:
    1 where it goes token by token, 0 where nothing goes through the sequence piece by piece."""
    named = _first(config, "mamba_chunk_size", "chunk_size")
    if isinstance(named, int) and named > 0:
        return named
    import inspect
    import sys

    code = vars(sys.modules[type(model).__module__])
    for function in code.values():
        if inspect.isfunction(function) and function.__module__ == type(model).__module__:
            given = inspect.signature(function).parameters.get("chunk_size")
            if given is not None and isinstance(given.default, int):
                return given.default
    return int(_TOKEN_BY_TOKEN.search(inspect.getsource(sys.modules[type(model).__module__])) is not None)


def task_of(model: object) -> str:
    """The head that is on the network."""
    name = type(model).__name__
    for task, endings in ENDINGS.items():
        if name.endswith(endings):
            return task
    from transformers.models.auto import modeling_auto

    for task, mapping in MAPPINGS.items():
        if name in getattr(modeling_auto, mapping).values():
            return task
    raise NotModelled(f"{name} has no head that is trained here")


def layer_paths(model: torch.nn.Module) -> list[str]:
    """Paths of the repeated layers in forward order."""
    known = {id(layer) for layer in checkpointable_layers(model)}
    return [name for name, module in base_model(model).named_modules() if id(module) in known]


def kinds(model: torch.nn.Module) -> list[str]:
    """What each layer is: equal texts mean layers that allocate alike."""
    return [_signature(layer) for layer in checkpointable_layers(model)]


def _signature(layer: torch.nn.Module) -> str:
    parts: list[str] = []
    for name, module in layer.named_modules():
        values = {
            key: value
            for key, value in vars(module).items()
            if not key.startswith("_") and not _INDEX.search(key) and isinstance(value, (bool, int, str, type(None)))
        }
        shapes = {key: tuple(value.shape) for key, value in module._parameters.items() if value is not None}
        parts.append(f"{name} {type(module).__name__} {sorted(values.items())} {sorted(shapes.items())}")
    import hashlib

    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def modules(model: torch.nn.Module, layers: list[str]) -> list[dict[str, object]]:
    """The parameterised modules in the order of their making, those of all layers as one with `{}` for the index."""
    from transformers.pytorch_utils import Conv1D

    stems = {path: index for index, path in enumerate(layers)}
    owners: dict[int, str] = {}
    found: dict[tuple[Any, ...], list[int] | None] = {}
    for name, module in model.named_modules():
        path, index = _pattern(name, stems)
        own = {key: value for key, value in module._parameters.items() if value is not None}
        if not own:
            continue
        weight = own.get("weight")
        kind = "parameter"
        if isinstance(module, torch.nn.Linear) and adapters.is_plain(module):
            kind = "linear"
        elif isinstance(module, Conv1D):
            kind = "conv1d"
        elif isinstance(module, torch.nn.Embedding):
            kind = "embedding"
        elif weight is not None and weight.dim() == 1 and set(own) <= {"weight", "bias"}:
            kind = "norm"
        entries: list[tuple[object, ...]] = []
        # By itself stands what no module of its kind has (an embedding's further row for images).
        single = {key: value for key, value in own.items() if kind == "parameter" or key not in ("weight", "bias")}
        for key, value in single.items():
            tied = owners.get(id(value))
            entries.append((f"{path}.{key}".removeprefix("."), "parameter", tuple(value.shape), False, tied))
            owners.setdefault(id(value), f"{path}.{key}")
        if kind != "parameter":
            assert weight is not None
            tied, bias = owners.get(id(weight)), own.get("bias")
            # A bias that another module holds too is counted there.
            entries.append((path, kind, tuple(weight.shape), bias is not None and id(bias) not in owners, tied))
            owners.setdefault(id(weight), path)
            owners.setdefault(id(bias), path)
        for entry in entries:
            if index is None:
                found.setdefault(entry, None)
            else:
                places = found.setdefault(entry, [])
                assert places is not None
                places.append(index)
    return [
        {"path": path, "kind": kind, "shape": list(shape), "bias": bias, "tied_to": tied, "layers": places}
        for (path, kind, shape, bias, tied), places in found.items()
    ]


def fp32_modules(model: torch.nn.Module, layers: list[str]) -> list[str]:
    """Paths of what stays fp32 in a network of bf16 weights, as the network's own code makes it (some routers)."""
    stems = {path: index for index, path in enumerate(layers)}
    found: dict[str, None] = {}
    for name, module in model.named_modules():
        path, _ = _pattern(name, stems)
        wide = [key for key, value in module._parameters.items() if value is not None and value.dtype == torch.float32]
        found.update(dict.fromkeys([path, *(f"{path}.{key}".removeprefix(".") for key in wide)] if wide else []))
    return list(found)


def frozen_modules(model: torch.nn.Module, layers: list[str]) -> list[str]:
    """Paths of what the network itself never trains: a router's correction, a table of sines."""
    stems = {path: index for index, path in enumerate(layers)}
    found: dict[str, None] = {}
    for name, module in model.named_modules():
        own = {key: value for key, value in module._parameters.items() if value is not None}
        still = [key for key, value in own.items() if not value.requires_grad]
        path, _ = _pattern(name, stems)
        found.update(dict.fromkeys(f"{path}.{key}".removeprefix(".") for key in still))
        if still and len(still) == len(own):
            found[path] = None
    return list(found)


def unquantized_modules(model: torch.nn.Module, layers: list[str]) -> list[str]:
    """Paths of linear layers that transformers leaves as they are when it loads quantised, as the network asks for."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = list(getattr(model, "_keep_in_fp32_modules", None) or ())
    stems = {path: index for index, path in enumerate(layers)}
    linear = (name for name, module in model.named_modules() if type(module) is torch.nn.Linear)
    return list(dict.fromkeys(_pattern(name, stems)[0] for name in linear if not should_convert_module(name, kept)))


def _pattern(name: str, stems: dict[str, int]) -> tuple[str, int | None]:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        stem = ".".join(parts[:count])
        if stem in stems and parts[count - 1].isdigit():
            return ".".join([*parts[: count - 1], "{}", *parts[count:]]), int(parts[count - 1])
    return name, None


def expert_tensors(model: object) -> dict[str, str]:
    """Names that PEFT turns into adapters on fused expert tensors, and the end of the tensor's path each stands for."""
    names = adapters.fused_expert_names(model)
    if not names:
        return {}
    from peft.utils import transformers_weight_conversion as conversion

    pattern = conversion._MODEL_TO_CONVERSION_PATTERN[model.config.model_type]  # type: ignore[attr-defined]
    mapping = conversion._MOE_TARGET_MODULE_MAPPING[pattern]
    return {name: str(mapping[name]) for name in names}


def _first(config: object, *names: str) -> Any:
    for name in names:
        try:
            value = getattr(config, name, None)
        except Exception:  # a value of each layer's own, which transformers refuses to read for all
            continue
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], int):
            value = max(value)
        if value is not None and not isinstance(value, (dict, list, tuple)):
            return value
    return None


def _width(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[-1])


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _embedding_weights(model: torch.nn.Module, head: torch.nn.Module) -> list[object]:
    return [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding) and m is not head]
