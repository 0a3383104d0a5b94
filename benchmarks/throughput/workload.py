"""The model, the data and the settings that every contender gets."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAD, EOS, UNKNOWN = 0, 1, 2
RAGGED, FIXED = "ragged", "fixed"

SMALL: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
BILLION: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
"""Dimensions of Llama-3.2-1B (its config.json, read 2026-11), with the small vocabulary of this benchmark."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is trained on what."""

    dimensions: dict[str, Any]
    precision: str
    """fp32 or bf16; adapters are fp32, as PEFT makes them."""
    sequences: int
    """Of the ragged data."""
    shortest: int
    longest: int
    median: int
    """Median of the log-normal distribution of lengths, which is cut at both ends."""
    sigma: float = 0.8
    """Its standard deviation, in natural logarithms."""
    fixed_sequences: int
    fixed_length: int
    batch_size: int = 8
    vocabulary: int = 32_000
    lora_r: int = 8
    learning_rate: float = 1e-12
    """So small that no weight changes, which makes the mean loss of an epoch the same in whatever order."""
    seed: int = 7

    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": None,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            **self.dimensions,
        }

    def lengths(self, data: str, *, metered: bool = False) -> list[int]:
        """Tokens of each sequence. Metered: the heaviest micro-batch of an epoch, and the lightest as another step."""
        if data == FIXED:
            return [self.fixed_length] * (2 * self.batch_size if metered else self.fixed_sequences)
        generator, found = random.Random(self.seed), []
        for _ in range(self.sequences):
            length = round(self.median * generator.lognormvariate(0.0, self.sigma))
            found.append(min(self.longest, max(self.shortest, length)))
        found[0] = self.longest  # whatever was drawn, the peak is that of the longest sequence
        if not metered:
            return found
        ranked = sorted(found, reverse=True)
        return ranked[: self.batch_size] + ranked[-self.batch_size :]

    def sequences_of(self, data: str, *, metered: bool = False) -> list[list[int]]:
        """Token ids; each sequence ends with the end-of-sequence token."""
        generator = random.Random(self.seed + 1)
        return [
            [*(generator.randrange(UNKNOWN + 1, self.vocabulary) for _ in range(length - 1)), EOS]
            for length in self.lengths(data, metered=metered)
        ]


CPU = Workload(
    dimensions=SMALL,
    precision="fp32",
    sequences=96,
    shortest=32,
    longest=1024,
    median=256,
    fixed_sequences=24,
    fixed_length=512,
)
QUICK = dataclasses.replace(CPU, sequences=48, longest=256, median=64, fixed_sequences=16, fixed_length=128)
CUDA = dataclasses.replace(
    CPU,
    dimensions=BILLION,
    precision="bf16",
    sequences=192,
    longest=2048,
    median=512,
    fixed_sequences=96,
    fixed_length=1024,
)


def chosen(device: str, *, quick: bool) -> Workload:
    """The workload of a device; the quick one has a quarter of the lengths."""
    if not quick:
        return CPU if device == "cpu" else CUDA
    return QUICK if device == "cpu" else dataclasses.replace(CUDA, sequences=64, fixed_sequences=32)


def write(folder: Path, workload: Workload) -> None:
    """The model with random weights and its word-level tokenizer, as a folder that any trainer loads."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<eos>": EOS, "<unk>": UNKNOWN}
    words |= {word(number): number for number in range(UNKNOWN + 1, workload.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="right"
    )
    made.save_pretrained(folder)
    config = workload.config()
    torch.manual_seed(workload.seed)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(config.pop("model_type"), **config),
        dtype=torch.float32 if workload.precision == "fp32" else torch.bfloat16,
    )
    model.save_pretrained(folder)


def word(token: int) -> str:
    """The word that the tokenizer turns into `token`."""
    return f"w{token}"


def write_text(path: Path, sequences: list[list[int]]) -> None:
    """The sequences as text lines without their last token, which our trainer adds itself."""
    lines = [json.dumps({"text": " ".join(map(word, sequence[:-1]))}) for sequence in sequences]
    path.write_text("\n".join(lines) + "\n")
