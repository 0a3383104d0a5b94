"""Which tool a file is for, by its keys, and what it says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from planner.contract import settings, text_file, yaml_text
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.shown import shown
from planner.contract.yaml_text import Document
from planner.exchange import script
from planner.exchange.foreign import Foreign
from planner.exchange.keys import Keys, is_placeholder
from planner.exchange.tools import axolotl, launch, litgpt, llama_factory, mlx_lm, torchtune, trl, unsloth

TOOLS: dict[str, ModuleType] = {
    module.NAME: module for module in (axolotl, llama_factory, litgpt, mlx_lm, torchtune, trl, unsloth)
}
"""By name, in the order in which they are looked for: TRL's keys are the least of their own."""
NOT_READ: tuple[tuple[frozenset[str], frozenset[str], str], ...] = (
    (
        frozenset({"model", "train_dataset"}),
        frozenset({"peft_config", "dist_config", "model_class", "micro_batch_size"}),
        "LLaMA-Factory's v1 files are not read; its stable ones are (model_name_or_path, finetuning_type)",
    ),
    (
        frozenset({"model_name", "train"}),
        frozenset({"initial_checkpoint_dir", "tokenizer_dir"}),
        "LitGPT's pretraining starts from random weights and is not read; its fine-tuning is (checkpoint_dir)",
    ),
)
"""Kinds of files that a known tool has beside those that are read."""
MAX_BYTES = 4 * 1024**2


class Unrecognised(InvalidInput):
    """The keys are no known trainer's."""


def read(paths: list[Path], *, tool: str | None = None) -> Foreign:
    """A tool's file, with launcher configs beside it in any order; `tool` names the kind where its keys don't tell."""
    if tool is not None and tool not in TOOLS:
        raise InvalidInput(f"--from-tool {tool!r} is unknown; choose one of {', '.join(TOOLS)}")
    main: list[Document] = []
    launchers: list[Document] = []
    for path in paths:
        document = _open(path, tool)
        (launchers if is_launcher(document.value) else main).append(document)
    if len(main) > 1:
        raise InvalidInput(
            f"{main[1].where}: the second file that says what is trained; name one, and launcher configs"
        )
    if not main:
        raise InvalidInput(
            f"{paths[0]}: says how a run is started, not what is trained; name the trainer's file too: "
            f"--from FILE --from {paths[0]}"
        )
    return interpret(main[0], tool=tool, launchers=launchers)


def interpret(document: Document, *, tool: str | None = None, launchers: list[Document] | None = None) -> Foreign:
    """What a file's content says, key by key. `NotModelled` names the key that has no figure."""
    name = tool or recognised(document)
    module = TOOLS[name]
    keys = Keys(document, document.value, name)
    reader: Callable[[Keys], tuple[str | None, str | None, str | None]] = module.read
    model, data, several = reader(keys)
    if model is not None and is_placeholder(model):
        keys.note("model", "assumed", f"none: {model} is filled in elsewhere")
        model = None
    launch.beside(launchers or [], keys)
    settings.choices_from(keys.values, place=document.where)
    _drop_what_no_run_has(keys)
    return Foreign(
        tool=name,
        where=document.where,
        model=model,
        values=keys.values,
        hyperparameters=keys.hyperparameters,
        notes=tuple(keys.notes),
        data=data,
        several=several if keys.values.get("num_gpus", 1) == 1 else None,
        stack=module.STACK,
        no_figure=keys.no_figure,
        files=tuple(item.where for item in launchers or []),
    )


def _drop_what_no_run_has(keys: Keys) -> None:
    """Hyperparameters that tuneplan's records don't take are said and left out: no figure hangs on them."""
    from pydantic import ValidationError

    from planner.contract.run_settings import Hyperparameters

    try:
        Hyperparameters(**keys.hyperparameters)
    except ValidationError as error:
        for field in {str(problem["loc"][0]) for problem in error.errors(include_input=False, include_url=False)}:
            value = keys.hyperparameters.pop(field)
            keys.note(field, "unknown", f"{shown(value)} is outside of what tuneplan takes")


def is_launcher(content: object) -> bool:
    """Whether a mapping is accelerate's or DeepSpeed's config."""
    return isinstance(content, dict) and ("distributed_type" in content or "zero_optimization" in content)


