"""GGUF's vocabulary of SentencePiece-like tokenizers gives the tokens that the tokenizer gives."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from planner.contract.errors import NotModelled
from tests.support import small_tokenizers

pytest.importorskip("gguf")

TEXTS = ["the plan", "user assistant memory plan", " two  blanks", "Größe 世界 🙂", "abcdef\nword 123", "x", ""]


def written(folder: Path, kind: str, whole: dict[str, Any] | None = None, **model: object) -> dict[str, Any]:
    """The fields of a GGUF file that holds nothing but the vocabulary."""
    import gguf

    from trainer.publish.vocabulary import add_tokenizer

    small_tokenizers.write(folder, kind)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] |= model
    if whole is not None:
        content |= whole
    (folder / "tokenizer.json").write_text(json.dumps(content))
    size = len(content["model"]["vocab"]) + 3
    (folder / "config.json").write_text(json.dumps({"vocab_size": size, "bos_token_id": 0, "eos_token_id": [1]}))
    writer = gguf.GGUFWriter(str(folder / "v.gguf"), "llama")
    add_tokenizer(writer, folder)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = gguf.GGUFReader(str(folder / "v.gguf")).fields
    return {name.rpartition("ggml.")[2]: field.contents() for name, field in fields.items() if "tokenizer" in name}


def joined_by_score(text: str, vocabulary: dict[str, Any]) -> list[int]:
    """As llama.cpp's SPM tokenizer does it: of all neighbours the pair with the best piece, the leftmost of equals."""
    ids = {token: place for place, token in enumerate(vocabulary["tokens"])}
    text = " " + text if vocabulary["add_space_prefix"] and text else text
    symbols = list(text.replace(" ", "▁"))
    while True:
        pairs = [
            (-vocabulary["scores"][ids[left + right]], place)
            for place, (left, right) in enumerate(pairwise(symbols))
            if left + right in ids
        ]
        if not pairs:
            break
        _, place = min(pairs)
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
    found: list[int] = []
    for symbol in symbols:
        found += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


def test_scores_join_as_the_merges_do(tmp_path: Path) -> None:
    """GIVEN a tokenizer with Llama 2's parts WHEN its GGUF is tokenized by scores THEN the tokens are its own; it says
    that a text begins with <s> and a blank, and which pieces are bytes."""
    import gguf
    from tokenizers import Tokenizer

    vocabulary = written(tmp_path, "llama2")
    own = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert joined_by_score(text, vocabulary) == own.encode(text, add_special_tokens=False).ids, text
    assert vocabulary["model"] == "llama"
    assert vocabulary["add_bos_token"] is True
    assert vocabulary["add_eos_token"] is False
    assert vocabulary["add_space_prefix"] is True
    kinds = dict(zip(vocabulary["tokens"], vocabulary["token_type"], strict=True))
    assert kinds["<0x0A>"] == gguf.TokenType.BYTE
    assert kinds["<unk>"] == gguf.TokenType.UNKNOWN
    assert kinds["<s>"] == gguf.TokenType.CONTROL
    assert kinds["▁"] == gguf.TokenType.NORMAL


def likeliest(text: str, vocabulary: dict[str, Any]) -> list[int]:
    """As llama.cpp's Unigram tokenizer does it: the division of the whole text whose scores have the largest sum, a
    character without a piece as unknown, unknown ones beside each other as one."""
    import gguf

    normal = [int(kind) == gguf.TokenType.NORMAL for kind in vocabulary["token_type"]]
    ids = {token: place for place, token in enumerate(vocabulary["tokens"]) if normal[place]}
    unknown, scores = vocabulary["unknown_token_id"], vocabulary["scores"]
    lowest = min(score for score, counts in zip(scores, normal, strict=True) if counts) - 10
    text = (" " + text if vocabulary["add_space_prefix"] and text else text).replace(" ", "▁")
    best: list[tuple[float, int, int]] = [(0.0, 0, unknown)] + [(float("-inf"), 0, unknown)] * len(text)
    for start in range(len(text)):
        ways = [(end, ids[text[start:end]]) for end in range(start + 1, len(text) + 1) if text[start:end] in ids]
        if start + 1 not in {end for end, _ in ways}:
            ways.append((start + 1, unknown))
        for end, token in ways:
            score = best[start][0] + (lowest if token == unknown else scores[token])
            if score > best[end][0]:
                best[end] = (score, start, token)
    found: list[int] = []
    end = len(text)
    while end:
        _, end, token = best[end]
        if not (found and found[-1] == token == unknown):
            found.append(token)
    return found[::-1]


