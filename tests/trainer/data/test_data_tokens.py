"""Which tokens are learned, where sequences are cut, how batches are made and that packing changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from planner.contract.data.examples import Example, Message
from planner.contract.errors import InvalidInput
from planner.contract.microbatches import pack, place_of_heaviest, split_validation
from tests.support.trainer_support import make_model
from trainer.data.batches import Collator, EpochBatches, SequenceDataset
from trainer.data.tokens import IGNORED, Tokens, render_prompt, tokenize


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from trainer.commands.demo.tokenizer import build

    return build()


@pytest.fixture
def plain(tokenizer: Any) -> Any:
    """The same tokenizer without a chat template."""
    from trainer.commands.demo.tokenizer import build

    made = build()
    made.chat_template = None
    return made


def chat(*turns: str, shape: Any = "messages") -> Example:
    roles = ("user", "assistant") * len(turns)
    messages = tuple(Message(role, turn, role == "assistant") for role, turn in zip(roles, turns, strict=False))
    return Example(messages, None, "data.jsonl:1", shape)


def learned(tokenizer: Any, sequence: Tokens) -> str:
    return str(tokenizer.decode([label for label in sequence.labels if label != IGNORED]))


def test_tokenizer_keeps_every_byte(tokenizer: Any) -> None:
    text = "Grüße, 世界!  \n\t<x>"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == 261


def test_only_the_assistant_is_learned(tokenizer: Any) -> None:
    data = tokenize([chat("hi", "yo", "and?", "no  \n")], tokenizer, max_length=99)
    (sequence,) = data.sequences
    assert tokenizer.decode(list(sequence.ids)) == (
        "<|user|>hi<|end|><|assistant|>yo<|end|><|user|>and?<|end|><|assistant|>no  \n<|end|>"
    )
    assert learned(tokenizer, sequence) == "yo<|end|>no  \n<|end|>"


def test_the_prompt_a_model_is_given_is_the_prompt_it_was_trained_on(tokenizer: Any) -> None:
    example = chat("hi", "yo", shape="prompt-completion")
    (sequence,) = tokenize([example], tokenizer, max_length=99).sequences
    assert example.messages is not None
    prompt = tokenizer(render_prompt(tokenizer, example.messages[:1]), add_special_tokens=False)["input_ids"]
    assert list(sequence.ids)[: len(prompt)] == prompt
    assert all(label == IGNORED for label in list(sequence.labels)[: len(prompt)])
    assert all(label != IGNORED for label in list(sequence.labels)[len(prompt) :])


def test_without_a_template_pairs_stand_as_they_are(plain: Any) -> None:
    (pair,) = tokenize([chat("2+2=", "4", shape="prompt-completion")], plain, max_length=99).sequences
    assert plain.decode(list(pair.ids)) == "2+2=4<|end|>"
    assert learned(plain, pair) == "4<|end|>"
    (alpaca,) = tokenize([chat("Add", "4", shape="alpaca")], plain, max_length=99).sequences
    assert plain.decode(list(alpaca.ids)) == "### Instruction:\nAdd\n\n### Response:\n4<|end|>"
    assert learned(plain, alpaca) == "4<|end|>"
    (turns,) = tokenize([chat("a", "b", "c", "d")], plain, max_length=99).sequences
    assert plain.decode(list(turns.ids)) == "user: a\nassistant: b\nuser: c\nassistant: d<|end|>"
    assert learned(plain, turns) == "bd<|end|>"


def test_merging_tokenizers_and_slow_ones_agree(plain: Any) -> None:
    """A token across the border between prompt and completion counts as completion, by offsets or by prefixes."""

    class Slow:
        is_fast = False
        chat_template = None

        def __init__(self, fast: Any) -> None:
            self.fast = fast
            self.eos_token_id = fast.eos_token_id

        def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> Any:
            return self.fast(text, add_special_tokens=add_special_tokens)

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<e>", *alphabet, "ab", "abc"])}
    merging = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("ab", "c")]))
    merging.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=merging, eos_token="<e>")
    example = chat("xab", "cz", shape="prompt-completion")
    (sequence,) = tokenize([example], fast, max_length=99).sequences
    assert fast.convert_ids_to_tokens(list(sequence.ids)) == ["x", "abc", "z", "<e>"]
    assert [label != IGNORED for label in sequence.labels] == [False, True, True, True]
    (slow,) = tokenize([example], Slow(fast), max_length=99).sequences
    assert slow == sequence


def test_cutting_splitting_and_leaving_out_are_counted(tokenizer: Any) -> None:
    text = Example(None, "x" * 25, "t:1", "text")
    data = tokenize([chat("hi", "y" * 50), chat("q" * 50, "y"), text], tokenizer, max_length=10)
    assert (data.truncated, data.skipped, data.split) == (2, 1, 1)
    assert data.lengths == [10, 10, 10, 6]
    assert data.tokens == 36
    assert all(sequence.labels[0] == IGNORED for sequence in data.sequences)
    everything = tokenize([chat("hi", "yo")], tokenizer, max_length=99, train_on_prompt=True).sequences[0]
    assert sum(label != IGNORED for label in everything.labels) == len(everything) - 1


def test_templates_that_refuse_or_forget(tokenizer: Any) -> None:
    from trainer.commands.demo.tokenizer import build

    strict = build()
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InvalidInput, match=r"data\.jsonl:1: the chat template refuses these messages: roles must"):
        tokenize([chat("a", "b")], strict, max_length=9)
    with pytest.raises(InvalidInput, match="no message of the assistant"):
        tokenize([chat("a")], tokenizer, max_length=9)
    # Where no turn can be found, the way out that is suggested is one.
    deaf = build()
    deaf.chat_template = "{{ 'the same' }}"
    with pytest.raises(InvalidInput, match=r"keep the assistant's turns recognisable; learn all .* --train-on-prompt"):
        tokenize([chat("a", "b")], deaf, max_length=9)
    assert tokenize([chat("a", "b")], deaf, max_length=9, train_on_prompt=True).lengths == [8]
    # Earlier turns are rewritten once another follows: they are learned as they stand, and that is said.
    forgetful = build()
    forgetful.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]"
        "{{ m['content'] if loop.last or m['role'] == 'user' else 'short' }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    data = tokenize([chat("a", "long", "c", "d")], forgetful, max_length=99)
    assert learned(forgetful, data.sequences[0]) == "shortd"
    said, _ = data.remarks.sentences()
    assert said.startswith("The chat template leaves out the text of 1 turn of the assistant (first: ")


# --------------------------------------------------------------------------------------------------------------------


def lengths(count: int = 53) -> list[int]:
    return [(number * 37) % 60 + 2 for number in range(count)]


@pytest.mark.parametrize("grouped", [True, False])
def test_an_epoch_takes_each_example_once_and_the_heaviest_where_memory_is_highest(grouped: bool) -> None:
    batches = EpochBatches(
        lengths(), batch_size=4, accumulation=2, max_length=64, order="grouped" if grouped else "shuffled", seed=3
    )
    epochs = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        made = list(batches)
        assert made == list(batches)
        assert len(made) == len(batches) == 14
        assert sorted(index for batch in made for index in batch) == list(range(53))
        cost = [len(batch) * max(lengths()[index] for index in batch) for batch in made]
        # Second step, second micro-batch: the four longest. First of all the heaviest of the others.
        assert sorted(lengths()[index] for index in made[3]) == sorted(lengths())[-4:]
        assert cost[3] == max(cost)
        assert cost[0] == sorted(cost)[-2]
        epochs.append(made)
    assert epochs[0] != epochs[1] != epochs[2]


def test_grouping_leaves_little_padding() -> None:
    def padded(grouped: bool) -> int:
        batches = EpochBatches(
            lengths(400), batch_size=8, max_length=64, order="grouped" if grouped else "shuffled", seed=1
        )
        return sum(len(batch) * max(lengths(400)[index] for index in batch) for batch in batches)

    assert padded(True) < 1.06 * sum(lengths(400))
    assert padded(False) > 1.4 * sum(lengths(400))


def test_packing_fills_bins_the_same_number_each_epoch() -> None:
    batches = EpochBatches(lengths(300), batch_size=2, max_length=64, packed=True, seed=5)
    counts = set()
    for epoch in range(4):
        batches.set_epoch(epoch)
        rows = [row for batch in batches for row in batch]
        assert sorted(index for row in rows for index in row) == list(range(300))
        assert all(sum(lengths(300)[index] for index in row) <= 64 for row in rows)
        counts.add(len(rows))
        assert len(list(batches)) == len(batches)
    assert len(counts) == 1
    assert counts.pop() <= -(-sum(lengths(300)) // 64) * 1.1


@pytest.mark.parametrize("packed", [False, True])
def test_no_micro_batch_is_heavier_than_the_one_that_the_plan_counts_on(packed: bool) -> None:
    batches = EpochBatches(lengths(90), batch_size=3, accumulation=1, max_length=64, packed=packed, seed=4)
    heaviest = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        rows = [[[lengths(90)[i] for i in (row if packed else [row])] for row in batch] for batch in batches]
        tokens = [sum(map(sum, batch)) for batch in rows]
        assert tokens[1] == max(tokens)
        heaviest.append(sorted(sorted(row) for row in rows[1]))
    assert heaviest[0] == heaviest[1] == heaviest[2]


def test_where_the_heaviest_stands_in_short_epochs() -> None:
    assert [place_of_heaviest(count, 1) for count in (1, 2, 5)] == [0, 1, 1]
    assert [place_of_heaviest(count, 4) for count in (1, 2, 5, 6, 9)] == [0, 1, 1, 5, 5]


def test_first_fit_decreasing_by_hand() -> None:
    assert pack([6, 4, 5, 3, 2], range(5), 10) == [(0, 1), (2, 3, 4)]
    assert pack([], [], 10) == []
    assert pack([99], [0], 10) == [(0,)]


def test_validation_split_is_seeded_and_leaves_something() -> None:
    assert split_validation(10, 0.2, 1) == split_validation(10, 0.2, 1) != split_validation(10, 0.2, 2)
    kept, held = split_validation(10, 0.2, 1)
    assert (len(kept), len(held)) == (8, 2)
    assert sorted(kept + held) == list(range(10))
    assert [len(part) for part in split_validation(2, 0.99, 1)] == [1, 1]
    assert [len(part) for part in split_validation(5, 0.001, 1)] == [4, 1]
    assert [len(part) for part in split_validation(5, 0.0, 1)] == [5, 0]


def sequence(*ids: int) -> Tokens:
    from array import array

    return Tokens(array("l", ids), array("l", [IGNORED, *ids[1:]]))


def test_collator_shapes() -> None:
    rows = [[sequence(5, 6, 7)], [sequence(8, 9)]]
    longest = Collator(pad_token_id=0, max_length=6)(rows)
    assert longest["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert longest["labels"].tolist() == [[-100, 6, 7], [-100, 9, -100]]
    assert set(longest) == {"input_ids", "labels", "real_tokens", "lengths"}
    assert longest["real_tokens"] == 5
    assert Collator(pad_token_id=0, max_length=6, padding="max")(rows)["input_ids"].shape == (2, 6)
    packed = Collator(pad_token_id=0, max_length=6, padding="packed")([[sequence(5, 6, 7), sequence(8, 9)]])
    assert packed["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0]]
    assert packed["labels"].tolist() == [[-100, 6, 7, -100, 9, -100]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_and_padded_rows_give_the_logits_of_each_sequence_alone(tmp_path: Path, attention: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()
    model.config.use_cache = False
    generator = torch.Generator().manual_seed(1)
    sequences = [
        sequence(*torch.randint(5, 261, (count,), generator=generator).tolist()) for count in (7, 3, 9, 2, 5, 6)
    ]
    rows = [(0, 1, 5), (2, 3, 4)]
    dataset = SequenceDataset(sequences)
    packed = Collator(pad_token_id=0, max_length=18, padding="packed")([dataset[row] for row in rows])
    padded = Collator(pad_token_id=0, max_length=18)([dataset[index] for index in range(6)])
    with torch.no_grad():
        together = model(input_ids=packed["input_ids"], position_ids=packed["position_ids"]).logits
        beside = model(input_ids=padded["input_ids"]).logits
        for number, row in enumerate(rows):
            start = 0
            for index in row:
                alone = model(input_ids=torch.tensor([list(sequences[index].ids)])).logits[0]
                stop = start + len(sequences[index])
                torch.testing.assert_close(together[number, start:stop], alone, atol=2e-6, rtol=1e-5)
                torch.testing.assert_close(beside[index, : len(alone)], alone, atol=2e-6, rtol=1e-5)
                start = stop


def test_fingerprint_notices_any_change(tokenizer: Any) -> None:
    first = tokenize([chat("a", "b"), chat("c", "d")], tokenizer, max_length=9)
    assert first.fingerprint() == tokenize([chat("a", "b"), chat("c", "d")], tokenizer, max_length=9).fingerprint()
    assert first.fingerprint() != tokenize([chat("c", "d"), chat("a", "b")], tokenizer, max_length=9).fingerprint()
    changed = dataclasses.replace(first, sequences=[first.sequences[0], first.sequences[0]])
    assert first.fingerprint() != changed.fingerprint()
