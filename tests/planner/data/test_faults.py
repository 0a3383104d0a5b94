"""What is odd about the examples is named with its count and its lines, and nothing is named where nothing is odd."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.contract.choices import TrainingChoices
from planner.contract.microbatches import split_validation
from planner.contract.run_settings import DataSettings
from planner.data.dataset import DatasetProfile, profile
from planner.data.use import DataUse
from planner.decide.candidates import candidate_lengths
from planner.models import sources

Row = dict[str, Any]


def good(count: int = 120) -> list[Row]:
    """Different questions with finished answers of usual lengths."""
    draw = random.Random(3)
    words = ["stone", "river", "light", "bread", "seven"]
    return [
        {"prompt": f"What is {n}?", "completion": " ".join(draw.choice(words) for _ in range(20 + n % 30)) + "."}
        for n in range(count)
    ]


def written(folder: Path, rows: list[Row], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(found: DatasetProfile, share: float = 0.1) -> list[str]:
    return DataUse(profile=found, settings=DataSettings(validation_split=share)).faults


def test_good_data_has_none(tmp_path: Path) -> None:
    found = profile(written(tmp_path, good()))
    assert said(found) == []
    assert found.faults is not None
    assert found.faults.record()["copies"] == {"count": 0, "where": []}


def test_copies_are_counted_with_their_lines_and_sides(tmp_path: Path) -> None:
    """GIVEN copies THEN their lines are named, and as many as stand on both sides of the split are counted."""
    rows = good()
    for target, source in ((50, 3), (60, 3), (119, 7)):
        rows[target] = {name: f"  {text} " if name == "completion" else text for name, text in rows[source].items()}
    found = profile(written(tmp_path, rows))
    kept, held = split_validation(120, 0.1, 42)
    groups = ({3, 50, 60}, {7, 119})
    both = sum(index in group and bool(group & set(kept)) for index in held for group in groups)
    first = said(found)[0]
    assert first.startswith("3 of 120 examples are copies of earlier ones (rows.jsonl:51, 61, 120)")
    assert (f"{both} stand on both sides" in first) == bool(both)
    assert "both sides" not in said(found, share=0.0)[0]


def test_every_copy_on_both_sides_is_found(tmp_path: Path) -> None:
    """GIVEN each example twice THEN as many held-out ones have their copy in training as really do."""
    found = profile(written(tmp_path, good(60) * 2))
    kept, held = split_validation(120, 0.2, 42)
    truth = sum((index + 60) % 120 in set(kept) for index in held)
    assert truth > 0
    assert f"{truth} stand on both sides" in said(found, share=0.2)[0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", "1 of 120 examples has an empty answer (rows.jsonl:34)."),
        ("   \n", "1 of 120 examples has an empty answer (rows.jsonl:34)."),
        (
            "this one goes on and on until the limit of its maker cut it in the mid",
            "1 answer breaks off without an end",
        ),
        ("so many words that are said before it comes to an end, and then,", "1 answer breaks off without an end"),
        ("Here is the code:\n```python\nprint(1)\n", "1 answer breaks off within a code block (rows.jsonl:34)."),
        ("word " * 4000 + "end.", "1 of 120 examples is far longer than the others"),
    ],
)
def test_what_is_wrong_with_one_answer_is_named(tmp_path: Path, answer: str, expected: str) -> None:
    rows = good()
    rows[33]["completion"] = answer
    sentences = said(profile(written(tmp_path, rows)))
    assert len(sentences) == 1
    assert sentences[0].startswith(expected)
    if "broken" in expected or "empty" in expected:
        assert "rows.jsonl:34" in sentences[0]


@pytest.mark.parametrize("answer", ["Paris", "x = 3 * (4 + 5)", "他们去了北京。", "```sh\nls\n```", "a b c d e f g"])
def test_short_and_foreign_answers_may_end_as_they_like(tmp_path: Path, answer: str) -> None:
    rows = good()
    rows[33]["completion"] = answer
    assert said(profile(written(tmp_path, rows))) == []


def test_where_answers_usually_have_no_end_none_is_called_broken(tmp_path: Path) -> None:
    """GIVEN lists of words without a full stop throughout THEN they are this data's way."""
    rows = [{**row, "completion": row["completion"].rstrip(".")} for row in good()]
    assert said(profile(written(tmp_path, rows))) == []


