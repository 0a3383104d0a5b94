"""A config.json as transformers may see it: what describes a network, and nothing that chooses code or a download.

transformers 5 keeps every unknown key of a config as an attribute, and some attributes are read as names of kernels on
the hub, of files to unpickle, of layers to fuse (`attn_implementation: org/kernel`, `transformers_weights`,
`fusion_config`). So keys are not forbidden one by one: what is no field of the model type's config class stays out,
numbers excepted, which older files' keys are made of. The attention's implementation is chosen by us from our own list.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from planner.contract import quantised
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.layer_table import as_published
from planner.contract.shown import clause

GENERIC = (
    *("architectures", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id"),
    *("is_encoder_decoder", "is_decoder", "tie_word_embeddings", "layer_types", "chunk_size_feed_forward"),
    *("rope_scaling", "rope_theta", "rope_parameters", "rope_local_base_freq"),
)
"""Keys that any config may have beside its class's own."""
CHOOSES_CODE = (
    *("attn_implementation", "experts_implementation", "auto_map", "trust_remote_code", "custom_pipelines"),
    *("custom_generate", "use_kernels", "kernel_config", "use_kernel_func", "fusion_config", "transformers_weights"),
    *("extra_files", "name_or_path", "dtype", "torch_dtype", "torchscript", "transformers_version", "gguf_file"),
    *("distributed_config", "tp_plan", "base_model_tp_plan", "base_model_pp_plan", "base_model_fsdp_plan"),
    *("backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone"),
    *("output_attentions", "output_hidden_states", "return_dict", "use_cache", "per_layer_config"),
    *quantised.KEYS,
)
"""Left out even where a class has such a field. Of those that say how weights are stored, `refuse_quantized` speaks."""
DEEPEST = 4
UNWRITTEN = ("Infinity", "-Infinity", "NaN")


def refuse_quantized(config: Mapping[str, object], name: str) -> None:
    """Refuses weights that aren't stored as plain numbers: reading them would take further code."""
    stored = quantised.found_in(config)
    if stored is not None:
        raise NotModelled(f"{name}: ", quantised.refusal(stored))
    for part in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        if part.get("per_layer_config"):
            raise NotModelled(f"{name}: layers of different shapes (per_layer_config) aren't trained")


def as_config(config: Mapping[str, object], name: str = "the model") -> Any:
    """A transformers config object of what the file says of the network; raises NotModelled for an unknown type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = config.get("model_type")
    if not model_type or not isinstance(model_type, str):
        raise InvalidInput(f"{name}'s config.json has no `model_type`; add it or choose another model")
    config = as_published(config)
    refuse_quantized(config, name)
    try:
        cls = CONFIG_MAPPING[model_type]
    except KeyError:
        raise NotModelled(f"model type {model_type[:80]!r} is unknown to the installed transformers") from None
    try:
        return cls(**described(config, cls))
    except Exception as error:  # each config class checks its fields in its own way and by its own errors
        reason = clause(str(error) or type(error).__name__)
        raise InvalidInput(f"{name}'s config.json: {model_type[:40]} can't be made of it: {reason}") from None


def described(config: Mapping[str, object], cls: object, depth: int = 0) -> dict[str, Any]:
    """The keys of a config that describe the network of this config class."""
    if depth > DEEPEST:
        raise InvalidInput("config.json: parts within parts within parts; no model is made like that")
    fields, beside = _fields(cls), _read_beside(cls)
    kept: dict[str, object] = {}
    for key, value in config.items():
        if key in CHOOSES_CODE or key.startswith("_") or key == "model_type":
            continue
        part = getattr(cls, "sub_configs", {}).get(key)
        if part is not None and isinstance(value, Mapping):
            kept[key] = _part(value, part, depth)
        elif key in fields or key in GENERIC or (_is_number(value) and not hasattr(cls, key)):
            kept[key] = _numbers(copy.deepcopy(value))
        elif key in beside:
            kept[key] = _numbers(copy.deepcopy(_without_code(value)))
    return kept


def _without_code(value: object) -> object:
    """A value that no field of the class checks, less what would choose code."""
    if isinstance(value, Mapping):
        return {key: _without_code(item) for key, item in value.items() if key not in CHOOSES_CODE and key[:1] != "_"}
    return [_without_code(item) for item in value] if isinstance(value, list) else value


def _numbers(value: object) -> object:
    """The value with numbers as Python has them that JSON has no word for, and transformers writes as
    `{"__float__": "Infinity"}` (Mamba's `time_step_limit`; transformers 5.23, configuration_utils.py)."""
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, dict) and set(value) == {"__float__"} and value["__float__"] in UNWRITTEN:
        return float(value["__float__"])
    return value


def _part(value: Mapping[str, object], cls: object, depth: int) -> dict[str, object]:
    """A part of a config, by its own type where its class leaves that open."""
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = value.get("model_type")
    if not (inspect.isclass(cls) and issubclass(cls, PreTrainedConfig)):
        if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
            raise NotModelled(f"model type {str(model_type)[:80]!r} is unknown to the installed transformers")
        cls = CONFIG_MAPPING[model_type]
    kept = described(value, cls, depth + 1)
    return {"model_type": model_type, **kept} if isinstance(model_type, str) else kept


def _fields(cls: Any) -> set[str]:
    """Names that a config class knows: its fields, or its constructor's arguments, and their older spellings."""
    if dataclasses.is_dataclass(cls):
        names = {field.name for field in dataclasses.fields(cls)}
    else:
        names = set(inspect.signature(cls.__init__).parameters)
    return names | set(getattr(cls, "attribute_map", {}))


def _read_beside(cls: Any) -> set[str]:
    """Words in a config class's own methods that are handed `**kwargs`: older or published keys that they read there.

    Nemotron-H's layers are given by such a one alone (`hybrid_override_pattern`); without it another network is made.
    """
    from transformers import PreTrainedConfig

    found: set[str] = set()
    for one in cls.__mro__:
        if one is not PreTrainedConfig and issubclass(one, PreTrainedConfig):
            codes = (getattr(method, "__code__", None) for method in vars(one).values())
            for code in codes:
                if code is not None and "kwargs" in code.co_varnames:
                    found |= {word for word in code.co_consts if isinstance(word, str)}
    return found


def _is_number(value: object) -> bool:
    """A number, a truth value or nothing, or a list of such: what can name nothing."""
    if isinstance(value, list):
        return all(_is_number(item) for item in value)
    return value is None or isinstance(value, (bool, int, float))


# ---- generation_config.json ----------------------------------------------------------------------------------------

SAMPLING: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("bos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id"), int),
    **dict.fromkeys(("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"), (int, list)),
    **dict.fromkeys(("max_length", "max_new_tokens", "min_length", "top_k", "num_beams", "no_repeat_ngram_size"), int),
    **dict.fromkeys(
        ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "length_penalty"), (int, float)
    ),
    "do_sample": bool,
}
"""What of a generation_config.json is taken over, and what its values are; none of it names code or a repository."""


def generation_settings(content: Mapping[str, Any]) -> dict[str, object]:
    """The known keys of a generation_config.json with values of the right kind."""
    return {
        key: content[key]
        for key, kind in SAMPLING.items()
        if isinstance(content.get(key), kind) and (kind is bool or not isinstance(content[key], bool))
        if not isinstance(content[key], list) or all(type(item) is int for item in content[key])
    }
