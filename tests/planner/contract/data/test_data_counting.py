"""The plan counts the tokens that the trainer makes: same text, same borders, same tokens learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.contract import architectures
from planner.contract.data.counting import TokenCounter
from planner.contract.data.examples import Example, Message
from planner.contract.data.reader import read_examples
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import DataSettings
from planner.data import dataset, sizes
from planner.data.lengths import lengths_of
from tests.support import small_tokenizers
from tests.support.clock import takes_at_most
from tests.support.small_tokenizers import KINDS, PROSE
from tests.support.template_kinds import CHATML, EXPECTED, THINKING_LAST
from trainer.data.tokens import IGNORED, tokenize
from trainer.tasks.classification import Classification
from trainer.tasks.masked import Masked
from trainer.tasks.seq2seq import SequenceToSequence


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a tokenizer's folder of a kind, with a template or without."""

    def write(kind: str, template: str | None = None, **more: Any) -> Path:
        return small_tokenizers.write(tmp_path_factory.mktemp(kind), kind, template, **more)

    return write


def conversation(*texts: str, shape: Any = "messages", **extras: Any) -> Example:
    messages = [
        Message(("user", "assistant")[place % 2], text, learned=place % 2 == 1) for place, text in enumerate(texts)
    ]
    if extras:
        messages[-1] = Message("assistant", texts[-1], learned=True, extras=extras)
    return Example(tuple(messages), None, "d:1", shape)


