"""A model's name or config.json to a `ModelSpec`: catalogue, local files, the hub's cache, the hub itself.

`load_model` looks in this order: a path that exists, the catalogue, the local Hugging Face cache, the hub. Nothing of
the model but its config.json is ever read, and no model code runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from planner.contract import architectures, quantised, text_file
from planner.contract.errors import InvalidInput, NotModelled, TuneplanError
from planner.contract.files import expanded
from planner.contract.layer_table import as_published
from planner.contract.sentence import named
from planner.contract.shown import clause, shown
from planner.contract.spec import HeadTask, ModelSpec
from planner.contract.towers import text_part
from planner.models import catalogue, recorded
from planner.models.sources import hub
from planner.models.sources.configs import complete
from planner.models.sources.families.registry import builder
from planner.models.sources.layout import parameter_shapes
from planner.models.sources.reading import ConfigReading
from planner.models.sources.schema import MAX_PARAMETERS

__all__ = ["from_config", "load_config", "load_model", "parameter_shapes"]

_HEADS = {
    "T5WithLMHeadModel": "seq2seq",
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForMaskedLM": "masked",
    "ForSequenceClassification": "classification",
    "ForConditionalGeneration": "seq2seq",
}
_NO_HEAD_OF_ITS_OWN = ("Model", "ForPreTraining", "PreTrainedModel")
"""Class endings that leave the head to the family's default task."""


def load_model(name_or_path: str, *, task: str | None = None) -> ModelSpec:
    """The spec of a model given by catalogue name, hub id, config.json or a folder that holds one.

    `task` replaces the head that the config names: `causal`, `masked`, `seq2seq` or `classification`.
    """
    config, identity, origin = load_config(name_or_path)
    return from_config(config, identity, task=task, origin=origin)


def load_config(name_or_path: str) -> tuple[dict[str, object], str, str]:
    """The raw config of a model, its id, and where it was found (for messages)."""
    text = str(name_or_path).strip()
    if not text:
        raise InvalidInput(named("model"), " is empty; give a catalogue name, a hub id or the path of a config.json")
    path = expanded(text)
    if os.path.isdir(path):  # pathlib raises where a name is too long to be one
        file = path / "config.json"
        if not file.is_file():
            raise InvalidInput(f"{text}: the folder holds no config.json{_adapter_hint(path)}")
        return _read_file(file), text, str(file)
    if os.path.isfile(path):
        return _read_file(path), text, text
    if path.suffix == ".json" or text.startswith((".", "/", "~")):
        raise InvalidInput(f"{text}: no such file or folder")
    known = catalogue.look_up(text)
    if known is not None:
        return _catalogued(known)
    if hub.is_hub_id(text):
        cached = hub.cached_config(text)
        if cached is not None:
            return _read_file(cached), text, str(cached)
        try:
            return hub.fetch_config(text), text, f"{text}/config.json"
        except hub.Unreachable as error:
            raise InvalidInput(f"model {text!r} is not known here and {error}{_near(text)}; {_WAY_OUT}") from None
    raise InvalidInput(f"model {text!r} is unknown{_near(text)}; {_WAY_OUT}")


def _catalogued(found: catalogue.Found) -> tuple[dict[str, object], str, str]:
    """The catalogue's dimensions under the name that was asked for; a file of that very model that is here already and
    says otherwise is believed instead.
    """
    config = dict(catalogue.entry(found.name).config)
    cached = hub.cached_config(found.hub_id)
    if cached is not None:
        own = _read_file(cached)
        sizes = {key: value for key, value in config.items() if isinstance(value, int)}
        if any(key in own and own[key] != size for key, size in sizes.items()):
            return own, found.spelling, str(cached)
    return config, found.spelling, f"catalogue entry {found.name}"


def identity_notes(name: str) -> list[str]:
    """Which model of the hub a short name means, where the name itself does not say it."""
    found = None if expanded(name).exists() else catalogue.look_up(name)
    if found is None or found.spelling.rsplit("/", 1)[-1].lower() == found.hub_id.rsplit("/", 1)[-1].lower():
        return []
    return [f"{found.spelling} is {found.hub_id}."]


_WAY_OUT = "'plan models' lists all, and the path of a config.json is accepted too"


