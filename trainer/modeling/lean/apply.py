"""Puts the lean pieces in place of the modules they stand for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import MethodType
from typing import Any

import torch

from planner.contract.architecture import NormForm
from planner.contract.architectures import ARCHITECTURES
from planner.contract.choices import TrainingChoices
from trainer.modeling.checkpointing import base_model
from trainer.modeling.functions import applied
from trainer.modeling.lean import proof
from trainer.modeling.lean.dora import DoraLinear
from trainer.modeling.lean.dropout import SeededDropout
from trainer.modeling.lean.frozen import FrozenLinear
from trainer.modeling.lean.lora import ActivatedLora, Beside, FrozenBase, LoraLinear, compute_dtype
from trainer.modeling.lean.norms import RmsNorm
from trainer.modeling.lean.rows import draw_seed
from trainer.modeling.quantized import is_int8

Activation = Callable[[torch.Tensor], torch.Tensor]

_NORMS: dict[NormForm, tuple[float, bool]] = {
    "cast_then_gain": (0.0, False),
    "gain_then_cast": (0.0, True),
    "shifted_gain": (1.0, True),
}
"""Offset of an RMS norm's gain, and whether the cast back comes after it."""

PIECES = ("lora", "mlp", "norm", "dropout")

_GATED = ("gate_proj", "up_proj", "down_proj")
_PLAIN = (("fc1", "fc2"), ("dense_h_to_4h", "dense_4h_to_h"), ("c_fc", "c_proj"))
_ACTIVATIONS = ("act_fn", "activation_fn", "act")
_LINEARS = ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt", "FalconLinear")
"""Linear layers by class name whose product is x·Wᵀ + b (Conv1D's weight is stored transposed)."""


def pieces_of(choices: TrainingChoices) -> tuple[str, ...]:
    """The pieces that run in their lean form: all but an MLP that keeps its activation (`made_again`)."""
    return tuple(piece for piece in PIECES if piece != "mlp" or "mlp" in choices.made_again)


def apply_lean(model: Any, choices: TrainingChoices, *, pieces: Collection[str] | None = None) -> Any:
    """The model with its forwards replaced, for the pieces named, or those of the choices; what has no lean form stays
    as it is."""
    pieces = pieces_of(choices) if pieces is None else pieces
    base = base_model(model)
    record = ARCHITECTURES.get(base.config.model_type)
    for module in list(base.modules()):
        kind = type(module).__name__
        if "mlp" in pieces and choices.method != "full" and _is_mlp(module) and (record or _proven_mlp(module)):
            _replace(module, _gated_forward if hasattr(module, "gate_proj") else _plain_forward)
        if "lora" in pieces and is_int8(module):
            module._lean_base = FrozenBase(module)
            _replace(module, _int8_forward)
        elif "lora" in pieces and (_is_lora_linear(module) or _is_dora_linear(module)):
            module._lean_base = FrozenBase(module.base_layer)
            _replace(module, _dora_forward if module.lora_variant else _lora_forward)
        elif "norm" in pieces and kind.endswith("RMSNorm") and getattr(module, "weight", None) is not None:
            made = _NORMS[record.norm_form] if record else proof.norm_form(module)
            if made is not None:
                module._lean_offset, module._lean_late = made
                module._lean_kept = "norms" not in choices.made_again
                _replace(module, _norm_forward)
        elif "dropout" in pieces and type(module) is torch.nn.Dropout:
            _replace(module, _dropout_forward)
    return model


def _proven_mlp(module: Any) -> bool:
    """Whether the module's own forward is the one that its lean form computes."""
    act, pair = _activation(module), _plain_pair(module)
    if hasattr(module, "gate_proj"):
        return proof.mlp_holds(module, lambda small, x: small.down_proj(act(small.gate_proj(x)) * small.up_proj(x)))
    if pair is None or getattr(module, "dropout", None) is not None or getattr(module, "residual_dropout", None):
        return False
    return proof.mlp_holds(module, lambda small, x: getattr(small, pair[1])(act(getattr(small, pair[0])(x))))


def _replace(module: Any, forward: Any) -> None:
    module.forward = MethodType(forward, module)


def _is_lora_linear(module: Any) -> bool:
    """A PEFT LoRA layer over nn.Linear, Conv1D or a quantised linear with one plain adapter."""
    return _adapts_linear(module) and not module.lora_variant


def _is_dora_linear(module: Any) -> bool:
    """The same with one DoRA adapter."""
    if not _adapts_linear(module):
        return False
    return [type(variant).__name__ for variant in module.lora_variant.values()] == ["DoraLinearVariant"]


def _adapts_linear(module: Any) -> bool:
    if not hasattr(module, "lora_A") or not hasattr(module, "base_layer") or len(module.lora_A) != 1:
        return False
    if getattr(module, "fan_in_fan_out", False) != (type(module.base_layer).__name__ == "Conv1D"):
        return False
    return type(module.base_layer).__name__ in _LINEARS


