"""Masked, sequence-to-sequence and classification runs: they learn, are weighted right, and load in plain PEFT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.run_settings import DataSettings
from tests.support import task_support as support
from tests.support.trainer_support import make_model, make_plan, of_kind, train

LORA = {"lora_targets": ["attention"], "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "max_length": 16}


def learn(
    tmp_path: Path,
    model: Path,
    data: Path,
    *,
    format: str = "auto",
    settings: Any = None,
    output: str = "run",
    **hyper: Any,
) -> Any:
    hyper = {"learning_rate": 2e-2, "epochs": 4.0, "warmup_ratio": 0.0} | hyper
    plan = make_plan(
        tmp_path / "plan.json",
        model,
        data,
        settings={**LORA, **(settings or {})},
        data_settings={"format": format},
        **hyper,
    )
    events, failure = train(plan, tmp_path / output)
    assert failure is None, failure
    return events, Path(of_kind(events, "finished")[0]["adapter_path"])


# ---- masked --------------------------------------------------------------------------------------------------------


def test_masked_language_model_learns_hidden_words(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForMaskedLM

    model, data = support.bert_folder(tmp_path / "bert"), support.texts(tmp_path / "texts.jsonl")
    events, _ = learn(tmp_path, model, data, settings={"method": "full"}, learning_rate=5e-3, epochs=10.0)
    evaluations = of_kind(events, "eval")
    assert evaluations[-1]["loss"] < 0.8 * evaluations[0]["loss"]
    assert evaluations[0]["sample"] is None
    events, adapter = learn(tmp_path, model, data, output="lora", epochs=1.0)
    PeftModel.from_pretrained(AutoModelForMaskedLM.from_pretrained(model), str(adapter))


def collator(**keys: Any) -> Any:
    from trainer.tasks.masked import Masked

    choices = TrainingChoices(max_length=64, **keys)
    return Masked({}).collator(support.word_tokenizer("bert"), choices, seed=1, epochs=keys.get("epochs"))


def test_masking_follows_the_recipe_and_the_epoch() -> None:
    from array import array

    from trainer.data.tokens import Tokens

    made = collator()
    ids = array("l", [2, *([7, 8, 9, 10] * 500), 3])
    first, labels = made.hide(list(ids))
    learned = [place for place, label in enumerate(labels) if label != -100]
    assert 0.12 < len(learned) / len(ids) < 0.18
    hidden = sum(first[place] == made.mask_token_id for place in learned) / len(learned)
    kept = sum(first[place] == ids[place] for place in learned) / len(learned)
    assert 0.72 < hidden < 0.88
    assert 0.04 < kept < 0.18
    assert all(labels[place] == ids[place] for place in learned)
    assert labels[0] == labels[-1] == -100
    assert (first, labels) == made.hide(list(ids))
    made.epochs = type("Epochs", (), {"epoch": 1})()
    assert made.hide(list(ids)) != (first, labels)
    # One short row still has a target, and padding is masked.
    batch = made(
        [[Tokens(array("l", [2, 7, 3]), array("l", []))], [Tokens(array("l", [2, 7, 8, 9, 3]), array("l", []))]]
    )
    assert ((batch["labels"] != -100).sum(1) >= 1).all()
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


# ---- sequence to sequence ------------------------------------------------------------------------------------------


def test_t5_learns_answers_and_says_them(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    from trainer.commands.generate import complete, load_trained

    model, data = support.t5_folder(tmp_path / "t5"), support.questions(tmp_path / "questions.jsonl")
    events, adapter = learn(
        tmp_path, model, data, settings={"lora_targets": ["all-linear"], "lora_r": 16}, epochs=10.0, learning_rate=3e-2
    )
    evaluations = of_kind(events, "eval")
    assert evaluations[-1]["loss"] < 0.5 * evaluations[0]["loss"]
    assert isinstance(evaluations[-1]["sample"], str)
    plain = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(model), str(adapter)).eval()
    ours, tokenizer = load_trained(tmp_path / "run", torch.device("cpu"))
    batch = {"input_ids": torch.tensor([[17, 4, 1]]), "labels": torch.tensor([[4, 1]])}
    with torch.no_grad():
        torch.testing.assert_close(ours(**batch).logits, plain(**batch).logits)
    assert complete(ours, tokenizer, "say two", max_new_tokens=3) in support.WORDS


def test_answers_are_cut_and_padded_to_a_length_of_their_own(tmp_path: Path) -> None:
    from planner.contract.choices import TrainingChoices
    from planner.contract.data.examples import Example, Message
    from trainer.tasks.seq2seq import SequenceToSequence

    class Letters:
        pad_token_id, all_special_ids = 0, [1]

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [*map(ord, text), 1]}

    messages = (Message("user", "abcdefgh", False), Message("assistant", "xyz", True))
    example = Example(messages=messages, text=None, where="1", shape="messages")
    task = SequenceToSequence({})
    for padding, widths in (("longest", (6, 2)), ("max", (6, 2))):
        choices = TrainingChoices(max_length=6, max_target_length=2, padding=padding, loss="full")
        task.check(choices)
        data = task.tokenize([example], Letters(), max_length=6)  # type: ignore[arg-type]
        assert (data.truncated, list(data.sequences[0].labels)) == (1, [ord("x"), 1])
        batch = task.collator(Letters(), choices, seed=0)([[data.sequences[0]]])  # type: ignore[arg-type]
        assert (batch["input_ids"].shape[1], batch["labels"].shape[1]) == widths
    task.check(TrainingChoices(max_length=6, loss="full"))
    assert len(task.tokenize([example], Letters(), max_length=6).sequences[0].labels) == 4  # type: ignore[arg-type]


def test_an_encoder_decoder_wants_answers(tmp_path: Path) -> None:
    model, data = support.t5_folder(tmp_path / "t5"), support.texts(tmp_path / "texts.jsonl")
    _, failure = train(make_plan(tmp_path / "plan.json", model, data, settings=LORA), tmp_path / "run")
    assert "texts.jsonl:1: an encoder-decoder model learns answers" in str(failure)


# ---- classification ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_classifiers_learn_their_labels(tmp_path: Path, family: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from trainer.commands.generate import load_trained

    data = support.labelled(tmp_path / "labelled.jsonl")
    if family == "llama":
        model = make_model(tmp_path / "llama")
    else:
        model = support.bert_folder(tmp_path / "m") if family == "bert" else support.t5_folder(tmp_path / "m")
    events, adapter = learn(
        tmp_path, model, data, format="classification", settings={"max_length": 32}, epochs=6.0, learning_rate=1e-2
    )
    evaluations = of_kind(events, "eval")
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert evaluations[-1]["accuracy"] > 0.7
    ours, tokenizer = load_trained(tmp_path / "run", torch.device("cpu"))
    assert ours.config.id2label == {0: "blame", 1: "praise"}
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2, pad_token_id=tokenizer.pad_token_id)
    plain = PeftModel.from_pretrained(base, str(adapter)).eval()
    # Heads and poolers that the base lacks were drawn anew, so that they must come with the adapter.
    ids = torch.tensor([tokenizer("the dog is good")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, plain(ids).logits)


def test_labels_are_checked(tmp_path: Path) -> None:
    from planner.contract.data.reader import read_examples
    from trainer.tasks import choose

    data = support.write_jsonl(tmp_path / "d.jsonl", [{"text": "a", "label": 2}, {"text": "b", "label": 10}])
    settings = DataSettings(path=str(data), format="classification")
    task: Any = choose({"model_type": "bert"}, settings)
    task.prepare(read_examples(settings), support.word_tokenizer("bert"))
    assert task.labels == ["2", "10"]
    for rows, says in (
        ([{"text": "a", "label": 1.5}], "1: 'label' must be a name or a whole number"),
        ([{"text": "a"}], "1: 'label' is missing"),
    ):
        broken = support.write_jsonl(tmp_path / "broken.jsonl", rows)
        with pytest.raises(InvalidInput, match=says):
            read_examples(settings.model_copy(update={"path": str(broken)}))
    one = support.write_jsonl(tmp_path / "one.jsonl", [{"text": "a", "label": "x"}] * 3)
    with pytest.raises(InvalidInput, match="only the label 'x' occurs"):
        task.prepare(read_examples(settings.model_copy(update={"path": str(one)})), None)


# ---- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [{"padding": "packed"}, {"loss": "chunked"}])
def test_what_only_causal_models_can_do_is_refused(choices: dict[str, str]) -> None:
    from trainer.tasks import choose

    with pytest.raises(NotModelled, match="made for causal models"):
        choose({"model_type": "bert"}, DataSettings()).check(TrainingChoices(**choices))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["bert", "t5", "classifier"])
def test_micro_batches_add_up_to_the_whole_batch(tmp_path: Path, family: str) -> None:
    """GIVEN rows with uneven targets WHEN the batch is cut THEN the gradients are those of the whole batch."""
    from planner.contract.data.reader import read_examples
    from trainer import modeling
    from trainer.tasks import choose

    folder = support.t5_folder(tmp_path / "m") if family == "t5" else support.bert_folder(tmp_path / "m")
    data = support.labelled(tmp_path / "d.jsonl", 6) if family != "t5" else support.questions(tmp_path / "d.jsonl", 6)
    format: Any = {"classifier": "classification", "t5": "auto"}.get(family, "text")
    settings = DataSettings(path=str(data), format=format)
    from trainer.loop.loading import read_config

    config = read_config(str(folder))
    task: Any = choose(config, settings)
    tokenizer = support.word_tokenizer("t5" if family == "t5" else "bert")
    examples = read_examples(settings)
    task.prepare(examples, tokenizer)
    rows = [[tokens] for tokens in task.tokenize(examples, tokenizer, max_length=16).sequences]
    model = modeling.build(config, dtype=torch.float32, weights=str(folder)).eval()
    choices = TrainingChoices(method="full", precision="fp32", gradient_accumulation_steps=2)
    make = task.collator(tokenizer, choices, seed=0)

    def gradients(parts: list[Any]) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        batches = [make(part) for part in parts]
        total = sum(int(task.targets(batch["labels"])) for batch in batches)
        value = 0.0
        for batch in batches:
            del batch["real_tokens"]
            loss, _ = modeling.compute_loss(model, batch, choices, num_items=torch.tensor(total))
            loss.backward()
            value += float(loss)
        return value, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    (whole, one), (cut, two) = gradients([rows]), gradients([rows[:1], rows[1:]])
    assert math.isclose(whole, cut, rel_tol=1e-5)
    for left, right in zip(one, two, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
