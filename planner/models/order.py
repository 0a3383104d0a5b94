"""The order in which models are shown: by family, the most used first, in each the newest version first."""

from __future__ import annotations

import re

FAMILIES: tuple[tuple[str, str], ...] = (
    ("Llama", r"(meta-)?llama"),
    ("Qwen", r"qwen(?!\d-embedding)|qwq"),
    ("Gemma", r"gemma-?|codegemma"),
    ("Mistral", r"mistral|ministral|mixtral|mathstral|devstral"),
    ("Phi", r"phi-"),
    ("DeepSeek", r"deepseek"),
    ("gpt-oss", r"gpt-oss"),
    ("SmolLM", r"smollm"),
    ("OLMo", r"olmo-?"),
    ("GLM", r"glm-"),
    ("Granite", r"granite|powerlm"),
    ("Falcon", r"falcon-?"),
    ("LFM", r"lfm"),
    ("MiniCPM, MiniMax, Hunyuan", r"minicpm|minimax|hunyuan"),
    ("EXAONE, ERNIE, Kimi, Apertus", r"exaone|ernie|kimi|apertus|internlm|jamba|jais|youtu|salamandra|megrez|cwm"),
    ("Cohere", r"aya|c4ai|command"),
    ("Code", r"codellama|starcoder|santacoder|gpt_bigcode|stable-code|mellum|iquest|sqlcoder|swe-agent"),
    (
        "Tuned by others",
        r"hermes|nous-|dolphin|xlam|jan-|lynx|wizardlm|harmbench|neuralmonarch|prometheus|kunoichi|sauerkraut"
        r"|openreasoning|baichuan|vicuna|zephyr",
    ),
    (
        "Small and older",
        r"gpt2|gpt|distilgpt|pythia|tinyllama|stablelm|yi|open-llama|amber|opt-|xglm|redpajama|persimmon|biogpt",
    ),
    (
        "Sentence encoders",
        r"qwen\d-embedding|bge|gte|e5|multilingual-e5|all-|multi-qa|paraphrase|labse|snowflake|mxbai|uae|gist|stella|denseon"
        r"|modernbert-embed",
    ),
    ("Encoders: classification, masked words", r"bert|roberta|distil|modernbert|xlm"),
    ("Encoder and decoder", r"t5|flan|mt5|m2m100"),
)
"""Family and how its names begin; the most used first."""
OTHERS = "Others"


def family_of(name: str) -> str:
    """The family of a model by its name without the owner."""
    short = name.rsplit("/", 1)[-1].lower()
    return next((title for title, pattern in FAMILIES if re.match(pattern, short)), OTHERS)


def model_order(name: str, parameters: int | None) -> tuple[int, bool, list[float], int, str]:
    """Families in their order, in each the newest version first, then the smaller model; of unknown size last."""
    titles = [title for title, _ in FAMILIES]
    family = family_of(name)
    place = titles.index(family) if family in titles else len(titles)
    return place, parameters is None, [-part for part in version_of(name)], parameters or 0, name


def version_of(name: str) -> tuple[float, ...]:
    """The version in a model's name: 3.2 of `Llama-3.2-1B`, 3 of `qwen3-8b`; sizes are none."""
    short = name.rsplit("/", 1)[-1].lower()
    for number, unit in re.findall(r"(\d+(?:\.\d+)?)([a-z]*)", short):
        if not re.fullmatch(r"[bm](?:it)?|x\d.*", unit):
            return (float(number),)
    return (0.0,)
