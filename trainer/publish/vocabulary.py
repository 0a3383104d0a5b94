"""A tokenizer.json as GGUF's vocabulary: byte-level BPE as llama.cpp's `gpt2`, SentencePiece's BPE as its `llama`,
SentencePiece's Unigram as its `t5`.

Source: llama.cpp `convert_hf_to_gguf.py` (`_set_vocab_gpt2`, `_set_vocab_llama_hf`, `T5Model.set_vocab`) and
`llama-vocab.cpp` (`llm_tokenizer_spm`, `llm_tokenizer_ugm`), 2026-11. Of BPE, llama.cpp joins the neighbours whose
joined piece has the highest score, tokenizer.json those whose merge stands first: so a piece's score is minus the place
of its merge, which takes that all merges that make a piece stand together, as in files made from SentencePiece's.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from planner.contract import json_text
from planner.contract.errors import NotModelled

PRE_TOKENIZERS = {
    r"\p{N}{1,3}": "llama-bpe",
    r"\p{L}+|\p{N}|": "qwen2",
}
"""A piece of the splitting pattern -> the name that llama.cpp has for it; no pattern is GPT-2's."""
ELSEWHERE = "write a folder (--to folder --merged) and take llama.cpp's convert_hf_to_gguf.py"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BLANK = "▁"


def add_tokenizer(writer: Any, folder: Path) -> None:
    """Tokens, merges or scores, special tokens and chat template, into the writer.

    Raises `NotModelled` for kinds that llama.cpp has no equal of, or whose name there isn't known here.
    """
    content = json_text.read_object(folder / "tokenizer.json", max_bytes=256 * 1024**2, max_values=10_000_000)
    model = content["model"]
    if model.get("type") not in ("BPE", "Unigram"):
        raise NotModelled(f"GGUF of a tokenizer of type {model.get('type')} is not written here; {ELSEWHERE}")
    size = int(json_text.read_object(folder / "config.json")["vocab_size"])
    if model["type"] == "Unigram":
        tokens = _unigram(writer, content, size)
    elif model.get("byte_fallback"):
        tokens = _sentencepiece(writer, content, size)
    else:
        tokens = _byte_level(writer, content, size)
    _special(writer, folder, content, tokens)
    template = folder / "chat_template.jinja"
    settings = folder / "tokenizer_config.json"
    text = template.read_text(encoding="utf-8") if template.is_file() else None
    if text is None and settings.is_file():
        found = json_text.read_object(settings).get("chat_template")
        text = found if isinstance(found, str) else None
    if text:
        writer.add_chat_template(text)


