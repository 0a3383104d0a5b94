"""Builds the network: random weights from a config, or trained weights from a folder or the hub."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from planner.contract import architectures
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.shown import clause
from planner.contract.towers import FROM_WHOLE
from trainer.modeling import configs, text_towers
from trainer.weights import model_files, tensors
from trainer.weights.model_files import ModelFiles

WEIGHT_DTYPES: dict[str, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "bf16-mixed": torch.float32,
    "fp16-mixed": torch.float32,
    "bf16-amp": torch.bfloat16,
}
"""Dtype of the stored weights by precision; the mixed modes keep fp32 weights and compute under autocast, `bf16-amp`
is autocast over bf16 weights."""

ATTENTION_IMPLEMENTATIONS = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}


def weights_dtype(precision: str) -> torch.dtype:
    """Dtype of the stored weights under a precision of `TrainingChoices`."""
    return WEIGHT_DTYPES[precision]


def auto_class(config: dict[str, object]) -> Any:
    """The transformers auto class whose head the config asks for (`architectures`, else the type's usual one)."""
    import transformers

    named = config.get("architectures") or [""]
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise InvalidInput(f"the model's config.json: architectures is {str(named)[:60]}, not a list of names")
    architecture, task = named[0], architectures.of(str(config.get("model_type", ""))).task
    if architecture.endswith("ForSequenceClassification"):
        return transformers.AutoModelForSequenceClassification
    if architecture.endswith("ForConditionalGeneration") or task == "seq2seq":
        return transformers.AutoModelForSeq2SeqLM
    if architecture.endswith("ForMaskedLM") or task == "masked":
        return transformers.AutoModelForMaskedLM
    return _listed(architecture) or transformers.AutoModelForCausalLM


def _listed(architecture: str) -> Any:
    """The auto class that alone has this class, whose name says nothing (FlaubertWithLMHeadModel); None where several
    have it or none."""
    import transformers
    from transformers.models.auto import modeling_auto as lists

    heads = (
        (lists.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, transformers.AutoModelForCausalLM),
        (lists.MODEL_FOR_MASKED_LM_MAPPING_NAMES, transformers.AutoModelForMaskedLM),
        (lists.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, transformers.AutoModelForSeq2SeqLM),
    )
    found = [cls for names, cls in heads if architecture in names.values()]
    return found[0] if len(found) == 1 else None


def is_causal(config: dict[str, object]) -> bool:
    """Whether the config asks for a decoder with a vocabulary head."""
    import transformers

    return auto_class(config) is transformers.AutoModelForCausalLM


def learns_answers(config: dict[str, object]) -> bool:
    """Whether the config asks for an encoder and a decoder, whose labels have a length of their own."""
    import transformers

    return auto_class(config) is transformers.AutoModelForSeq2SeqLM


def as_config(config: dict[str, object], name: str = "the model") -> Any:
    """A transformers config object of what a config.json says of the network, ready for training.

    Raises NotModelled for an unknown type, InvalidInput for values that its class refuses.
    """
    made = configs.as_config(config, name)
    if learns_answers(config) and getattr(made, "decoder_start_token_id", None) is None:
        made.decoder_start_token_id = getattr(made, "pad_token_id", None) or 0  # the decoder's input begins with it
    made.use_cache = False  # as the transformers Trainer sets it: keys and values are not kept for generation
    return made


def build(
    config: dict[str, object],
    *,
    dtype: torch.dtype,
    attention: str = "sdpa",
    device: str | torch.device = "cpu",
    seed: int = 42,
    weights: str | None = None,
    implementation: str | None = None,
) -> Any:
    """The transformers model of `config` in training mode.

    `weights` (a folder or a hub id) loads trained weights from safetensors, never running code that comes with them;
    without it weights are random from `seed`. Weights are stored as `dtype` on `device` (`meta` allocates nothing).
    `attention` is a choice of `TrainingChoices`; `implementation` overrides the transformers name it stands for.
    An architecture without the asked kernel (gemma2's soft cap under sdpa) falls back to eager, as transformers does
    by default; releases before 5.2x take sdpa there and leave the cap out.
    """
    name = weights or "the model"
    made = as_config(config, name)
    chosen = implementation or ATTENTION_IMPLEMENTATIONS[attention]
    if chosen == "flash_attention_2" and find_spec("flash_attn") is None:
        # transformers would fetch a kernel from the hub and run it.
        raise NotModelled("--attention flash needs the package flash-attn: install it, or take --attention sdpa")
    if chosen == "sdpa" and getattr(made, "attn_logit_softcapping", None):
        chosen = "eager"
    cls = auto_class(config)
    if is_causal(config):
        text_towers.register(made)
    files = None if weights is None else model_files.find(weights)
    torch.manual_seed(seed)
    try:
        return _build(cls, made, chosen, dtype, device, files)
    except ValueError as error:
        if chosen != "sdpa" or "scaled_dot_product_attention" not in str(error):
            raise
        return _build(cls, as_config(config, name), "eager", dtype, device, files)


def _build(
    cls: Any, config: object, attention: str, dtype: torch.dtype, device: str | torch.device, files: ModelFiles | None
) -> Any:
    if files is None:
        with torch.device(device), refusing("no network can be made of this config.json"):
            model = cls.from_config(config, dtype=dtype, attn_implementation=attention)
        return model.train()
    model, drawn = from_files(cls, config, files, dtype=dtype, attn_implementation=attention)
    model = model.to(device)
    if "SequenceClassification" in cls.__name__:
        # A head (or BERT's pooler) that the weights lack is drawn anew: it has to be trained and kept in full.
        model._drawn_anew = tuple(sorted({key.rpartition(".")[0] for key in drawn}))
    return model.train()


def from_files(cls: Any, config: object, files: ModelFiles, **options: object) -> tuple[Any, list[str]]:
    """(the network with its trained weights, names of the tensors of a classifier's head that they lack).

    `cls` is an auto class. Raises InvalidInput, naming the file, where weights and network don't belong together.
    """
    if not files.weights:
        raise InvalidInput(f"{files.name}: holds no safetensors weights")
    where = files.index or files.weights[0]
    unfit = f"{where}: these weights don't fit the config.json beside them"
    for name, (path, entry) in files.entries().items():
        if name.endswith(".weight") and entry.dtype not in FLOATS:
            raise InvalidInput(f"{path}: {name} is stored as {entry.dtype[:20]}; weights must be plain floating point")
    with files.alone() as folder, refusing(unfit):
        model, found = cls.from_pretrained(
            folder,
            config=config,
            generation_config=_generation_config(config, files),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            key_mapping=FROM_WHOLE if _holds_a_tower(files) else None,
            **options,
        )
    for name, was, wanted in sorted(found["mismatched_keys"]):
        raise InvalidInput(f"{unfit}: {name} has the shape {tuple(was)} and needs {tuple(wanted)}")
    missing = sorted(found["missing_keys"])
    lacking = [name for name in missing if not _of_a_head(name, model)]
    if lacking:
        raise InvalidInput(
            f"{unfit}: {len(lacking)} tensors of a {type(model).__name__} are missing (first: {lacking[0]})"
        )
    model.config._name_or_path = model.name_or_path = files.name
    return model, missing


def _holds_a_tower(files: ModelFiles) -> bool:
    """Whether some of the tensors have names that the text tower of a larger model has in it."""
    return any(re.match(pattern, name) for name in files.entries() for pattern in FROM_WHOLE)


def _generation_config(config: Any, files: ModelFiles) -> object:
    """How the model's makers let it generate, as far as that is numbers."""
    from transformers import GenerationConfig

    if files.generation is None:
        return GenerationConfig.from_model_config(config)
    try:
        return GenerationConfig(**configs.generation_settings(model_files.read_json(files.generation)))
    except ValueError as error:
        raise InvalidInput(f"{files.generation}: {clause(error)}") from None


def copy_weights(model: torch.nn.Module, source: str) -> None:
    """Copies the weights of a folder that `save_pretrained` wrote into a network that there is.

    Where the file's names aren't the network's own (experts that it holds in one tensor), transformers converts them.
    """
    files = model_files.find(source)
    if not files.weights:
        raise InvalidInput(f"{source}: holds no safetensors weights")
    inner = getattr(model, "_orig_mod", model)
    wanted = inner.state_dict()
    names = files.entries().keys()
    tied = {value.data_ptr() for name, value in wanted.items() if name in names}
    plain = names <= wanted.keys() and all(
        name in names or value.data_ptr() in tied or value.numel() == 0 for name, value in wanted.items()
    )
    with refusing(f"{source}: its weights don't fit this plan's model"):
        if plain:
            for file in files.weights:
                inner.load_state_dict(tensors.read(file), strict=False)
            return
        fresh, _ = from_files(type(inner), inner.config, files, dtype=next(inner.parameters()).dtype)
        inner.load_state_dict(fresh.state_dict())


FLOATS = ("F16", "BF16", "F32", "F64")


def _of_a_head(name: str, model: torch.nn.Module) -> bool:
    """Whether a tensor belongs to a classifier's head (or the pooler below it), which may be drawn anew."""
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    return classifies and (not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name)


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """What transformers raises for files that don't belong together becomes one line; overflows pass.

    ValueError, OSError and ImportError pass too: they mean a missing kernel or file, and are told apart by the callers.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (
        RuntimeError,
        LookupError,
        AttributeError,
        TypeError,
        ArithmeticError,
        AssertionError,
        SafetensorError,
    ) as error:
        from trainer.measure.devices import is_out_of_memory

        if is_out_of_memory(error):
            raise
        raise InvalidInput(f"{what}: {clause(str(error) or type(error).__name__)}") from None