def recognised(document: Document) -> str:
    """The tool whose keys these are."""
    if not isinstance(document.value, dict):
        raise InvalidInput(f"{document.where}: holds no mapping of keys, so it is no trainer's file")
    names = set(document.value)
    for name, module in TOOLS.items():
        needed, some = module.RECOGNISED_BY
        if needed <= names and (not some or some & names):
            return name
    for needed, some, why in NOT_READ:
        if needed <= names and some & names:
            raise NotModelled(f"{document.where}: {why}")
    raise Unrecognised(
        f"{document.where}: no trainer's file that is known by its keys; name the kind with --from-tool "
        f"({', '.join(TOOLS)})"
    )


def _open(path: Path, tool: str | None) -> Document:
    """YAML or JSON; a script or notebook is Unsloth's; a line of words is TRL's command line."""
    where = str(path)
    if path.suffix in (".py", ".ipynb") or (tool == unsloth.NAME and path.suffix not in (".yaml", ".yml", ".json")):
        return script.document(text_file.read(path, where, max_bytes=MAX_BYTES), where)
    text = text_file.read(path, where, max_bytes=MAX_BYTES)
    if path.suffix in (".sh", ".bash", ".txt", ".args") or text.lstrip().startswith(
        ("--", "trl sft", "accelerate launch")
    ):
        return command_line(text, where)
    try:
        document = yaml_text.parse(text, where)
    except InvalidInput:
        if "{{" in text or "{%" in text:
            raise InvalidInput(f"{where}: a template with Jinja's braces; fill it in first") from None
        raise
    if not isinstance(document.value, dict):
        raise InvalidInput(f"{where}: holds no mapping of keys, so it is no trainer's file")
    return document


def command_line(text: str, where: str) -> Document:
    """Arguments as a shell would split them: `--name value`, `--name=value`, `--flag`, and lists of words."""
    joined = _filled_in(text.replace("\\\r\n", " ").replace("\\\n", " "))
    lines = [line for line in joined.splitlines() if not line.lstrip().startswith("#")]
    line = next((line for line in lines if "--" in line), "")
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise InvalidInput(f"{where}: not a command line: {error}") from None
    before, words = _launcher_words(words)
    content = _named_words(words, where)
    if before.get("num_processes") is not None:
        content.setdefault("num_processes", before["num_processes"])
    if not content:
        raise InvalidInput(f"{where}: no arguments (--name value) in it")
    return Document(where=where, value=content)


_ASSIGNED = re.compile(
    r"""^\s*(?:export\s+)?([A-Za-z_]\w*)=("[^"$`]*"|'[^']*'|[^\s$`;#"']*)\s*(?:#.*)?$""", re.MULTILINE
)
_USED = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?::?-([^}$`]*))?\}|([A-Za-z_]\w*))")


def _filled_in(text: str) -> str:
    """A shell script with the variables that it sets itself to plain words, or that have a default (`${N:-2}`)."""
    known = {found[1]: found[2].strip("\"'") for found in _ASSIGNED.finditer(text)}

    def value(found: re.Match[str]) -> str:
        word = known.get(found[1] or found[3], found[2])
        return found[0] if word is None else word

    return _USED.sub(value, text)


def _launcher_words(words: list[str]) -> tuple[dict[str, object], list[str]]:
    """What a launcher takes before the script (`accelerate launch --num_processes 8 sft.py …`), and the rest."""
    if not words or words[0] not in ("accelerate", "torchrun", "python", "python3", "deepspeed"):
        return {}, words
    script = next((place for place, word in enumerate(words) if word.endswith(".py")), None)
    if script is None:
        return {}, words
    before: dict[str, object] = {}
    for place, word in enumerate(words[:script]):
        flag, equals, value = word.lstrip("-").partition("=")
        if flag.replace("-", "_") in ("num_processes", "nproc_per_node", "num_gpus") and word.startswith("--"):
            before["num_processes"] = _scalar(value if equals else words[place + 1])
    return before, words[script + 1 :]


def _named_words(words: list[str], where: str) -> dict[str, object]:
    content: dict[str, object] = {}
    name: str | None = None
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            name = flag.replace("-", "_")
            if name in content:
                raise InvalidInput(f"{where}: --{flag[:60]} stands twice")
            content[name] = _scalar(value) if equals else True
        elif name is not None:
            was = content[name]
            value_here = _scalar(word)
            content[name] = value_here if was is True else [*(was if isinstance(was, list) else [was]), value_here]
    return content


def _scalar(word: str) -> object:
    return (
        yaml_text.parse(word, "argument").value
        if word and len(word) < 40 and word.isascii() and word.isalnum()
        else word
    )