def _adapter_hint(folder: Path) -> str:
    """What to give instead of a folder without a config.json; an adapter's folder names its base model."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return "; give a folder or file that does"
    base = _read_file(file).get("base_model_name_or_path")
    return f", but an adapter of {shown(base)}; give that base model"


def _near(name: str) -> str:
    import difflib  # only wrong names pay for it

    wanted = name.lower().rsplit("/", 1)[-1]
    candidates = [spelling for spelling in catalogue.spellings() if "/" not in spelling]
    # What was begun and not finished is nearer than what is spelt alike.
    begun = sorted((item for item in candidates if item.startswith(wanted)), key=len) if len(wanted) > 1 else []
    close = [*begun, *difflib.get_close_matches(wanted, candidates, n=4, cutoff=0.6)]
    found = list(dict.fromkeys(close))[:4]
    return f"; near: {', '.join(found)}" if found else ""


def _read_file(path: Path) -> dict[str, object]:
    return hub.parse_config(text_file.read(path, str(path), max_bytes=hub.MAX_BYTES), str(path))


def from_config(
    config: Mapping[str, object], id: str, *, task: str | None = None, origin: str | None = None
) -> ModelSpec:
    """The spec that a config.json's contents describe.

    `origin` is the file or name that messages cite (default: `id`). Missing keys take the defaults of transformers'
    config class; an architecture that isn't modelled is refused by name.
    """
    place = origin or id
    if "model_type" not in config:
        raise InvalidInput(f"{place}: key model_type is missing, so it is no transformers config.json")
    if not isinstance(config["model_type"], str):
        raise InvalidInput(f"{place}: model_type is {shown(config['model_type'])}, but must be a name")
    raw = as_published(text_part(config))
    model_type = raw["model_type"]
    if not isinstance(model_type, str):
        raise InvalidInput(f"{place}: text_config.model_type is {shown(model_type)}, but must be a name")
    stored = quantised.found_in(raw)
    if stored is not None and isinstance(
        raw.get("quantization_config", {}), Mapping
    ):  # else the schema names the value
        raise NotModelled(f"{place}: ", quantised.refusal(stored, _unquantised(id, config)))
    if model_type not in architectures.supported():
        return _recorded(raw, id, task, place)
    build, facts = builder(model_type, place), architectures.of(model_type)
    if raw.get("is_decoder") and facts.task == "masked":
        raise NotModelled(f"{place}: {model_type} as a decoder (is_decoder) is not modelled")
    asked = task or _task(raw, facts.task, place)
    allowed: dict[str, HeadTask] = {facts.task: facts.task}
    if facts.classifies:
        allowed["classification"] = "classification"
    if (chosen := allowed.get(asked)) is None:
        raise NotModelled(
            f"{place}: task {asked!r} is not modelled for {model_type}; it does {', '.join(sorted(allowed))}"
        )
    try:
        completed = complete(raw)
        reading = ConfigReading(
            config=completed, origin=place, given=frozenset(raw), task=chosen, labels=_labels(raw, place)
        )
        built = build(reading, id)
        if built.parameters > MAX_PARAMETERS:
            raise InvalidInput(f"{built.parameters:.3g} parameters, but more than {MAX_PARAMETERS:.0e} no model has")
        return built
    except TuneplanError as error:
        if str(error).startswith(place):
            raise
        raise type(error)(f"{place}: ", error.sentence) from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InvalidInput(f"{place}: malformed config ({error.__class__.__name__}: {clause(error)})") from error


def _unquantised(id: str, config: Mapping[str, object]) -> str | None:
    """The model of the catalogue that a quantised copy was made of, where its name or its file says so."""
    known = (catalogue.look_up(name) for name in quantised.originals(id, config))
    return next((found.hub_id for found in known if found is not None), None)


def _recorded(raw: Mapping[str, object], id: str, task: str | None, place: str) -> ModelSpec:
    """The spec of a network without a written program, as it was learned (planner.models.recorded)."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}", str(raw["model_type"])):
        raise InvalidInput(f"{place}: model_type is {shown(raw['model_type'])}, but must be a name")
    found = recorded.spec_of(raw, id)
    if task not in (None, found.task):
        raise NotModelled(f"{place}: task {task!r} is not modelled for {found.architecture}; it does {found.task}")
    return found


def _task(raw: Mapping[str, object], default: str, place: str) -> str:
    """Task by the head that `architectures` names, else the family's own."""
    named = raw.get("architectures") or []
    if not isinstance(named, list) or not named:
        return default
    name = str(named[0])
    for ending, task in _HEADS.items():
        if name.endswith(ending):
            return task
    if name.endswith(_NO_HEAD_OF_ITS_OWN) and not name.endswith("EncoderModel"):
        return default
    raise NotModelled(f"{place}: head {shown(name)} is not modelled; {default} and classification heads are")


def _labels(raw: Mapping[str, object], place: str) -> int:
    """Classes of a classification head, 2 where the config doesn't say."""
    names = raw.get("id2label")
    if isinstance(names, Mapping):
        return max(1, len(names))
    count = raw.get("num_labels", 2)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InvalidInput(f"{place}: num_labels is {shown(count)}, but must be a whole number of at least 1")
    return count
