"""Adds models to the catalogue: `python -m benchmarks.catalogue LIST` (JSON, one object a model).

Each object has `name`, `hub_id`, `config` (path of a copy of the model's config.json), `checked` (whose copy it is) and
may have `siblings`, `aliases`, `note`, `licence`, `gated` and `licence_source`. The keys that describe the network are
kept; a type without a written program gets its description read off the network that transformers builds of it, which
is shipped beside the catalogue.
`--again [TYPE…]` reads these descriptions anew, as after a release of transformers.
"""

from __future__ import annotations

import datetime
import gzip
import json
import sys
from pathlib import Path
from typing import Any

from planner.contract.architectures import ARCHITECTURES
from planner.contract.errors import TuneplanError
from planner.contract.towers import text_part
from planner.handover.recorder import Recorder
from planner.models import catalogue, recorded
from planner.models.sources import from_config

NOISE = (
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "auto_map", "quantization_config"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "vision_config", "audio_config"),
)
OPTIONAL = ("aliases", "note", "published_parameters", "licence", "gated", "licence_source")


def slim(config: dict[str, Any]) -> dict[str, Any]:
    """The config without what says nothing of the language model's shape."""
    kept = {key: value for key, value in config.items() if key not in NOISE and not key.endswith("_token_id")}
    return {key: slim(value) if key == "text_config" else value for key, value in kept.items()}


def add(item: dict[str, Any], recorder: Recorder) -> str:
    """Writes one entry, and the description of its network where nobody wrote a program; returns what was done."""
    config = slim(json.loads(Path(item["config"]).read_text(encoding="utf-8")))
    part = text_part(config)
    entry = {
        "hub_id": item["hub_id"],
        "siblings": item.get("siblings", []),
        "source": f"https://huggingface.co/{item['hub_id']}/blob/main/config.json",
        "date": datetime.date.today().isoformat(),
        "checked": item["checked"],
        **{key: item[key] for key in OPTIONAL if key in item},
    }
    said = "" if part["model_type"] in ARCHITECTURES else describe(part, recorder)
    entry |= {"parameters": from_config(config, item["hub_id"]).parameters, "config": config}
    place = catalogue.MODELS / f"{item['name']}.json"
    place.write_text(json.dumps(entry, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return f"{item['name']}: {part['model_type']}{said}"


def describe(part: dict[str, Any], recorder: Recorder) -> str:
    """Ships the description of a network that transformers builds; returns what it is."""
    found = {"schema": recorded.SCHEMA, "shipped": True, **recorder.ask(do="describe", config=part)["spec"]}
    folder = recorded.SHIPPED / recorded.folder(part).name
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, separators=(",", ":")).encode()
    (folder / "spec.json.gz").write_bytes(gzip.compress(text, mtime=0))
    return f", {found['parameters']:,} parameters read off transformers {found['versions']['transformers']}"


def again(types: list[str], recorder: Recorder) -> None:
    """Describes the networks of the catalogue's entries anew: those of `types`, or all."""
    for entry in catalogue.entries():
        part = text_part(entry.config)
        model_type = str(part["model_type"])
        if model_type not in ARCHITECTURES and (not types or model_type in types):
            print(f"{entry.name}: {model_type}{describe(part, recorder)}", flush=True)


def main(arguments: list[str]) -> int:
    """Adds every model of the list; one that transformers can't build is told and left out."""
    recorder = Recorder()
    try:
        if arguments[0] == "--again":
            again(arguments[1:], recorder)
            return 0
        for item in json.loads(Path(arguments[0]).read_text(encoding="utf-8")):
            try:
                print(add(item, recorder), flush=True)
            except TuneplanError as error:
                print(f"{item['name']}: left out, {error}", file=sys.stderr, flush=True)
    finally:
        recorder.close()
    catalogue.write_index()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
