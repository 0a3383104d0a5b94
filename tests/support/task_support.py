"""Tiny BERT, T5 and classifier folders with a word tokenizer made here, and data for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = [*("red", "green", "blue"), *("one", "two", "three", "four"), *("cat", "dog", "bird")]
WORDS += ["good", "bad", "fine", "awful", "say", "not", "very", "is", "the", "a"]


def word_tokenizer(kind: str) -> Any:
    """Whole words; `bert` closes with [SEP] after [CLS], `t5` with </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if kind == "bert" else ["<pad>", "</s>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=special[1] if kind == "bert" else special[2]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "bert":
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        return PreTrainedTokenizerFast(tokenizer_object=made, mask_token="[MASK]", **names)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def bert_folder(folder: Path) -> Path:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = word_tokenizer("bert")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def t5_folder(folder: Path) -> Path:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = word_tokenizer("t5")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(path: Path, count: int = 48) -> Path:
    rows = [{"text": f"the {WORDS[7 + n % 3]} is {WORDS[n % 3]} one two three"} for n in range(count)]
    return write_jsonl(path, rows)


def labelled(path: Path, count: int = 64) -> Path:
    """`good` and `fine` are praise, the others blame."""
    judged = [("good", "praise"), ("awful", "blame"), ("fine", "praise"), ("bad", "blame")]
    rows = []
    for number in range(count):
        word, label = judged[number % 4]
        rows.append({"text": f"the {WORDS[7 + number % 3]} is {'very ' * (number % 2)}{word}", "label": label})
    return write_jsonl(path, rows)


def questions(path: Path, count: int = 48) -> Path:
    numbers = ["one", "two", "three", "four"]
    rows = [{"prompt": f"say {numbers[n % 4]} {'very ' * (n % 3)}", "completion": numbers[n % 4]} for n in range(count)]
    return write_jsonl(path, rows)
