"""Model and tokenizer of a plan: from a local folder or the hub, safetensors only, never code that comes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.files import expanded
from planner.contract.records import Plan
from planner.contract.shown import clause
from planner.contract.towers import text_part
from trainer.weights import model_files

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
    path = expanded(model)
    if path.is_file() and path.name == "config.json":
        path = path.parent
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InvalidInput(f"{model}: this folder holds no config.json; name a model folder or a hub id")
        return path.resolve()
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InvalidInput(f"{model}: no such model folder")
    return None


def read_config(model: str) -> dict[str, object]:
    """Content of the model's config.json; of a multimodal model its text tower's part."""
    return text_part(whole_config(model))


def whole_config(model: str) -> dict[str, object]:
    """Content of the model's config.json."""
    folder = local_folder(model)
    file = folder / "config.json" if folder is not None else model_files.fetch(model, "config.json")
    if file is None:
        raise InvalidInput(f"{model}: has no config.json on the hub")
    return model_files.read_json(file)


def check_config(plan: Plan, config: dict[str, object]) -> None:
    """Refuses weights whose dimensions differ from those that the plan was computed for."""
    promised = plan.model_config_inline
    if not promised:
        return
    for key in DIMENSIONS:
        if key in promised and key in config and promised[key] != config[key]:
            raise InvalidInput(
                f"{plan.model}: {key} is {config[key]}, but the plan was made for {promised[key]}; plan this model anew"
            )


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model's or adapter's folder or of a hub id; padding falls back to the end-of-text token."""
    from transformers import AutoTokenizer

    folder = expanded(model)  # also an adapter's, which holds no config.json
    source = str(folder.resolve()) if folder.is_dir() else str(local_folder(model) or model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except BaseException as error:  # missing files, network, remote code: one line with the library's own reason
        # A panic within the tokenizers library is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = clause(str(error) or type(error).__name__)
        raise InvalidInput(f"{model}: its tokenizer can't be loaded: {reason}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise InvalidInput(f"{model}: its tokenizer has neither a padding nor an end-of-text token")
    return tokenizer


def load_model(
    plan: Plan, choices: TrainingChoices, config: dict[str, object], *, device: str, seed: int, task: Any = None
) -> Any:
    """The base model with the head of its task (causal where none is given) on `device` in training mode. Method
    `full` starts from scratch where there are no weights.
    """
    from trainer import modeling

    folder = local_folder(plan.model)
    weights: str | None = plan.model
    if folder is not None:
        weights = str(folder) if model_files.find(str(folder)).weights else None
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
        raise NotModelled(f"--attention {choices.attention}: {clause(error)}") from None
    except (OSError, ValueError) as error:
        from trainer.measure.devices import is_out_of_memory

        if is_out_of_memory(error):
            raise
        reason = clause(str(error) or type(error).__name__)
        raise InvalidInput(f"{plan.model}: can't be loaded from safetensors: {reason}") from None
    from trainer.tasks import Task

    (task or Task(config)).require(model, plan.model)
    return model
