"""Model and tokenizer of a plan: from a local folder or the hub, safetensors only, never code that comes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.records import Plan
from planner.contract.spec import TrainingChoices

DIMENSIONS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "n_embd",
    "n_layer",
    "n_head",
    "num_local_experts",
    "num_experts",
)
"""Config keys in which the loaded weights must agree with the config that the plan was computed from."""


def local_folder(model: str) -> Path | None:
    """The folder that `model` names (a folder, or a config.json inside it), absolute; None for a hub id."""
    path = Path(model).expanduser()
    if path.is_file() and path.name == "config.json":
        path = path.parent
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InvalidInput(f"{model}: this folder holds no config.json; name a model folder or a hub id")
        return path.resolve()
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InvalidInput(f"{model}: no such model folder")
    return None


def read_config(model: str) -> dict[str, Any]:
    """Content of the model's config.json."""
    folder = local_folder(model)
    if folder is None:
        from huggingface_hub import hf_hub_download

        try:
            file = Path(hf_hub_download(model, "config.json"))
        except Exception as error:  # the hub client raises a dozen kinds; each is "this model isn't to be had"
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InvalidInput(
                f"{model}: neither a folder here nor a model that the hub hands out: {reason:.160}"
            ) from None
    else:
        file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{file}: not a readable config.json: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{file}: not a readable config.json: expected an object")
    return content


def check_config(plan: Plan, config: dict[str, Any]) -> None:
    """Refuses weights whose dimensions differ from those that the plan was computed for."""
    promised = plan.model_config_inline
    if not promised:
        return
    for key in DIMENSIONS:
        if key in promised and key in config and promised[key] != config[key]:
            raise InvalidInput(
                f"{plan.model}: {key} is {config[key]}, but the plan was made for {promised[key]}; plan this model anew"
            )


def has_weights(folder: Path) -> bool:
    """Whether the folder holds safetensors weights; pickled ones alone are refused."""
    if any(folder.glob("*.safetensors")):
        return True
    pickled = next(iter([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]), None)
    if pickled is not None:
        raise InvalidInput(f"{pickled}: pickled weights can run code and are never loaded; convert them to safetensors")
    return False


def load_tokenizer(model: str) -> Any:
    """The model's own tokenizer; padding falls back to the end-of-text token."""
    from transformers import AutoTokenizer

    folder = local_folder(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder or model), trust_remote_code=False)
    except Exception as error:  # missing files, network, remote code: one line with the library's own reason
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"{model}: its tokenizer can't be loaded: {reason:.200}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise InvalidInput(f"{model}: its tokenizer has neither a padding nor an end-of-text token")
    return tokenizer


def load_model(
    plan: Plan, choices: TrainingChoices, config: dict[str, Any], *, device: str, seed: int, task: Any = None
) -> Any:
    """The base model with the head of its task (causal where none is given) on `device` in training mode. Method
    `full` starts from scratch where there are no weights.
    """
    from trainer import modeling

    folder = local_folder(plan.model)
    weights: str | None = plan.model
    if folder is not None:
        weights = str(folder) if has_weights(folder) else None
        if weights is None and choices.method != "full":
            raise InvalidInput(
                f"{folder}: no safetensors weights to attach adapters to; only --method full starts from none"
            )
    try:
        model = modeling.build(
            config,
            dtype=modeling.weights_dtype(choices.precision),
            attention=choices.attention,
            device=device,
            seed=seed,
            weights=weights,
        )
    except ImportError as error:
        raise NotModelled(f"--attention {choices.attention}: {str(error).splitlines()[0]:.200}") from None
    except (OSError, ValueError) as error:
        from trainer.devices import is_out_of_memory

        if is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"{plan.model}: can't be loaded from safetensors: {reason:.200}") from None
    from trainer.tasks import Task

    (task or Task(config)).require(model, plan.model)
    return model


def load_adapter(model: Any, folder: Path, choices: TrainingChoices) -> None:
    """Copies an adapter that PEFT (or this trainer) wrote into the model's, refusing one of another make by name."""
    from peft import PeftConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    if choices.method == "full":
        raise InvalidInput("--adapter needs a plan with --method lora or qlora; merge it into its base for full")
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise InvalidInput(f"--adapter {folder}: no adapter_model.safetensors in it")
    try:
        was: Any = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput(f"--adapter {folder}: adapter_config.json: {str(error).splitlines()[0]:.160}") from None
    now = model.peft_config["default"]
    for key, option in (("r", "--lora-r"), ("use_dora", "--lora-variant"), ("use_rslora", "--lora-variant")):
        its, ours = getattr(was, key, None), getattr(now, key)
        if its != ours:
            raise InvalidInput(f"--adapter {folder}: its {key} is {its}, the plan's {ours}; set {option}")
    if was.lora_alpha != now.lora_alpha:
        raise InvalidInput(
            f"--adapter {folder}: its lora_alpha is {was.lora_alpha}, the plan's {now.lora_alpha}; set --lora-alpha"
        )
    expected = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    outcome: Any = set_peft_model_state_dict(model, load_file(str(weights)))
    missing = sorted(expected & set(outcome.missing_keys))
    if outcome.unexpected_keys or missing:
        odd = (list(outcome.unexpected_keys) or missing)[0]
        raise InvalidInput(f"--adapter {folder}: sits on other modules than the plan's --lora-targets (first: {odd})")
