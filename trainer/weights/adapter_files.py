"""Adapters in PEFT's format: read by a list of what a LoRA adapter is, never by what the file asks for.

PEFT's config can name modules to import (`megatron_core`), files to unpickle (`lora_ga_config`), other kinds of
adapters with downloads of their own (X-LoRA) and classes to build (`auto_mapping`). What isn't on the list below is
refused where it asks for something, and left out where it asks for nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.run_folder import PLAN
from planner.contract.shown import clause
from planner.contract.towers import name_in_tower
from trainer.loop.loading import local_folder
from trainer.weights import model_files, tensors
from trainer.weights.model_files import ADAPTER
from trainer.wire import portable
from trainer.wire.folder import earlier_plan

CONFIG = "adapter_config.json"
KINDS: dict[str, tuple[type, ...]] = {
    "r": (int,),
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "target_modules": (str, list),
    "target_parameters": (list,),
    "exclude_modules": (str, list),
    "modules_to_save": (list,),
    "fan_in_fan_out": (bool,),
    "bias": (str,),
    "use_rslora": (bool,),
    "use_dora": (bool,),
    "lora_bias": (bool,),
    "rank_pattern": (dict,),
    "alpha_pattern": (dict,),
    "layers_to_transform": (int, list),
    "layers_pattern": (str, list),
    "task_type": (str,),
    "trainable_token_indices": (list, dict),
    "ensure_weight_tying": (bool,),
}
"""What of an adapter's config is taken over, and what its values are."""
SAYS_NOTHING = (
    *("peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping"),
)
"""Left out: which weights it belongs to, and what PEFT notes for itself."""
DRAWN = (True, False, "gaussian", "orthogonal", "eva")
"""Ways of drawing the first weights (`init_lora_weights`) that leave the base as it is."""


def read_config(folder: Path, what: str = "") -> dict[str, Any]:
    """The adapter's config as `LoraConfig` takes it. `what` stands before a message."""
    file = folder / CONFIG
    content = model_files.read_json(file)
    if content.get("peft_type") != "LORA":
        raise NotModelled(f"{what}{file}: a {str(content.get('peft_type'))[:40]} adapter; only LORA ones are read")
    from peft import LoraConfig

    usual = LoraConfig().to_dict()
    if content.get("init_lora_weights", True) not in DRAWN:
        raise NotModelled(f"{what}{file}: init_lora_weights changed the base weights; save it as a plain LoRA adapter")
    kept: dict[str, Any] = {}
    for key, value in content.items():
        if key in SAYS_NOTHING or key == "init_lora_weights" or value is None:
            continue
        kinds = KINDS.get(key)
        if kinds is None:
            if value and value != usual.get(key):
                raise NotModelled(f"{what}{file}: {key[:40]} isn't read; a plain LoRA adapter has none")
            continue
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InvalidInput(f"{what}{file}: {key} is {str(value)[:60]!r}, which no adapter has")
        kept[key] = value
    for key in ("r", "target_modules"):
        if not kept.get(key) and not (key == "target_modules" and kept.get("target_parameters")):
            raise InvalidInput(f"{what}{file}: {key} is missing")
    return kept


def base_of(folder: Path) -> str:
    """The model that the adapter was made for: as the plan of its run names it, else as the adapter does.

    An adapter says only the name of a base that was a folder: where that stood is nobody else's affair.
    """
    name = model_files.read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{folder / CONFIG}: base_model_name_or_path is missing")
    for run_dir in (folder, folder.parent):
        plan = earlier_plan(run_dir)
        if plan is not None and portable.model_name(plan.model) == name:
            return str(local_folder(plan.model) or plan.model)
    if name.startswith("./"):
        raise InvalidInput(
            f"{folder}: its base is a folder named {name[2:]!r}, and nothing here says where; keep the adapter in its "
            f"run folder, whose {PLAN} does, or put the whole path into {CONFIG} (base_model_name_or_path)"
        )
    return name


def read_weights(folder: Path, what: str = "") -> dict[str, Any]:
    """The adapter's tensors, under their names over a text tower where it was saved for the whole model.

    Raises InvalidInput for a damaged file, and for one that may be a pickle.
    """
    file = folder / ADAPTER
    if not (file.is_file() or file.is_symlink()):
        pickled = model_files.refused(folder)
        if pickled is not None:
            raise InvalidInput(
                f"{what}{pickled}: may be a pickle, which can run code, and is never loaded; save it as {ADAPTER}"
            )
        raise InvalidInput(f"{what}{folder}: no {ADAPTER} in it")
    return {name_in_tower(name): tensor for name, tensor in tensors.read(file).items()}


def attach(model: Any, folder: Path) -> Any:
    """The network with the adapter of the folder beside it, by plain PEFT, for use and not for training."""
    from peft import LoraConfig, get_peft_model

    from trainer.modeling.build import refusing

    config, weights = read_config(folder), read_weights(folder)
    what = f"{folder}: this adapter doesn't fit its base {model.name_or_path}"
    try:
        with refusing(what):
            adapted = get_peft_model(model, LoraConfig(**config))
    except ValueError as error:
        raise InvalidInput(f"{what}: {clause(error)}") from None
    copy_into(adapted, weights, what, "some tensors are of no use or missing")
    adapted.requires_grad_(False)
    return adapted.eval()


def load(model: Any, folder: Path, choices: TrainingChoices) -> None:
    """Copies an adapter into the model's own, refusing one of another make by the option that differs."""
    what = "--adapter "
    if choices.method == "full":
        raise InvalidInput("--adapter needs a plan with --method lora or qlora; merge it into its base for full")
    if not folder.is_dir():
        raise InvalidInput(f"--adapter {folder}: no such folder, so no {ADAPTER} in it")
    was = read_config(folder, what)
    weights = read_weights(folder, what)
    now = model.peft_config["default"]
    for key, option, usual in (
        ("r", "--lora-r", 8),
        ("use_dora", "--lora-variant", False),
        ("use_rslora", "--lora-variant", False),
        ("lora_alpha", "--lora-alpha", 8),
    ):
        its, ours = was.get(key, usual), getattr(now, key)
        if its != ours:
            raise InvalidInput(f"--adapter {folder}: its {key} is {its}, the plan's {ours}; set {option}")
    copy_into(model, weights, f"--adapter {folder}", "sits on other modules than the plan's --lora-targets")


def copy_into(model: Any, weights: dict[str, Any], what: str, otherwise: str) -> None:
    """Copies an adapter's tensors into the model's. Raises InvalidInput where names or shapes differ."""
    from peft import set_peft_model_state_dict

    expected = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    try:
        outcome: Any = set_peft_model_state_dict(model, weights)
    except (RuntimeError, KeyError) as error:
        raise InvalidInput(f"{what}: its tensors have other shapes or names: {clause(error)}") from None
    missing = sorted(expected & set(outcome.missing_keys))
    if outcome.unexpected_keys or missing:
        odd = (list(outcome.unexpected_keys) or missing)[0]
        raise InvalidInput(f"{what}: {otherwise} (first: {odd})")
