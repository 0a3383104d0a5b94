"""The first examples as the model will see them."""

from __future__ import annotations

import json
from pathlib import Path

from planner.contract.run_settings import DataSettings
from planner.tui.samples import MOST, first_samples

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"


def test_what_is_learned_is_marked_with_and_without_a_template(tmp_path: Path) -> None:
    data = tmp_path / "chat.jsonl"
    chat = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "It is 4."}]
    data.write_text("".join(json.dumps({"messages": chat}) + "\n" for _ in range(5)))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    settings = DataSettings(path=str(data))
    plain = first_samples(settings, None)
    assert len(plain) == 3
    assert not plain[0].templated
    assert "It is 4." in "".join(text for text, learned in plain[0].pieces if learned)
    assert "2 + 2?" in "".join(text for text, learned in plain[0].pieces if not learned)
    written = first_samples(settings, tmp_path)
    assert written[0].templated
    assert "".join(text for text, _ in written[0].pieces) == "<|user|>2 + 2?<|end|><|assistant|>It is 4.<|end|>"
    assert "It is 4." in "".join(text for text, learned in written[0].pieces if learned)
    every = first_samples(settings, None, all_learned=True)
    assert all(learned for _, learned in every[0].pieces)


def test_labels_and_long_texts(tmp_path: Path) -> None:
    data = tmp_path / "labels.csv"
    data.write_text("text,label\n" + "word " * 1000 + ",good\n")
    (found,) = first_samples(DataSettings(path=str(data), format="classification"), None)
    assert found.label == "good"
    assert sum(len(text) for text, _ in found.pieces) == MOST
    assert found.cut > 4000
