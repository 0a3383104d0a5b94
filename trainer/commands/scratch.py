"""A language model from nothing, of a guide's preset size, on a person's own text: folder, tokenizer, plan."""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from planner.contract import yaml_text
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.files import write_json, write_whole
from planner.contract.records import Plan
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.contract.words import one_line
from trainer.commands import presets
from trainer.wire import files


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Start values of a preset."""

    learning_rate: float
    epochs: float
    batch_size: int
    max_length: int


RECIPES = {
    "small": Recipe(learning_rate=1e-3, epochs=5.0, batch_size=32, max_length=256),
    "medium": Recipe(learning_rate=3e-4, epochs=10.0, batch_size=32, max_length=512),
    "large": Recipe(learning_rate=1e-4, epochs=20.0, batch_size=32, max_length=512),
}
"""Start values of the guides: smaller models take higher rates; 0.1 weight decay and 100 warm-up steps from scratch."""
TINY_CHARACTERS = 10_000
"""Below this many characters the guides expect nothing useful."""
DROPOUT = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What differs from the preset."""

    vocab_size: int = 0
    """0 takes the 256 bytes as they are; above 300 a byte-level BPE of that size is learned from the text."""
    device: str = "cpu"
    precision: str = "fp32"
    epochs: float | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise InvalidInput(f"--epochs must be above 0, not {self.epochs:g}")
        if self.max_length is not None and self.max_length < 2:
            raise InvalidInput(f"--max-length must be at least 2, not {self.max_length}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What there is now."""

    model: str
    """Folder of config and tokenizer."""
    plan: str
    parameters: int
    vocab_size: int
    characters: int
    """Of the text."""


def make(name: str, text: Path, folder: Path, wish: Wish | None = None) -> Made:
    """Writes `folder/model` (config and tokenizer, no weights) and `folder/plan.yaml`."""
    wish = wish or Wish()
    if name not in RECIPES:
        raise InvalidInput(f"preset {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    characters = _count(text)
    whole = files.new_folder(folder)
    recipe = _recipe(name, wish)
    length = recipe.max_length
    tokenizer = _tokenizer(text, wish.vocab_size)
    tokenizer.model_max_length = max(1024, length)
    config = presets.config(name, vocab_size=len(tokenizer), max_positions=max(1024, length), dropout=DROPOUT)
    tokens = characters if wish.vocab_size == 0 else characters // 3
    plan = _plan(whole / "model", config, text, recipe, wish, tokens)
    with files.whole_folder(whole) as target:
        (target / "model").mkdir()
        tokenizer.save_pretrained(target / "model")
        write_json(target / "model" / "config.json", config)
        content = yaml_text.dumps(plan.model_dump(mode="json", by_alias=True))
        write_whole(target / "plan.yaml", content.encode())
    return Made(
        model=str(folder / "model"),
        plan=str(folder / "plan.yaml"),
        parameters=parameters(config),
        vocab_size=len(tokenizer),
        characters=characters,
    )


def _recipe(name: str, wish: Wish) -> Recipe:
    usual = RECIPES[name]
    return replace(usual, epochs=wish.epochs or usual.epochs, max_length=wish.max_length or usual.max_length)


def _plan(model: Path, config: dict[str, object], text: Path, recipe: Recipe, wish: Wish, tokens: int) -> Plan:
    """The plan that trains `model` on a text of about so many tokens."""
    # A small text makes few steps: the warm-up may not eat more than a tenth of them.
    steps = max(1, int(recipe.epochs * tokens * 0.9 / recipe.max_length / recipe.batch_size))
    return Plan(
        model=str(model),
        gpu=wish.device,
        model_config_inline=config,
        settings=TrainingChoices(
            method="full",
            precision=wish.precision,
            batch_size=recipe.batch_size,
            gradient_accumulation_steps=1,
            max_length=recipe.max_length,
            padding="packed",
            loss="chunked",
            gradient_checkpointing=False,
        ),
        hyperparameters=Hyperparameters(
            learning_rate=recipe.learning_rate,
            epochs=recipe.epochs,
            warmup_steps=min(100, max(1, steps // 10)),
            weight_decay=0.1,
            min_learning_rate_ratio=0.1,
            early_stopping_patience=5,
        ),
        data=DataSettings(path=str(text.resolve()), format="text", validation_split=0.1),
    )


def parameters(config: dict[str, Any]) -> int:
    """Parameters of a preset, computed from its dimensions (tied embeddings)."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    layer = 4 * width * width + 3 * width * inner + 2 * width
    return int(config["num_hidden_layers"] * layer + config["vocab_size"] * width + width)


def _count(text: Path) -> int:
    """Characters of the text file (or of a folder's .txt files)."""
    total = 0
    for file in _texts(text):
        try:
            total += len(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise InvalidInput(f"{file}: not UTF-8 text") from None
        except OSError as error:
            raise InvalidInput(f"{file}: can't be read: {error.strerror or error}") from None
    if total < TINY_CHARACTERS:
        print(
            f"warning: {total} characters; below {TINY_CHARACTERS} expect no more than a demonstration", file=sys.stderr
        )
    return total


def _texts(text: Path) -> list[Path]:
    found = sorted(text.glob("*.txt")) if text.is_dir() else [text]
    if not found or not found[0].is_file():
        raise InvalidInput(f"--data {text}: no text file there")
    return found


def _tokenizer(text: Path, vocab_size: int) -> Any:
    from trainer.commands.demo import tokenizer as bytewise

    if vocab_size == 0:
        return bytewise.build()
    if vocab_size < 300:
        raise InvalidInput(f"--vocab-size {vocab_size}: 0 takes bytes; a learned vocabulary has at least 300 entries")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    learned = Tokenizer(models.BPE(unk_token=None))
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    special = list(bytewise.SPECIAL)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learned.train([str(file) for file in _texts(text)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=learned,
        pad_token=special[0],
        eos_token=special[1],
        additional_special_tokens=special[2:],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = bytewise.CHAT_TEMPLATE
    return fast


def command(given: Namespace) -> int:
    """`python -m trainer presets`: without a name what there is, with one the folder, and then the training."""
    if given.name is None:
        rows = {name: {**presets.PRESETS[name], **asdict(RECIPES[name])} for name in RECIPES}
        for name, row in rows.items():
            row["parameters"] = parameters(presets.config(name, vocab_size=261))
        print(json.dumps(rows, indent=1))
        return 0
    if given.data is None or given.output is None:
        raise InvalidInput("presets NAME needs --data TEXT and --output FOLDER")
    wish = Wish(
        vocab_size=given.vocab_size,
        device=given.device,
        precision=given.precision,
        epochs=given.epochs,
        max_length=given.max_length,
    )
    made = make(given.name, given.data, given.output, wish)
    if not given.train:
        print(json.dumps(asdict(made), indent=1))
        return 0
    print(f"{made.parameters:,} parameters; plan in {one_line(made.plan)}", file=sys.stderr)
    from trainer.commands.run import main as run_plan
    from trainer.wire.events import EventStream
    from trainer.wire.request import Request

    return run_plan(Request(plan=Path(made.plan), output=given.output / "run", device=given.device), EventStream())