def _adapter(module: Any, base: FrozenBase, act: Activation | None = None) -> tuple[torch.Tensor, torch.Tensor, Beside]:
    """A, B and the rest of a LoRA layer in its present mode."""
    (name,) = module.lora_A.keys()
    drop = module.lora_dropout[name]
    probability = float(getattr(drop, "p", 0.0)) if module.training else 0.0
    seed = draw_seed() if probability else 0
    beside = Beside(base, float(module.scaling[name]), probability, seed, act)
    return module.lora_A[name].weight, module.lora_B[name].weight, beside


def _active(module: Any) -> bool:
    return not module.disable_adapters and not module.merged and bool(module.active_adapters)


def _own_forward(module: Any, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    out: torch.Tensor = type(module).forward(module, x, *args, **kwargs)
    return out


def _lora_forward(self: Any, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    if not _active(self) or args or kwargs:
        return _own_forward(self, x, *args, **kwargs)
    a, b, beside = _adapter(self, self._lean_base)
    out = applied(LoraLinear, x.to(_product_dtype(self, x)), a, b, beside)
    return out if torch.is_autocast_enabled(x.device.type) else out.to(x.dtype)


def _dora_forward(self: Any, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    if not _active(self) or args or kwargs:
        return _own_forward(self, x, *args, **kwargs)
    a, b, beside = _adapter(self, self._lean_base)
    (name,) = self.lora_A.keys()
    magnitude = self.lora_magnitude_vector[name].weight
    out = applied(DoraLinear, x.to(_product_dtype(self, x)), a, b, magnitude, beside)
    return out if torch.is_autocast_enabled(x.device.type) else out.to(x.dtype)


def _int8_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    return applied(FrozenLinear, x.to(compute_dtype(x)), self._lean_base)


def _product_dtype(module: Any, x: torch.Tensor) -> torch.dtype:
    """What the product runs in: autocast's dtype, a 4-bit layer's compute dtype, or the input's."""
    own = getattr(module.base_layer, "compute_dtype", None)
    return own if own is not None and not torch.is_autocast_enabled(x.device.type) else compute_dtype(x)


def _is_mlp(module: Any) -> bool:
    if all(hasattr(module, name) for name in _GATED):
        last = module.down_proj
    else:
        pair = _plain_pair(module)
        if pair is None:
            return False
        last = getattr(module, pair[1])
    if _activation(module) is None or not isinstance(last, torch.nn.Module):  # experts hold theirs in one tensor
        return False
    frozen = not hasattr(last, "lora_A") and not any(p.requires_grad for p in last.parameters())
    return _is_lora_linear(last) or (frozen and type(last).__name__ in _LINEARS)


def _plain_pair(module: Any) -> tuple[str, str] | None:
    for pair in _PLAIN:
        if all(hasattr(module, name) for name in pair):
            return pair
    return None


def _activation(module: Any) -> Any:
    for name in _ACTIVATIONS:
        act = getattr(module, name, None)
        if act is not None:
            return act
    return None


def _activated(last: Any, act: Activation, first: torch.Tensor, second: torch.Tensor | None) -> torch.Tensor:
    """last(act(first) · second), with its adapter where it has one; under autocast in its dtype from the start."""
    dtype = compute_dtype(first)
    first = first.to(dtype)
    second = None if second is None else second.to(dtype)
    if _is_lora_linear(last):
        if not _active(last):
            out: torch.Tensor = last(act(first) if second is None else act(first) * second)
            return out
        a, b, beside = _adapter(last, FrozenBase(last.base_layer), act)
        return applied(ActivatedLora, first, second, a, b, beside)
    return applied(ActivatedLora, first, second, None, None, Beside(FrozenBase(last), act=act))


def _dropped(self: Any, out: torch.Tensor) -> torch.Tensor:
    """What a few architectures do to an MLP's output by a call of dropout."""
    if getattr(self, "residual_dropout", 0.0) and self.training:
        return applied(SeededDropout, out, self.residual_dropout, draw_seed())
    return out


def _gated_forward(self: Any, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    return _dropped(self, _activated(self.down_proj, _activation(self), self.gate_proj(x), self.up_proj(x)))


def _plain_forward(self: Any, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    pair = _plain_pair(self)
    assert pair is not None
    out = _dropped(
        self, _activated(getattr(self, pair[1]), _activation(self), getattr(self, pair[0])(hidden_states), None)
    )
    drop = getattr(self, "dropout", None)
    return out if drop is None else drop(out)


def _norm_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    eps = getattr(self, "variance_epsilon", getattr(self, "eps", 1e-6))
    return applied(RmsNorm, x, self.weight, eps, self._lean_offset, self._lean_late, self._lean_kept)


def _dropout_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    if not self.training or self.p == 0.0:
        return x
    return applied(SeededDropout, x, self.p, draw_seed())