def test_answers_of_next_to_nothing_are_named(tmp_path: Path) -> None:
    asked = "read this: " + "text " * 400
    rows = [{"prompt": f"{asked}{n}", "completion": f"It is the word number {n} of all of them."} for n in range(80)]
    assert any("of the text: most of the time" in sentence for sentence in said(profile(written(tmp_path, rows))))


def test_answers_of_one_word_count_as_next_to_nothing_too(tmp_path: Path) -> None:
    rows = [{"prompt": "text " * (400 + n), "completion": "yes"} for n in range(80)]
    assert any("of the text: most of the time" in sentence for sentence in said(profile(written(tmp_path, rows))))


def test_a_copy_in_other_case_and_blanks_is_one(tmp_path: Path) -> None:
    rows = good()
    rows[33] = {name: text.upper().replace(" ", "  ") for name, text in rows[5].items()}
    assert said(profile(written(tmp_path, rows)), share=0.0) == [
        "1 of 120 examples is a copy of an earlier one (rows.jsonl:34)."
    ]


def test_answers_that_all_stop_at_one_length_were_cut(tmp_path: Path) -> None:
    """GIVEN half of the answers cut at 300 characters THEN they are named though most data without an end is not."""
    rows = good(60)
    long = [{"prompt": f"Tell more of {n}", "completion": (f"number {n} and so on " * 40)[:300]} for n in range(60)]
    first = said(profile(written(tmp_path, rows + long)))
    assert first == [
        "60 answers stop at exactly 300 characters, in mid-sentence: cut when they were made "
        "(rows.jsonl:61, 62, 63, …)."
    ]
    ended = [{**row, "completion": row["completion"][:299] + "."} for row in long]
    assert said(profile(written(tmp_path, rows + ended))) == []


def test_questions_that_training_answers_in_other_words_are_named(tmp_path: Path) -> None:
    rows = good()
    written(tmp_path, rows[:100], "train.jsonl")
    written(
        tmp_path,
        [*({**row, "completion": "Quite another thing."} for row in rows[:4]), *rows[100:]],
        "validation.jsonl",
    )
    found = profile(tmp_path)
    assert any(
        sentence.startswith(
            "4 of the validation examples ask what training answers in other words (validation.jsonl:1, 2"
        )
        for sentence in said(found)
    )
    assert found.faults is not None
    assert found.faults.record()["asked_in_training"]["count"] == 4
    assert found.faults.record()["leaked"]["count"] == 0


def test_validation_that_is_trained_on_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN a folder whose validation holds five training examples THEN count and lines are said, in text and JSON."""
    rows = good()
    written(tmp_path, rows[:100], "train.jsonl")
    written(tmp_path, rows[95:], "validation.jsonl")
    words = ["--gpu", "a10g", "--model", "qwen2.5-0.5b", "--data", str(tmp_path)]
    assert main([*words, "--explain"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "5 of the validation examples stand in the training data, too (validation.jsonl:1, 2, 3, …)" in out
    assert "holds 99 % of the examples whole; the heaviest micro-batch has" in out
    assert main([*words, "--json"]) == 0
    faults = json.loads(capsys.readouterr().out)["data"]["faults"]
    assert faults["leaked"]["count"] == 5
    assert [place.rsplit(":", 1)[1] for place in faults["leaked"]["where"]] == ["1", "2", "3", "4", "5"]


def test_an_estimated_length_is_advised_at_its_upper_end(tmp_path: Path) -> None:
    """GIVEN no tokenizer THEN the first length holds the longest example even if its tokens are short."""
    path = written(tmp_path, good())
    model = sources.load_model("qwen2.5-0.5b")
    estimated, exact = profile(path), profile(path, vocab_size=256)
    assert candidate_lengths(model, TrainingChoices(), (), estimated)[0] >= estimated.longest_upper > estimated.longest
    assert candidate_lengths(model, TrainingChoices(), (), exact)[0] - exact.longest < 8
