"""Checkpoints whose weights are stored quantised: of which kind they are, and what to load in their place.

Adapters are trained on 16-bit weights or on 4- and 8-bit ones that the trainer makes of them while loading
(`--method qlora`), so a quantised copy is never needed: the model that it was made of is the one to give.
Sources: transformers 5.23, quantizers/auto.py and utils/quantization_config.py (2026-11); MLX writes `quantization`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from planner.contract.sentence import Sentence, named, sentence

KEYS = ("quantization_config", "quantization", "compression_config", "sparsity_config")
"""Keys of a config.json that say that weights are stored otherwise than as plain numbers."""
_SUFFIX = re.compile(
    r"[-_](?:unsloth-bnb-4bit|bnb-[48]bit|(?:mlx-)?[2-8]-?bit|awq(?:-int4|-4bit)?|gptq(?:-int[48]|-[48]bit)?|int[48]|fp8"
    r"(?:-dynamic|-static|-block)?|nvfp4|mxfp[48]|w[48]a(?:8|16)|quantized\.w\da\d+|mlx|dwq)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Quantised:
    """How weights are stored."""

    method: str
    """The library or format: `bitsandbytes`, `gptq`, `awq`, `fp8`, `mxfp4`, `compressed-tensors`, `mlx`."""
    bits: int | None

    def __str__(self) -> str:
        return self.method if self.bits is None else f"{self.method}, {self.bits} bits"


def found_in(config: Mapping[str, object]) -> Quantised | None:
    """How a config.json, or a part of it, says that weights are stored; None: as plain numbers."""
    for part in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        for key in KEYS:
            stored = part.get(key)
            if stored:
                return _kind(key, stored if isinstance(stored, Mapping) else {})
    return None


def _kind(key: str, stored: Mapping[str, object]) -> Quantised:
    bits = stored.get("bits")
    if stored.get("load_in_4bit") or stored.get("load_in_8bit"):
        bits = 4 if stored.get("load_in_4bit") else 8
    method = stored.get("quant_method") or ("mlx" if "group_size" in stored else key)
    whole = bits if isinstance(bits, int) and not isinstance(bits, bool) and 0 < bits <= 16 else None
    return Quantised(str(method)[:40], whole)


def originals(name: str, config: Mapping[str, object]) -> list[str]:
    """What the model may be called that a quantised copy was made of, likeliest first.

    That is the copy's name without what says that it is quantised, and what the file itself names.
    """
    said = config.get("_name_or_path")
    found = []
    for text in (name, said if isinstance(said, str) else ""):
        short = text.rstrip("/").rsplit("/", 1)[-1]
        bare, again = short, _SUFFIX.sub("", short)
        while bare != again:
            bare, again = again, _SUFFIX.sub("", again)
        if bare and bare != short:
            found.append(bare)
        elif text and text == said and text != name:
            found.append(text)
    return found


def refusal(stored: Quantised, base: str | None = None) -> Sentence:
    """Why such weights aren't trained, what to give in their place, and how that is trained as small."""
    model = base or "the model that they were made of"
    start = f"weights already quantized ({stored}) aren't trained; give {model}"
    if stored.method == "mxfp4":
        return sentence(start, " with 16-bit weights")
    small = sentence(", ", named("quantization"), " int8") if stored.bits == 8 else ""
    return sentence(start, " and ", named("method"), " qlora", small, ", which quantizes it while loading")