def _byte_level(writer: Any, content: dict[str, Any], size: int) -> list[str]:
    pattern = json.dumps(content.get("pre_tokenizer") or {}, ensure_ascii=False).replace("\\\\", "\\")
    pre = next((name for piece, name in PRE_TOKENIZERS.items() if piece in pattern), None)
    if pre is None and "Split" in pattern:
        raise NotModelled(f"llama.cpp's name for this tokenizer's splitting is not known here; {ELSEWHERE}")
    tokens, types = _tokens(content, size)
    merges = [" ".join(pair) for pair in _merges(content)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre or "gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges or [f"{tokens[0]} {tokens[0]}"])
    return tokens


def _sentencepiece(writer: Any, content: dict[str, Any], size: int) -> list[str]:
    """Pieces that begin with ▁ for a blank, bytes as `<0x0A>` where a text has a character without a piece."""
    import gguf

    tokens, types = _tokens(content, size)
    unknown = content["model"].get("unk_token")
    user = {item["content"] for item in content.get("added_tokens") or [] if not item.get("special")}
    for place, token in enumerate(tokens):
        if token == unknown:
            types[place] = int(gguf.TokenType.UNKNOWN)
        elif _BYTE.fullmatch(token):
            types[place] = int(gguf.TokenType.BYTE)
        elif token in user:  # such a token is looked for in the text before blanks become ▁
            tokens[place] = token.replace(_BLANK, " ")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(_scores(content, size))
    writer.add_token_types(types)
    writer.add_add_space_prefix(_prefixed(content))
    return tokens


def _unigram(writer: Any, content: dict[str, Any], size: int) -> list[str]:
    """Pieces with the logarithms of their probabilities: both sides take the likeliest division of the whole text.

    llama.cpp has no bytes there for characters without a piece, and looks for pieces across blanks.
    """
    model, steps = content["model"], _steps(content)
    if model.get("byte_fallback"):
        raise NotModelled(f"GGUF of Unigram pieces with bytes for unknown characters is not written here; {ELSEWHERE}")
    split = any(part.get("type") == "Metaspace" and part.get("split", True) for part in steps)
    if split and any(_BLANK in piece[1:] for piece, _ in model["vocab"]):
        raise NotModelled(f"GGUF of Unigram pieces that hold blanks, in words apart, is not written here; {ELSEWHERE}")
    pieces = {piece: place for place, (piece, _) in enumerate(model["vocab"])}
    tokens, types = _tokens({**content, "model": {**model, "vocab": pieces}}, size)
    scores = [0.0] * size
    for place, (_, score) in enumerate(model["vocab"]):
        scores[place] = float(score)
    unknown = model.get("unk_id")
    if not isinstance(unknown, int) or not 0 <= unknown < len(pieces):
        raise NotModelled(f"GGUF of Unigram pieces without one for unknown characters is not written here; {ELSEWHERE}")
    import gguf

    types[unknown] = int(gguf.TokenType.UNKNOWN)
    maps = [part["precompiled_charsmap"] for part in steps if part.get("type") == "Precompiled"]
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(unknown)
    writer.add_add_space_prefix(_prefixed(content, charsmap=len(maps) == 1))
    writer.add_remove_extra_whitespaces(False)
    if maps:
        writer.add_precompiled_charsmap(base64.b64decode(maps[0]))
    return tokens


def _scores(content: dict[str, Any], size: int) -> list[float]:
    """Minus the place of the merge that makes a piece; what no merge makes is joined last."""
    vocabulary: dict[str, int] = content["model"]["vocab"]
    order: dict[str, int] = {}
    last = None
    for left, right in _merges(content):
        piece = left + right
        if piece != last and piece in order:
            raise NotModelled(
                f"this tokenizer's merges don't follow from scores of pieces, which llama.cpp takes; {ELSEWHERE}"
            )
        order.setdefault(piece, len(order))
        last = piece
    scores = [-float(len(order) + 1)] * size
    for piece, rank in order.items():
        if piece in vocabulary:
            scores[vocabulary[piece]] = -float(rank)
    return scores


def _steps(content: dict[str, Any]) -> list[dict[str, Any]]:
    """What is done to a text before its pieces are looked for, in order."""
    steps: list[dict[str, Any]] = [content[name] for name in ("normalizer", "pre_tokenizer") if content.get(name)]
    return [part for step in steps for part in (step.get("normalizers") or step.get("pretokenizers") or [step])]


def _prefixed(content: dict[str, Any], *, charsmap: bool = False) -> bool:
    """Whether a text is read as if a blank stood before it; raises `NotModelled` for what llama.cpp lacks.

    `charsmap`: SentencePiece's table of characters goes along.
    """
    found = False
    for part in _steps(content):
        kind = part.get("type")
        blank = part.get("pattern", {}).get("String") == " " and part.get("content") == _BLANK
        if kind == "Prepend" and part.get("prepend") == _BLANK:
            found = True
        elif kind == "Metaspace" and part.get("replacement", _BLANK) == _BLANK:
            found = found or part.get("prepend_scheme", "always") != "never"
        elif not (kind == "Replace" and blank) and not (charsmap and kind == "Precompiled"):
            raise NotModelled(f"GGUF of a tokenizer with {kind} before its pieces is not written here; {ELSEWHERE}")
    return found


def _merges(content: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (pair if isinstance(pair, list) else str(pair).split(" ") for pair in content["model"]["merges"])
    return [(str(left), str(right)) for left, right in pairs]


def _tokens(content: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Text and type by id; ids without a token are unused."""
    import gguf

    tokens = [f"[PAD{place}]" for place in range(size)]
    types = [int(gguf.TokenType.UNUSED)] * size
    for token, place in content["model"]["vocab"].items():
        tokens[place], types[place] = token, int(gguf.TokenType.NORMAL)
    for added in content.get("added_tokens") or []:
        special = gguf.TokenType.CONTROL if added.get("special") else gguf.TokenType.USER_DEFINED
        tokens[added["id"]], types[added["id"]] = added["content"], int(special)
    return tokens, types


def _special(writer: Any, folder: Path, content: dict[str, Any], tokens: list[str]) -> None:
    """Ids of special tokens, and which of them a text gets by itself."""
    config = json_text.read_object(folder / "config.json")
    ways = {
        "bos_token_id": writer.add_bos_token_id,
        "eos_token_id": writer.add_eos_token_id,
        "pad_token_id": writer.add_pad_token_id,
    }
    ids: dict[str, int] = {}
    for key, add in ways.items():
        value = config.get(key)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int) and 0 <= value < len(tokens):
            add(value)
            ids[key] = value
    around = _around(content.get("post_processor") or {})
    writer.add_add_bos_token("bos_token_id" in ids and tokens[ids["bos_token_id"]] in around[0])
    writer.add_add_eos_token("eos_token_id" in ids and tokens[ids["eos_token_id"]] in around[1])


def _around(processor: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Special tokens before and after a single text."""
    before: set[str] = set()
    after: set[str] = set()
    for part in processor.get("processors") or [processor]:
        side = before
        for item in part.get("single") or [] if part.get("type") == "TemplateProcessing" else []:
            if "Sequence" in item:
                side = after
            else:
                side.add(str(item["SpecialToken"]["id"]))
    return before, after
