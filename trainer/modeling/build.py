"""Builds the network: random weights from a config, or trained weights from a folder or the hub."""

from __future__ import annotations

import copy
from typing import Any

import torch

from planner.contract.errors import InvalidInput, NotModelled

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
_MASKED = ("bert", "distilbert", "roberta", "albert", "electra", "modernbert", "xlm-roberta", "deberta-v2")
_SEQ2SEQ = ("t5", "mt5", "bart", "umt5")


def weights_dtype(precision: str) -> torch.dtype:
    """Dtype of the stored weights under a precision of `TrainingChoices`."""
    return WEIGHT_DTYPES[precision]


def auto_class(config: dict[str, Any]) -> Any:
    """The transformers auto class whose head the config asks for (`architectures`, else the type's usual one)."""
    import transformers

    architecture = (config.get("architectures") or [""])[0]
    model_type = config.get("model_type", "")
    if architecture.endswith("ForSequenceClassification"):
        return transformers.AutoModelForSequenceClassification
    if architecture.endswith("ForConditionalGeneration") or model_type in _SEQ2SEQ:
        return transformers.AutoModelForSeq2SeqLM
    if architecture.endswith("ForMaskedLM") or model_type in _MASKED:
        return transformers.AutoModelForMaskedLM
    return transformers.AutoModelForCausalLM


def is_causal(config: dict[str, Any]) -> bool:
    """Whether the config asks for a decoder with a vocabulary head."""
    import transformers

    return auto_class(config) is transformers.AutoModelForCausalLM


def as_config(config: dict[str, Any]) -> Any:
    """A transformers config object from the content of a config.json; raises NotModelled for an unknown type."""
    from transformers import AutoConfig

    values = copy.deepcopy(config)
    model_type = values.pop("model_type", None)
    if not model_type:
        raise InvalidInput("the model's config.json has no `model_type`; add it or choose another model")
    try:
        made = AutoConfig.for_model(model_type, **values)
    except (KeyError, ValueError) as error:
        raise NotModelled(f"model type {model_type!r} is unknown to the installed transformers: {error}") from error
    if model_type in _SEQ2SEQ and getattr(made, "decoder_start_token_id", None) is None:
        made.decoder_start_token_id = getattr(made, "pad_token_id", None) or 0  # the decoder's input begins with it
    made.use_cache = False  # as the transformers Trainer sets it: keys and values are not kept for generation
    return made


def build(
    config: dict[str, Any],
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
    made = as_config(config)
    chosen = implementation or ATTENTION_IMPLEMENTATIONS[attention]
    if chosen == "sdpa" and getattr(made, "attn_logit_softcapping", None):
        chosen = "eager"
    cls = auto_class(config)
    torch.manual_seed(seed)
    try:
        return _build(cls, made, chosen, dtype, device, weights)
    except ValueError as error:
        if chosen != "sdpa" or "scaled_dot_product_attention" not in str(error):
            raise
        return _build(cls, as_config(config), "eager", dtype, device, weights)


def _build(cls: Any, config: Any, attention: str, dtype: torch.dtype, device: Any, weights: str | None) -> Any:
    if weights is not None:
        labels = {}
        if "SequenceClassification" in cls.__name__:
            labels = {"id2label": config.id2label, "label2id": config.label2id, "pad_token_id": config.pad_token_id}
        model, found = cls.from_pretrained(
            weights,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **labels,
        )
        model = model.to(device)
        if labels:
            # A head (or BERT's pooler) that the weights lack is drawn anew: it has to be trained and kept in full.
            model._drawn_anew = tuple(sorted({key.rpartition(".")[0] for key in found["missing_keys"]}))
        model.config.use_cache = False
        if getattr(config, "decoder_start_token_id", None) is not None and config.model_type in _SEQ2SEQ:
            model.config.decoder_start_token_id = config.decoder_start_token_id
    else:
        with torch.device(device):
            model = cls.from_config(config, dtype=dtype, attn_implementation=attention)
    model.train()
    return model
