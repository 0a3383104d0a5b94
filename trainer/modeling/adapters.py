"""Attaches LoRA, rsLoRA or DoRA adapters by PEFT, with the adapter dtype that the choices name."""

from __future__ import annotations

from typing import Any

import torch

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput

_LEAVES = (
    "q_proj k_proj v_proj o_proj out_proj qkv_proj c_attn query_key_value Wqkv query key value q k v o q_lin k_lin"
    " v_lin out_lin"
)
ATTENTION_LEAVES = frozenset(_LEAVES.split())
"""Leaf names of attention projections; `dense` and `c_proj` count when they stand below an attention module."""


def target_paths(model: Any, targets: tuple[str, ...]) -> list[str]:
    """What PEFT is given for the targets: full module paths, and the names that it turns into fused expert tensors.

    Raises InvalidInput for a target that matches nothing. `all-linear` is PEFT's: every linear layer but the output,
    and in a mixture of experts whose tensors PEFT knows to be fused, the experts and the router too; without those that
    PEFT refuses to adapt.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    # PEFT trains a classifier in full (modules_to_save), so it gets no adapter
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    classifier = next((name for name in ("score", "classifier") if classifies and hasattr(model, name)), None)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and is_plain(m)}
    fused = fused_expert_names(model)
    chosen: list[str] = []
    for target in targets:
        if target == "all-linear":
            found = [n for n, m in linears.items() if m is not head and not (classifier and n.startswith(classifier))]
            # These names mean the fused tensors wherever they stand; dense layers of the same name stay untouched.
            left_out = {*fused, *refused_leaves(model)}
            found = [n for n in found if n.rsplit(".", 1)[-1] not in left_out] + list(fused)
        elif target == "attention":
            found = [n for n in linears if _is_attention(n)]
        elif target.rsplit(".", 1)[-1] in fused:
            found = [target.rsplit(".", 1)[-1]]
        else:
            found = [n for n in linears if n == target or n.endswith("." + target)]
            if not found:
                found = [
                    n
                    for n, m in model.named_modules()
                    if isinstance(m, torch.nn.Embedding) and (n == target or n.endswith("." + target))
                ]
        if not found:
            leaves = ", ".join(sorted({n.rsplit(".", 1)[-1] for n in linears}))
            raise InvalidInput(f"--lora-targets {target!r} matches no linear module; this model has {leaves}")
        chosen += found
    return list(dict.fromkeys(chosen))


def is_plain(module: Any) -> bool:
    """Whether a linear layer returns its product alone. Some routers are linear layers by class and return several
    things, which an adapter can't be added to.
    """
    own = type(module).forward
    return own is torch.nn.Linear.forward or type(module).__name__ in _OWN_FORWARD


_OWN_FORWARD = ("Conv1D", "FalconLinear", "Linear4bit", "Linear8bitLt", "NonDynamicallyQuantizableLinear")
"""Layers with a forward of their own that is a product all the same."""


def fused_expert_names(model: Any) -> tuple[str, ...]:
    """Names that PEFT turns into adapters on a layer's fused expert tensors and router, by its own table.

    Empty for every architecture without an entry there. The table is private to PEFT and asked for, not copied, so that
    the adapters are those of plain PEFT whatever its version does.
    """
    try:
        from peft.utils import transformers_weight_conversion as conversion
    except ImportError:
        return ()
    pattern = getattr(conversion, "_MODEL_TO_CONVERSION_PATTERN", {}).get(model.config.model_type)
    return tuple(getattr(conversion, "_MOE_TARGET_MODULE_MAPPING", {}).get(pattern, ()))


def refused_leaves(model: Any) -> frozenset[str]:
    """Names of linear layers on which PEFT allows no adapter (output projections of Mamba's mixers), asked of PEFT."""
    from peft import LoraConfig
    from peft.tuners import tuners_utils

    check = getattr(tuners_utils, "_check_lora_target_modules_mamba", None)
    refused = set()
    for leaf in {
        name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }:
        try:
            if check is not None:
                check(LoraConfig(), model, leaf)
        except ValueError:
            refused.add(leaf)
    return frozenset(refused)


def shortest_names(model: torch.nn.Module, paths: list[str]) -> list[str]:
    """Leaf names where they mean exactly these modules, else the paths: an adapter's config stays readable."""
    leaves = {path.rsplit(".", 1)[-1] for path in paths}
    experts = set(fused_expert_names(model)) & set(paths)
    if experts:
        return sorted(paths)
    meant = {name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in leaves}
    return sorted(leaves) if meant == set(paths) else paths


def _is_attention(path: str) -> bool:
    """A projection inside an attention module: `out_proj` of a classification head is none."""
    parent, _, leaf = path.rpartition(".")
    owner = parent.lower()
    return (leaf in ATTENTION_LEAVES or leaf in ("dense", "c_proj")) and ("attn" in owner or "attention" in owner)


def attach_adapters(model: torch.nn.Module, choices: TrainingChoices, *, low_cpu_mem_usage: bool = False) -> Any:
    """The model with adapters (a PeftModel), or without any under method `full`.

    PEFT's own default keeps adapters in fp32 over half-precision weights (`adapter_dtype=fp32`); `bf16` leaves them in
    the weights' dtype. `low_cpu_mem_usage` creates them on `meta`.
    """
    if choices.method == "full":
        return _as_the_stack_runs_it(model, choices)
    from peft import LoraConfig, get_peft_model

    drawn = tuple(getattr(model, "_drawn_anew", ()))
    saved = [*choices.modules_to_save, *(name for name in drawn if name.split(".")[0] not in ("score", "classifier"))]
    targets = [path for path in target_paths(model, choices.lora_targets) if path not in drawn]
    experts = [name for name in fused_expert_names(model) if name in targets]
    if experts and (choices.lora_dropout > 0 or choices.lora_variant == "dora"):
        what = "--lora-dropout above 0" if choices.lora_dropout > 0 else "DoRA"
        raise InvalidInput(
            f"{what} cannot be used on the fused expert tensors ({', '.join(experts)}); set --lora-dropout 0 without "
            "DoRA, or choose --lora-targets attention"
        )
    config = LoraConfig(
        r=choices.lora_r,
        lora_alpha=choices.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=choices.lora_dropout,
        target_modules=shortest_names(model, targets),
        modules_to_save=saved or None,
        use_rslora=choices.lora_variant == "rslora",
        use_dora=choices.lora_variant == "dora",
        bias="none",
        fan_in_fan_out=_has_conv1d(model),
        task_type=_task_type(model),
    )
    try:
        adapted = get_peft_model(
            model,
            config,
            autocast_adapter_dtype=choices.adapter_dtype == "fp32",
            low_cpu_mem_usage=low_cpu_mem_usage,
        )
    except TypeError as error:
        if "modules_to_save" not in str(error):
            raise
        # PEFT copies every module whose name ends like the classifier's (`pre_classifier`), adapted or not.
        kept = ", ".join(choices.modules_to_save) or "the classifier"
        raise InvalidInput(
            f"PEFT cannot train {kept} in full: --lora-targets {','.join(choices.lora_targets)} puts an adapter on a "
            "module whose name ends alike; choose attention, or name the modules"
        ) from None
    if choices.adapter_dtype == "bf16":
        _cast_adapters(adapted)
    adapted.train()
    return _as_the_stack_runs_it(adapted, choices)


def _as_the_stack_runs_it(model: torch.nn.Module, choices: TrainingChoices) -> Any:
    """Stack `builtin` replaces forwards by their lean forms; stack `peft` leaves them as they are."""
    if choices.stack == "builtin":
        from trainer.modeling.lean import apply_lean

        return apply_lean(model, choices)
    return model


def _has_conv1d(model: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def _task_type(model: torch.nn.Module) -> str | None:
    name = type(model).__name__
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "CAUSAL_LM"
    if name.endswith("ForConditionalGeneration"):
        return "SEQ_2_SEQ_LM"
    if name.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return None


def _cast_adapters(model: torch.nn.Module) -> None:
    """bf16 adapters whatever dtype the base weights have."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ("lora_" in name) and parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(torch.bfloat16)
