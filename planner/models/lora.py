"""Which modules an adapter attaches to, and how many parameters it trains; PEFT's rules on a `ModelSpec`.

A target is `attention`, `all-linear`, or a name that matches a module as PEFT matches it: the whole path or a dotted
end of it (`q_proj`, `self_attn.q_proj`, `layers.3.self_attn.q_proj`). PEFT passes over a name that fits nothing as long
as another one fits; here it is an error, because a plan would then be for another run than the one that was meant.

Rules: peft 0.21, `tuners/tuners_utils.py` (matching, all-linear), `utils/other.py` (modules_to_save),
`utils/transformers_weight_conversion.py` (fused experts); each is tested against that library.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.sentence import Sentence, named
from planner.contract.spec import ModelSpec, Module

ATTENTION, ALL_LINEAR = "attention", "all-linear"

_ATTENTION_PART = re.compile(r"\.(self_attn|attn|attention|self_attention|SelfAttention|EncDecAttention)\.")
_CLASSIFIERS = ("classifier", "score")
"""Heads that PEFT trains in full beside the adapters when the task is sequence classification."""


def resolve_targets(model: ModelSpec, targets: tuple[str, ...]) -> tuple[Module, ...]:
    """The modules that the targets match, in forward order; where a target names single layers, only those.

    Raises `InvalidInput` for a name that matches nothing, or nothing that can carry an adapter.
    """
    key = id(model), targets
    known = _RESOLVED.get(key)
    if known is None or known[0] is not model:
        known = _RESOLVED[key] = model, _resolved(model, targets)
        if len(_RESOLVED) > MOST_RESOLVED:
            _RESOLVED.popitem(last=False)
    return known[1]


_RESOLVED: OrderedDict[tuple[int, tuple[str, ...]], tuple[ModelSpec, tuple[Module, ...]]] = OrderedDict()
"""By the spec itself: its config, on which it hangs too, is no part of what makes two specs equal."""
MOST_RESOLVED = 16


def _resolved(model: ModelSpec, targets: tuple[str, ...]) -> tuple[Module, ...]:
    if not targets:
        raise InvalidInput(named("lora_targets"), f" is empty; choose {_choices(model)}")
    chosen: dict[int, set[int]] = {}
    for target in targets:
        hits = _match(model, target)
        if not hits:
            raise InvalidInput(_nothing(model, target))
        for position, layers in hits.items():
            chosen.setdefault(position, set()).update(layers)
    _check_fused(model, targets)
    found = []
    for position in sorted(chosen):
        module = model.modules[position]
        kept = None if module.layers is None else tuple(i for i in module.layers if i in chosen[position])
        found.append(module if kept == module.layers else replace(module, layers=kept))
    return tuple(found)


def adapter_modules(model: ModelSpec, choices: TrainingChoices) -> tuple[Module, ...]:
    """The modules that carry an adapter under these choices; none when everything is trained.

    A module that is trained in full (`modules_to_save`) carries none.
    """
    if choices.method == "full":
        return ()
    saved = _saved_names(model, choices)
    modules = [
        module
        for module in resolve_targets(model, choices.lora_targets)
        if not any(_inside(module.path, name) for name in saved)
    ]
    if not modules:
        targets = ",".join(choices.lora_targets)
        raise InvalidInput(named("lora_targets"), f" {targets}: all of them are ", named("modules_to_save"), " already")
    fused = [module.path for module in modules if module.kind == "parameter"]
    if fused and (choices.lora_dropout > 0 or choices.lora_variant == "dora"):
        what = named("lora_dropout") + " above 0" if choices.lora_dropout > 0 else "DoRA"
        raise InvalidInput(
            what,
            f" cannot be used on the fused expert tensors ({fused[0]}); set ",
            named("lora_dropout"),
            " 0 without DoRA, or choose ",
            named("lora_targets"),
            " attention",
        )
    for module in modules:
        for name in saved:
            if _ends_inside(module.path, name):
                raise InvalidInput(
                    named("modules_to_save"),
                    f" {name!r} also fits {module.path}, which carries an adapter; "
                    "name its path in full, or choose other ",
                    named("lora_targets"),
                )
    return tuple(modules)


def adapter_rank(model: ModelSpec, module: Module, choices: TrainingChoices) -> int:
    """Rank of the adapter on one module: `lora_r`, doubled where gate and up projections are one fused tensor."""
    fused = module.kind == "parameter" and module.path.endswith("gate_up_proj") and bool(_expert_tensors(model))
    return 2 * choices.lora_r if fused else choices.lora_r


def adapter_parameters(model: ModelSpec, module: Module, choices: TrainingChoices) -> int:
    """Parameters of the adapter on one copy of a module.

    r·(in + out), for fused experts once per expert; DoRA adds one magnitude per output.
    """
    inputs, outputs = module.shape[-1], module.shape[-2]
    experts = module.shape[0] if len(module.shape) == 3 else 1
    total = experts * adapter_rank(model, module, choices) * (inputs + outputs)
    if choices.lora_variant == "dora":
        total += module.out_features if module.kind in ("linear", "conv1d") else module.shape[-1]
    return total


def saved_modules(model: ModelSpec, choices: TrainingChoices) -> tuple[Module, ...]:
    """The modules that are trained in full beside the adapters, as copies of their own.

    PEFT compares the plain end of a module's path, so `norm` also fits `input_layernorm`. A tied weight is copied too
    and is then tied no longer; the modules are returned without their tie.
    """
    if choices.method == "full":
        return ()
    names = _saved_names(model, choices)
    for name in choices.modules_to_save:
        if not any(_ends_inside(module.path, name) for module in model.modules):
            raise InvalidInput(_nothing(model, name, "modules_to_save"))
    return tuple(
        replace(module, tied_to=None)
        for module in model.modules
        if any(_ends_inside(module.path, name) for name in names)
    )


def trainable_parameters(model: ModelSpec, choices: TrainingChoices) -> int:
    """Parameters that receive a gradient: all under `full`, else adapters and modules trained in full."""
    if choices.method == "full":
        return sum(module.parameters * module.copies for module in learning_modules(model))
    adapters = sum(
        adapter_parameters(model, module, choices) * module.copies for module in adapter_modules(model, choices)
    )
    return adapters + sum(module.parameters * module.copies for module in saved_modules(model, choices))


def learning_modules(model: ModelSpec) -> tuple[Module, ...]:
    """All modules but those that the network itself never trains (a router's correction, a table of sines)."""
    still = frozenset(model.config.get("recorded", {}).get("frozen", ()))
    return tuple(module for module in model.modules if module.path not in still) if still else model.modules


def _saved_names(model: ModelSpec, choices: TrainingChoices) -> tuple[str, ...]:
    heads = _CLASSIFIERS if model.task == "classification" else ()
    return (*choices.modules_to_save, *heads)


def _match(model: ModelSpec, target: str) -> dict[int, set[int]]:
    """Positions in `model.modules` that a target fits, each with the layers it fits there."""
    experts = _expert_tensors(model)
    hits: dict[int, set[int]] = {}
    for position, module in enumerate(model.modules):
        layers = set(module.layers or ())
        if target == ATTENTION:
            fits = module.kind in ("linear", "conv1d") and _ATTENTION_PART.search(module.path) is not None
        elif target == ALL_LINEAR:
            fits = _in_all_linear(model, module, experts)
        elif (name := target.rsplit(".", 1)[-1]) in experts:
            # These names mean the fused tensors wherever they stand; dense layers of the same name stay untouched.
            fits = _holds(module, experts[name])
        elif module.kind == "parameter":
            fits = False
        elif any(part.isdigit() for part in target.split(".")):
            indices = {i for i in layers if _same_end(module.path.replace("{}", str(i), 1), target)}
            fits, layers = (bool(indices), indices) if layers else (_same_end(module.path, target), layers)
        else:
            fits = _same_end(module.path, target)
        if fits:
            hits[position] = layers
    refused = [model.modules[position].path for position in hits if model.modules[position].kind == "norm"]
    if refused:
        raise InvalidInput(
            named("lora_targets"),
            f" {target!r} fits {refused[0]}, a norm, which cannot carry an adapter; choose {_choices(model)}",
        )
    return hits


def _expert_tensors(model: ModelSpec) -> dict[str, str]:
    """Names that PEFT turns into fused expert tensors, and the tensor each means."""
    if not model.num_experts:
        return {}
    about = model.config.get("recorded")
    experts = model.facts.experts
    own = {} if experts is None else dict(experts.targets)
    return own if about is None else about["experts"]


def _output_layer(model: ModelSpec) -> str:
    """Path of the output embedding, which all-linear leaves out."""
    about, encoder = model.config.get("recorded"), model.facts.encoder
    if about is not None:
        return str(about["head"])
    return "lm_head" if encoder is None else encoder.output


def _in_all_linear(model: ModelSpec, module: Module, experts: dict[str, str]) -> bool:
    if any(_holds(module, tensor) for tensor in experts.values()):
        return True
    if module.kind not in ("linear", "conv1d") or module.path == _output_layer(model):
        return False
    if model.task == "classification" and module.path in _CLASSIFIERS:
        return False
    about = model.config.get("recorded")
    return module.leaf not in experts and (about is None or module.leaf not in about["left_out"])


def _holds(module: Module, tensor: str) -> bool:
    """Whether this is the tensor that PEFT means: a parameter by itself, or the weight of a router that is a linear."""
    if module.kind not in ("parameter", "linear"):
        return False
    path = module.path if module.kind == "parameter" else f"{module.path}.weight"
    return path.endswith(f".{tensor}")


def _check_fused(model: ModelSpec, targets: Iterable[str]) -> None:
    """Gate and up projections share a tensor, so that one can't be adapted without the other."""
    experts = _expert_tensors(model)
    pair = {name for name, tensor in experts.items() if tensor == "gate_up_proj"}
    asked = {target.rsplit(".", 1)[-1] for target in targets} & pair
    if asked and asked != pair:
        missing = ", ".join(sorted(pair - asked))
        raise InvalidInput(
            named("lora_targets"),
            f" {', '.join(sorted(asked))} needs {missing} too: they are one fused tensor in {model.id}",
        )


def _same_end(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _prefixes(path: str) -> Iterable[str]:
    parts = path.split(".")
    return (".".join(parts[: count + 1]) for count in range(len(parts)))


def _inside(path: str, name: str) -> bool:
    """Whether a module is, or lies in, one whose path ends with the dotted name."""
    return any(_same_end(prefix, name) for prefix in _prefixes(path))


def _ends_inside(path: str, name: str) -> bool:
    """The same with PEFT's looser comparison of plain text."""
    return any(prefix.endswith(name) for prefix in _prefixes(path))


def _choices(model: ModelSpec) -> str:
    leaves = dict.fromkeys(m.leaf for m in model.modules if m.kind in ("linear", "conv1d", "embedding"))
    names = [*leaves, *_expert_tensors(model)]
    return f"{ATTENTION}, {ALL_LINEAR} or of {', '.join(dict.fromkeys(names))}"


def _nothing(model: ModelSpec, target: str, option: str = "lora_targets") -> Sentence:
    import difflib  # only wrong names pay for it

    leaves = sorted({module.leaf for module in model.modules} | {ATTENTION, ALL_LINEAR})
    near = difflib.get_close_matches(target.rsplit(".", 1)[-1], leaves, n=1)
    hint = f" (near: {near[0]})" if near else ""
    return named(option) + f" {target!r} fits no module of {model.id}{hint}; choose {_choices(model)}"
