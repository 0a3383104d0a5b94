"""Lengths of a data set under the model's own chat template are those of the tokens that the trainer makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner import dataset
from planner.contract.data.reader import read_examples
from planner.contract.records import DataSettings
from trainer.data.tokens import tokenize

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def rows(shape: str) -> list[dict[str, Any]]:
    """Twenty examples of uneven length."""
    if shape == "text":
        return [{"text": "ab " * (number % 7 + 2)} for number in range(20)]
    if shape == "pairs":
        return [{"prompt": "q " * (number % 5 + 1), "completion": "ab" * (number % 3 + 1)} for number in range(20)]
    turn = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi there"}]
    return [{"messages": turn * (number % 3 + 1)} for number in range(20)]


@pytest.mark.parametrize("shape", ["text", "pairs", "chats"])
@pytest.mark.parametrize("template", [None, CHATML])
def test_lengths_are_those_that_run(model: Path, tmp_path: Path, shape: str, template: str | None) -> None:
    from transformers import AutoTokenizer

    reader = AutoTokenizer.from_pretrained(model)
    reader.chat_template = template or reader.chat_template
    reader.save_pretrained(tmp_path / "tokenizer")
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(shape)))
    planned = dataset.profile(file, tokenizer=tmp_path / "tokenizer")
    run = tokenize(read_examples(DataSettings(path=str(file))), reader, max_length=4096)
    assert reader.chat_template
    assert sorted(planned.lengths) == sorted(run.lengths)