@pytest.mark.parametrize("prepend", ["always", "never"])
def test_probabilities_divide_as_the_tokenizer_does(prepend: str, tmp_path: Path) -> None:
    """GIVEN a Unigram tokenizer WHEN its GGUF is tokenized by llama.cpp's rule THEN the tokens are its own."""
    import gguf
    from tokenizers import Tokenizer

    before = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend, "split": True}
    vocabulary = written(tmp_path, "unigram", {"normalizer": None, "pre_tokenizer": before})
    own = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        if not (prepend == "always" and text.startswith(" ")):  # a blank of its own counts as the one before the text
            assert likeliest(text, vocabulary) == own.encode(text, add_special_tokens=False).ids, text
    assert vocabulary["model"] == "t5"
    assert vocabulary["add_space_prefix"] is (prepend == "always")
    assert vocabulary["remove_extra_whitespaces"] is False
    kinds = dict(zip(vocabulary["tokens"], vocabulary["token_type"], strict=True))
    assert kinds["<unk>"] == gguf.TokenType.UNKNOWN
    assert kinds["<s>"] == gguf.TokenType.CONTROL


def test_a_table_of_characters_goes_along(tmp_path: Path) -> None:
    """GIVEN SentencePiece's own normalizer THEN its table's bytes stand in the file."""
    table = {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABhAGI="}
    before = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    vocabulary = written(tmp_path, "unigram", {"normalizer": table, "pre_tokenizer": before})
    assert bytes(vocabulary["precompiled_charsmap"]) == b"\x04\0\0\0\0\0\0\0a\0b"


@pytest.mark.parametrize(
    ("kind", "model", "word"),
    [
        ("unigram", {}, "NFKC before its pieces"),
        ("unigram", {"byte_fallback": True}, "bytes for unknown characters"),
        ("unigram", {"unk_id": None}, "without one for unknown"),
        ("unigram", {"vocab": [["<unk>", 0.0], ["a▁b", -1.0]], "unk_id": 0}, "hold blanks"),
        ("wordpiece", {}, "type WordPiece"),
        ("llama2", {"merges": [["a", "b"], ["c", "d"], ["", "ab"]]}, "merges don't follow"),
    ],
)
def test_what_llama_cpp_has_no_equal_of_is_refused(kind: str, model: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(NotModelled, match=word):
        written(tmp_path, kind, **model)


def test_a_normalizer_that_llama_cpp_lacks_is_refused(tmp_path: Path) -> None:
    from trainer.publish.vocabulary import _prefixed

    small_tokenizers.write(tmp_path, "llama2")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["normalizer"]["normalizers"].append({"type": "Lowercase"})
    with pytest.raises(NotModelled, match="Lowercase"):
        _prefixed(content)


def test_bytes_of_gpt2_and_llama3_say_what_is_added(tmp_path: Path) -> None:
    """Only where the tokenizer itself puts <s> before a text does llama.cpp."""
    for kind, adds in (("gpt2", False), ("llama3", True)):
        folder = tmp_path / kind
        folder.mkdir()
        vocabulary = written(folder, kind)
        assert vocabulary["model"] == "gpt2"
        assert vocabulary["add_bos_token"] is adds
