"""Small tokenizers of the kinds in use, made here, and their folders."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

MARKS = ["<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>"]
PROSE = "The plan says what fits. It said so: 1234 bytes\tand   more;\n\n  def f(x):\n    return x**2  # é 世界 🙂\n"
WORDS = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def closed(form: str) -> Any:
    """A post-processor that adds special tokens."""
    return processors.TemplateProcessing(form, special_tokens=[("<s>", 0), ("</s>", 1)])


@cache
def make(kind: str) -> Tokenizer:
    """A small tokenizer of a kind in use."""
    rng = random.Random(1)
    syllables = [
        "user",
        "assistant",
        "the",
        "plan",
        "ing",
        "mem",
        "ory",
        "abc",
        "def",
        "gh",
        "ij",
        "word",
        "some",
        "and",
    ]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(3000)]
    texts = [PROSE, " ".join(words)]
    if kind in ("gpt2", "llama3"):
        made = Tokenizer(models.BPE())
        made.decoder = decoders.ByteLevel()
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind == "llama3":
            split = pre_tokenizers.Split(Regex(WORDS), "isolated")
            bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            made.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
            made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), closed("<s> $A")])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        teacher: Any = trainers.BpeTrainer(
            vocab_size=600, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "llama2":
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        marks = MARKS + [f"<0x{number:02X}>" for number in range(256)]
        teacher = trainers.BpeTrainer(vocab_size=800, special_tokens=marks, show_progress=False)
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.normalizer = pre_tokenizers.Metaspace(), normalizers.NFKC()
        made.post_processor = closed("$A </s>")
        teacher = trainers.UnigramTrainer(vocab_size=400, special_tokens=MARKS, unk_token="<unk>", show_progress=False)
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer, made.normalizer = pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()
        made.post_processor = closed("<s> $A </s>")
        teacher = trainers.WordPieceTrainer(vocab_size=600, special_tokens=MARKS, show_progress=False)
    made.train_from_iterator(texts, teacher)
    if kind == "llama2":  # as its files have it: blanks by a normalizer, no borders of words
        content = json.loads(made.to_str()) | {"pre_tokenizer": None}
        made = Tokenizer.from_str(json.dumps(content))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.post_processor = closed("<s> $A")
    return made


KINDS = ["gpt2", "llama3", "llama2", "unigram", "wordpiece"]


def write(folder: Path, kind: str, template: str | None = None, **more: Any) -> Path:
    """A tokenizer's folder of a kind, with a chat template or without."""
    make(kind).save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"} | more
    config.setdefault("tokenizer_class", "LlamaTokenizer" if kind == "llama2" else "PreTrainedTokenizerFast")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def load(folder: Path) -> Any:
    """As transformers has it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
