"""Fingerprints of a base model's weights and of a tokenizer: small texts that differ where the things do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from planner.contract.errors import InvalidInput
from trainer.weights import model_files
from trainer.weights.model_files import ModelFiles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 256
"""Bytes of one sample of a tensor."""
SAMPLES = 4
"""Samples of a tensor, the first at its beginning, the last at its end."""


def of_weights(files: ModelFiles) -> str | None:
    """Fingerprint of all weights: every tensor's name, type and shape, and a kilobyte of its values; None without any.

    Caught: another base, another size or release of it, one trained further or merged with an adapter (that changes
    every tensor it touches throughout), another number type, tensors added or missing. Not caught: a few values changed
    between the samples. How the tensors are spread over files makes no difference, so a copy in other parts is the
    same base. 8 B parameters in 291 tensors take 1,200 reads, some milliseconds; no tensor is read whole.
    """
    if not files.weights:
        return None
    digest = hashlib.blake2b(digest_size=16)
    streams = {path: path.open("rb") for path in files.weights}
    try:
        for name, (path, entry) in sorted(files.entries().items()):
            digest.update(json.dumps([name, entry.dtype, entry.shape]).encode())
            stream = streams[path]
            for number in range(SAMPLES if entry.size > SAMPLE else 1):
                stream.seek(entry.start + max(0, entry.size - SAMPLE) * number // max(1, SAMPLES - 1))
                digest.update(stream.read(min(SAMPLE, entry.size)))
    finally:
        for stream in streams.values():
            stream.close()
    return digest.hexdigest()


def of_model(model: str) -> str | None:
    """As `of_weights`, of a folder or a hub id."""
    return of_weights(model_files.find(model))


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Fingerprint of what turns text into numbers: vocabulary, special tokens and chat template.

    How words are split shows in the data's own fingerprint, which is made of the numbers.
    """
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    content = [sorted(tokenizer.get_vocab().items()), special, tokenizer.chat_template]
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def check_base(adapter: Path, base: str, what: str = "") -> None:
    """Refuses an adapter over other weights than it was trained over, where it says which those were.

    `what` stands before a message.
    """
    note = adapter / "task.json"
    was = model_files.read_json(note).get("base_weights") if note.is_file() else None
    if was is None or was == of_model(base):
        return
    raise InvalidInput(
        f"{what}{adapter}: this adapter was trained over other weights than {base} holds; name or put back the base "
        f"that it was trained over (or take `base_weights` out of {note}, to use it over these all the same)"
    )