EXAMPLES = [
    conversation("Hello", "there"),
    conversation(" two  blanks \n", PROSE, "and <|im_end|>?", "<think>\nwhy\n</think>\n\nyes", "more", " é世界 🙂"),
    conversation("2+2=", "4", shape="prompt-completion"),
    conversation("Add", "4", shape="alpaca"),
    conversation("why", "so", reasoning_content="because"),
    Example(None, PROSE * 3, "d:2", "text"),
    Example(None, "ends </s>", "d:3", "text"),
    conversation("nothing is", ""),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", [None, CHATML, THINKING_LAST], ids=["plain", "chatml", "thinking"])
def test_planner_and_trainer_count_the_same(folder: Any, kind: str, template: str | None) -> None:
    place = folder(kind, template)
    counter, tokenizer = TokenCounter.read(place), small_tokenizers.load(place)
    assert counter is not None
    counted, trained = counter.count(EXAMPLES), tokenize(EXAMPLES, tokenizer, max_length=10**6)
    assert [length for length in counted.lengths if length] == trained.lengths
    assert counted.learned == sum(label != IGNORED for sequence in trained.sequences for label in sequence.labels)
    assert counted.remarks.counts == trained.remarks.counts


def test_the_models_whose_class_of_llama_is_loaded_as_it_is() -> None:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    for name in architectures.supported():
        by_file = TOKENIZER_MAPPING_NAMES.get(name) == "TokenizersBackend"
        assert architectures.of(name).tokenizer_from_file == by_file, name


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen3"])
def test_the_class_of_llama_is_built_where_transformers_builds_it(folder: Any, model_type: str) -> None:
    """By the file each stretch between special tokens begins with a blank, by the class only the first."""
    place = folder("llama2")
    (place / "config.json").write_text(json.dumps({"model_type": model_type}))
    counter, tokenizer = TokenCounter.read(place), small_tokenizers.load(place)
    assert counter is not None
    assert counter.count(EXAMPLES[1:6]).lengths == tokenize(EXAMPLES[1:6], tokenizer, max_length=9999).lengths


LABELLED = [
    Example(None, text, f"d:{text}", "classification", label=n % 2) for n, text in enumerate(("one", PROSE, ""))
]


@pytest.mark.parametrize(
    ("kind", "model_type", "task"),
    [
        ("wordpiece", "bert", Masked),
        ("unigram", "t5", SequenceToSequence),
        ("wordpiece", "bert", Classification),
        ("gpt2", "t5", Classification),  # whose tokenizer writes no end of text
    ],
)
def test_each_task_counts_by_its_own_rules(folder: Any, kind: str, model_type: str, task: Any) -> None:
    """GIVEN texts of every sort, an empty one and one without a single token THEN planner and trainer agree."""
    place = folder(kind, CHATML, mask_token="<unk>")
    (place / "config.json").write_text(json.dumps({"model_type": model_type}))
    chats = [*EXAMPLES[:5], conversation("\x00", "\x01"), conversation("nothing is", "")]
    examples = LABELLED if task is Classification else [*chats, *(EXAMPLES[5:7] if task is Masked else ())]
    counter, tokenizer, learner = (
        TokenCounter.read(place),
        small_tokenizers.load(place),
        task({"model_type": model_type}),
    )
    assert counter is not None
    counted = counter.count(examples, learner.name)
    learner.prepare(examples, tokenizer)
    trained = learner.tokenize(examples, tokenizer, max_length=10**6)
    assert [length for length in counted.lengths if length] == trained.lengths
    assert counted.lengths.count(0) == trained.skipped
    if task is SequenceToSequence:
        pairs = [(len(each.ids), len(each.labels)) for each in trained.sequences]
        assert counted.longest_pair == tuple(map(max, *pairs))


def test_what_a_task_cannot_learn_the_plan_refuses_as_the_trainer_does(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "a", "label": "x"}\n' * 2)
    with pytest.raises(InvalidInput, match=r"data\.jsonl:1: only the label 'x' occurs; a classifier needs two"):
        dataset.profile(file, task="classification")
    with pytest.raises(InvalidInput, match=r"data\.jsonl:1: an encoder-decoder model learns answers"):
        dataset.profile(file, format="text", task="seq2seq")
    file.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    beside = tmp_path / "validation.jsonl"
    beside.write_text('{"text": "c", "label": "z"}\n')
    with pytest.raises(InvalidInput, match="the label 'z' does not occur in the training data"):
        dataset.profile(file, task="classification", validation_path=str(beside))


def test_a_plan_takes_the_answers_length_from_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN long questions with short answers THEN the decoder is planned as long as those, or as it is told."""
    from planner.cli import main

    file = tmp_path / "data.jsonl"
    line = {"prompt": "what is it? " * 200, "completion": "a thing"}
    file.write_text((json.dumps(line) + "\n") * 20)
    found = dataset.profile(file, task="seq2seq")
    assert found.longest_pair is not None
    assert found.longest_pair[0] > 500 > 10 > found.longest_pair[1]

    def peak(*more: str) -> int:
        asked = ["check", "--gpu", "a10g", "--model", "t5-base", "--batch-size", "8", "--max-length", "512"]
        assert main([*asked, "--json", *more]) == 0
        return int(json.loads(capsys.readouterr().out)["memory"]["allocated_peak_bytes"])

    plain, told, data = peak(), peak("--max-target-length", "8"), peak("--data", str(file))
    assert told < data + 2**24
    assert data < 0.9 * plain
    assert main(["check", "--gpu", "a10g", "--model", "bert-base-uncased", "--max-target-length", "8"]) == 2
    assert "--max-target-length is for an encoder-decoder" in capsys.readouterr().err


@pytest.mark.parametrize("length", [4, 12])
def test_long_texts_of_a_masked_model_go_on_in_rows(folder: Any, tmp_path: Path, length: int) -> None:
    place = folder("wordpiece", None, mask_token="<unk>")
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"text": "the plan " * count}) + "\n" for count in (1, 2, 9, 40)))
    lengths = lengths_of(dataset.profile(file, tokenizer=place, task="masked"), validation_split=0.0)
    trained = Masked({}).tokenize(
        read_examples(DataSettings(path=str(file))), small_tokenizers.load(place), max_length=length
    )
    assert lengths._sequences(length).tolist() == sorted(trained.lengths, reverse=True)
    assert lengths._sequences(length)[0] == length


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_learned_in_tokens_is_what_is_learned_in_text(folder: Any, name: str) -> None:
    source, expected = EXPECTED[name]
    tokenizer = small_tokenizers.load(folder("gpt2", source))
    (sequence,) = tokenize([conversation("Q1", "A1", "Q2", "A2", "Q3", "A3")], tokenizer, max_length=999).sequences
    said = tokenizer.decode([label for label in sequence.labels if label != IGNORED])
    # A token across the border is learned whole, such as a blank and the letter behind it.
    assert said.replace(" ", "") == "".join(expected).replace(" ", "")


def test_tokens_that_only_the_config_adds_count(folder: Any) -> None:
    more = {"6000": {"content": "<|extra|>", "special": True, "normalized": False}}
    place = folder("gpt2", CHATML.replace("<|im_end|>", "<|extra|>"), added_tokens_decoder=more)
    counter = TokenCounter.read(place)
    assert counter is not None
    assert (
        counter.count(EXAMPLES[:2]).lengths
        == tokenize(EXAMPLES[:2], small_tokenizers.load(place), max_length=9999).lengths
    )


def test_a_profile_says_what_the_template_leaves_out_and_refuses_as_the_trainer_does(
    folder: Any, tmp_path: Path
) -> None:
    file = tmp_path / "data.jsonl"
    answer = {"role": "assistant", "content": "A", "reasoning_content": "T"}
    file.write_text("".join(json.dumps({"messages": [{"role": "user", "content": "Q"}, answer]}) + "\n" for _ in "ab"))
    found = dataset.profile(file, tokenizer=folder("gpt2", CHATML))
    assert any("leaves out the thoughts of 2 turns of the assistant" in said for said in found.said)
    assert found.exact
    with pytest.raises(InvalidInput, match=r"data\.jsonl:1: the chat template refuses these messages: no"):
        dataset.profile(file, tokenizer=folder("gpt2", "{{ raise_exception('no') }}"))


def test_a_sample_speaks_for_many(folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths beyond the sample follow from bytes and turns: of 400 conversations 100 are counted."""
    place = folder("gpt2", CHATML)
    file = tmp_path / "data.jsonl"
    turns = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "hi " * 5}]
    turns[1]["reasoning_content"] = "so"
    rows = [{"messages": turns * (number % 5 + 1)} for number in range(400)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    exact = dataset.profile(file, tokenizer=place)
    monkeypatch.setattr(sizes, "EXACT_EXAMPLES", 100)
    sampled = dataset.profile(file, tokenizer=place)
    assert (exact.exact, sampled.exact) == (True, False)
    assert abs(sampled.tokens / exact.tokens - 1) < 0.01
    assert abs(sampled.completion_tokens / exact.completion_tokens - 1) < 0.15
    assert max(abs(sampled.lengths - exact.lengths)) <= 2
    assert "on a sample of 100 of the 400 examples" in sampled.basis
    assert [sentence.partition("The chat")[0] for sentence in (*exact.said, *sampled.said)] == [
        "",
        "In a sample of 100 of the 400 examples: ",
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("long", ["prose", "one word", "blanks"])
def test_the_beginning_of_a_long_answer_has_the_tokens_of_the_whole(folder: Any, kind: str, long: str) -> None:
    """What lies far beyond max_length is not tokenized, and nothing that is kept changes by that."""
    text = {"prose": PROSE * 900, "one word": "abcdefghij" * 8000, "blanks": " " * 80_000}[long]
    tokenizer = small_tokenizers.load(folder(kind, CHATML))
    example = conversation("Q", text)
    calls = []

    class Watched:
        def __call__(self, text: str, **options: Any) -> Any:
            calls.append(len(text))
            return tokenizer(text, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    for length in (48, 96):
        (whole,) = tokenize([example], tokenizer, max_length=10**7).sequences
        data = tokenize([example], Watched(), max_length=length)
        if len(whole) <= length:
            continue
        assert data.truncated == 1
        assert list(data.sequences[0].ids) == list(whole.ids)[:length]
        assert list(data.sequences[0].labels) == list(whole.labels)[:length]
    if long == "prose":
        assert max(calls) < len(text) / 2


def test_many_turns_take_time_by_their_length(folder: Any) -> None:
    place = folder("gpt2", CHATML)
    example = conversation(*("some words " * 4 for _ in range(4000)))
    counter = TokenCounter.read(place)
    assert counter is not None
    with takes_at_most(15):
        counter.count([example])
        tokenize([example], small_tokenizers.load(place), max_length=10**6)
