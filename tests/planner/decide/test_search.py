"""Tiers: same effective batch, memory that never grows from tier to tier, and speed over many candidates."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.settings import choices_from
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.contract.units import GIB
from planner.decide import candidates, search, spare, tiers
from planner.decide.check import check
from planner.decide.question import GOALS, Question
from planner.decide.verdict import verdict_of
from planner.devices import hardware
from planner.models import sources
from tests.support.clock import reference_seconds

PHI = sources.load_model("phi-2")
LLAMA = sources.load_model("llama-3.2-1b")
QWEN = sources.load_model("qwen2.5-0.5b")
A10G = hardware.find("a10g")


def ask(model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices | None = None, **more: Any) -> Question:
    """A question about these three."""
    return Question(model=model, hardware=hardware, choices=choices or TrainingChoices(), **more)


DEVICES = ("gtx-1050-ti", "rtx-3060", "t4", "a10g", "m3-18gb", "a100-80gb", "h200", "cpu")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", [PHI, LLAMA, QWEN], ids=lambda model: model.id)
@pytest.mark.parametrize("stack", ["builtin", "peft"])
def test_tiers_keep_the_effective_batch_and_never_grow(device: str, model, stack: str) -> None:
    """GIVEN any device, model and stack THEN distinct tiers share batch and length and shrink; what had to be changed
    to make anything fit is said first.
    """
    profile = hardware.find(device)
    choices = TrainingChoices(max_length=512, stack=stack)
    answer = search.recommend(ask(model, profile, choices, fixed=frozenset({"max_length", "stack"})))
    peaks = [option.memory.device_peak_bytes for option in answer.options]
    names = [option.tier for option in answer.options]
    assert names == [tier for tier in ("high", "balanced", "low", "safe") if tier in names]
    assert all(later < earlier for earlier, later in itertools.pairwise(peaks)), peaks
    shapes = {json.dumps(option.settings, sort_keys=True, default=str) for option in answer.options}
    assert len(shapes) == len(answer.options)
    for option in answer.options:
        taken = option.settings
        assert taken.effective_batch_size == answer.effective_batch_size == 16
        assert option.memory.device_peak_bytes <= option.memory.budget_bytes
        given_up = {change.name for change in answer.changed if change.named}
        assert taken.max_length == 512 or "max_length" in given_up
        assert taken.stack == stack or "stack" in given_up
    assert answer.recommended.tier == "balanced"
    assert answer.recommended in answer.options
    if any(change.named for change in answer.changed):
        assert answer.notes[0].startswith("Does not fit as asked: ")


def test_a_method_that_does_not_fit_gives_way() -> None:
    """GIVEN CodeLlama-13B on 24 GB THEN nothing is refused: quantised weights are the answer, and it is said first."""
    answer = search.recommend(ask(sources.load_model("codellama-13b"), hardware.find("rtx4090")))
    assert answer.recommended.settings.method == "qlora"
    assert answer.recommended.verdict == "fits"
    assert answer.notes[0] == "Fits only with method qlora instead of lora."
    named = ask(
        sources.load_model("codellama-13b"),
        hardware.find("rtx4090"),
        TrainingChoices(method="lora"),
        fixed=frozenset({"method"}),
    )
    nearest = search.recommend(named)
    assert nearest.recommended.settings.method == "qlora"
    assert nearest.notes[0] == "Does not fit as asked: method qlora instead of lora as you asked."
    assert [(change.name, change.named) for change in nearest.changed] == [("method", True)]


def test_what_fits_in_no_way_is_refused() -> None:
    """GIVEN 70 B parameters on 24 GB THEN the smallest way is judged, with exit code 3."""
    with pytest.raises(search.NothingFits) as caught:
        search.recommend(ask(sources.load_model("llama-3.3-70b"), A10G))
    assert caught.value.report.verdict == "does_not_fit"
    assert caught.value.report.settings.method == "qlora"
    assert caught.value.exit_code == 3


def test_a_cpu_takes_the_precision_that_is_faster() -> None:
    """GIVEN a CPU without units for bf16 THEN fp32 is planned where it fits, bf16 where only that does."""
    cpu = hardware.find("cpu")
    answer = search.recommend(ask(QWEN, cpu))
    assert answer.recommended.settings.precision == "fp32"
    small = search.recommend(ask(QWEN, cpu, budget=int(1.9 * GIB)))
    assert small.recommended.settings.precision == "bf16"
    kept = ask(QWEN, cpu, TrainingChoices(precision="bf16"), fixed=frozenset({"precision"}))
    assert search.recommend(kept).recommended.settings.precision == "bf16"


def test_the_answer_says_why_this_batch_and_what_the_rest_is_for() -> None:
    """GIVEN an A10G at 2048 THEN one line each: larger batches and the guides' against ours, and the free memory."""
    question = ask(PHI, A10G, TrainingChoices(max_length=2048), fixed=frozenset({"max_length"}))
    answer = search.recommend(question)
    line, kept = answer.why
    assert re.search(r"2 × 8 leaves less room to keep what is made again, \d+% slower", line)
    assert re.search(r"the guides' 8 with recomputation takes [\d.]+ GiB, \d+% slower", line)
    assert re.search(r"Room is used to keep MLP activations and norms: [\d.]+ GiB for \+[\d.]+% tokens/s", kept)
    free = spare.line(question, answer.recommended)
    assert free is not None
    assert "rank 256" in free
    assert "length" not in free  # phi-2 has no more than 2048 positions


def test_the_fast_tier_is_the_fastest_of_all_that_fit() -> None:
    """GIVEN every candidate THEN none inside the budget is more than a percent faster than the high tier."""
    base = TrainingChoices(max_length=2048, loss="chunked")
    pairs, _, _ = candidates.batch_pairs(base, set(), 32)
    layers = candidates.layer_counts(PHI, base, set())
    space = candidates.Space(bases=(base,), pairs=pairs, lengths=[2048], layers=layers)
    found = candidates.evaluate(ask(PHI, A10G), space)
    picks = tiers.pick_tiers(found, A10G.budget_bytes)
    assert picks is not None
    inside = (found.upper <= A10G.budget_bytes) & (found.device <= 0.95 * A10G.budget_bytes)
    assert found.seconds[picks[0]] <= found.seconds[inside].min() * (1 + tiers.SAME_SPEED)
    assert found.upper[picks[1]] <= 0.8 * A10G.budget_bytes


def test_grid_and_single_prediction_agree() -> None:
    """GIVEN a picked candidate THEN judging it alone gives the peak the search saw."""
    base = TrainingChoices(max_length=1024, loss="chunked")
    pairs, _, _ = candidates.batch_pairs(base, set(), 32)
    space = candidates.Space(bases=(base,), pairs=pairs, lengths=[1024], layers=[0, 5, LLAMA.total_layers])
    found = candidates.evaluate(ask(LLAMA, A10G), space)
    for index in range(0, len(found), 4):
        alone = check(ask(LLAMA, A10G, found.choices(index, LLAMA)), with_remedies=False).memory
        assert alone.allocated_peak_bytes == pytest.approx(int(found.device[index]) - A10G.context_bytes, rel=0.06)


def test_fifty_thousand_candidates_in_a_tenth_of_a_second() -> None:
    """GIVEN 50,688 candidates after import THEN evaluating and picking takes under 100 ms of CPU (best of three)."""
    base = TrainingChoices(loss="chunked")
    pairs, _, _ = candidates.batch_pairs(base, set(), 32)
    layers = candidates.layer_counts(PHI, base, set())
    lengths = list(range(8, 2049, 8))
    assert len(pairs) * len(layers) * len(lengths) >= 50_000

    space = candidates.Space(bases=(base,), pairs=pairs, lengths=lengths, layers=layers)

    def work() -> None:
        found = candidates.evaluate(ask(PHI, A10G), space)
        assert tiers.pick_tiers(found, A10G.budget_bytes)

    assert reference_seconds(work) < 0.1


def test_goal_picks_the_tier() -> None:
    """GIVEN a goal THEN the recommended option is the tier that the goal names."""
    for goal, tier in GOALS.items():
        short = TrainingChoices(max_length=256)
        answer = search.recommend(ask(QWEN, A10G, short, fixed=frozenset({"max_length"}), goal=goal))
        assert answer.recommended.tier == tier
    with pytest.raises(InvalidInput, match="--goal 'cheap'"):
        ask(QWEN, A10G, goal="cheap")


def test_all_tiers_have_one_length() -> None:
    """GIVEN no length and no data THEN every tier has the guides' default, and the notes say so."""
    answer = search.recommend(ask(PHI, A10G))
    assert {option.settings.max_length for option in answer.options} == {1024}
    assert any("No data and no --max-length" in note for note in answer.notes)


def test_precision_follows_the_card() -> None:
    """GIVEN a card without bf16 THEN the search takes fp16 and says why, and a demand for bf16 is refused."""
    t4 = hardware.find("t4")
    choices = TrainingChoices(max_length=512)
    answer = search.recommend(ask(PHI, t4, choices, fixed=frozenset({"max_length"})))
    assert answer.recommended.settings.precision == "fp16"
    assert any("fp16 instead of bf16" in note for note in answer.notes)
    with pytest.raises(NotModelled, match="--precision bf16 does not run natively on NVIDIA T4"):
        search.recommend(ask(PHI, t4, choices, fixed=frozenset({"max_length", "precision"})))
    full, _ = ask(PHI, t4, replace(choices, method="full")).fitted()
    assert full.precision == "fp16-mixed"


def test_effective_batch_must_be_reachable() -> None:
    """GIVEN fixed parts of the batch THEN the rest follows, and a contradiction is refused."""
    base = TrainingChoices(batch_size=3)
    pairs, effective, said = candidates.batch_pairs(base, {"batch_size"}, None)
    assert (pairs, effective) == ([(3, 5)], 15)
    assert said
    assert "3" in said[0]
    pairs, effective, _ = candidates.batch_pairs(replace(base, num_gpus=4), set(), 32)
    assert effective == 32
    assert all(size * steps * 4 == 32 for size, steps in pairs)
    with pytest.raises(InvalidInput, match="cannot be shared evenly by 3 devices"):
        candidates.batch_pairs(replace(base, num_gpus=3), set(), 32)
    with pytest.raises(InvalidInput, match="contradicts"):
        candidates.batch_pairs(base, {"batch_size", "gradient_accumulation_steps"}, 32)


def test_remedies_are_computed_and_true() -> None:
    """GIVEN a configuration that does not fit THEN each remedy, judged again, does what it says."""
    asked = TrainingChoices(max_length=2048, gradient_checkpointing=False, stack="peft")
    choices = asked.with_usual_implementation(A10G.kind)
    report = check(ask(PHI, A10G, choices))
    assert report.verdict == "does_not_fit"
    kinds = {tuple(sorted(remedy.change)) for remedy in report.remedies}
    assert ("batch_size", "gradient_accumulation_steps") in kinds
    assert ("gpu",) in kinds
    assert any(remedy.fits for remedy in report.remedies)
    for remedy in report.remedies:
        if "gpu" in remedy.change:
            there = check(ask(PHI, hardware.find(remedy.change["gpu"]), choices), with_remedies=False)
            assert there.verdict in ("fits", "tight")
            continue
        changed = choices_from(remedy.change, base=choices)
        if "checkpoint_layers" in remedy.change:
            changed = replace(changed, checkpoint_layers=remedy.change["checkpoint_layers"])
        assert changed.effective_batch_size == choices.effective_batch_size
        after = check(ask(PHI, A10G, changed), with_remedies=False).memory
        assert report.memory.device_peak_bytes - after.device_peak_bytes == remedy.saves_bytes
        assert remedy.fits == (after.interval_bytes[1] <= after.budget_bytes)
        assert remedy.verdict == verdict_of(after)
    changes = [str(remedy.change) for remedy in report.remedies]
    assert len(set(changes)) == len(changes)


def test_verdicts_at_their_edges() -> None:
    """GIVEN one peak and budgets around it THEN fits, tight and does_not_fit change where they should."""
    memory = check(ask(QWEN, A10G, TrainingChoices(max_length=512)), with_remedies=False).memory
    peak, upper = memory.device_peak_bytes, memory.interval_bytes[1]
    assert verdict_of(memory.model_copy(update={"budget_bytes": peak - 1})) == "does_not_fit"
    assert verdict_of(memory.model_copy(update={"budget_bytes": peak})) == "tight"
    assert verdict_of(memory.model_copy(update={"budget_bytes": upper - 1})) == "tight"
    assert verdict_of(memory.model_copy(update={"budget_bytes": max(upper, int(peak / 0.95) + 1)})) == "fits"


def test_guides_workload() -> None:
    """GIVEN phi-2 as the guides train it THEN the peaks are those that a trace of the real step gives."""
    choices = TrainingChoices(max_length=2048, stack="peft")
    report = check(ask(PHI, A10G, choices))
    assert report.memory.allocated_peak_bytes / GIB == pytest.approx(17.3, abs=0.1)
    assert report.verdict in ("fits", "tight")
    assert sum(report.memory.components.values()) == report.memory.device_peak_bytes
    without = check(ask(PHI, A10G, replace(choices, gradient_checkpointing=False)), with_remedies=False)
    assert without.memory.allocated_peak_bytes / GIB == pytest.approx(126.0, abs=0.5)


def test_adapters_on_the_vocabulary_head_take_the_whole_loss() -> None:
    """The trainer makes no chunked loss of them: it is refused where asked for, and never recommended."""
    choices = TrainingChoices(max_length=64, lora_targets=("lm_head",))
    with pytest.raises(NotModelled, match="--loss chunked with adapters on the vocabulary head; use --loss full"):
        check(ask(QWEN, A10G, replace(choices, loss="chunked")))
    answer = search.recommend(ask(QWEN, A10G, choices, fixed=frozenset({"max_length", "lora_targets"})))
    assert {option.settings.loss for option in answer.options} == {"full"}


def test_length_beyond_the_positions_names_both() -> None:
    """GIVEN a length over the model's positions THEN the refusal names both numbers."""
    with pytest.raises(InvalidInput, match="4096 is beyond the 2048 positions of phi-2"):
        check(ask(PHI, A10G, TrainingChoices(max_length=4096)))


@pytest.mark.parametrize(
    ("card", "model", "devices", "fixed", "taken"),
    [
        ("a100-40gb", "mistral-7b-v0.1", 4, {"method": "full"}, ("full", "fsdp", "builtin")),
        ("a100-40gb", "mistral-7b-v0.1", 4, {"method": "full", "strategy": "ddp"}, ("lora", "ddp", "builtin")),
        ("a10g", "llama-3.3-70b", 4, {}, ("qlora", "fsdp", "peft")),
        ("a10g", "codellama-13b", 2, {"method": "lora"}, ("lora", "fsdp", "builtin")),
        ("a10g", "codellama-13b", 2, {}, ("qlora", "ddp", "builtin")),
    ],
)
def test_weights_are_divided_where_nothing_else_fits(
    card: str, model: str, devices: int, fixed: dict[str, str], taken: tuple[str, str, str]
) -> None:
    """GIVEN several cards of which none holds the weights THEN they are divided before what was named is given up."""
    question = Question(
        model=sources.load_model(model),
        hardware=hardware.find(card),
        choices=TrainingChoices(num_gpus=devices, **fixed),
        fixed=frozenset({"num_gpus", *fixed}),
    )
    answer = search.recommend(question)
    settings = answer.recommended.settings
    assert (settings.method, settings.strategy, settings.stack) == taken
    assert ("strategy" in {item.name for item in answer.changed}) == (taken[1] == "fsdp")
    for option in answer.options:
        again = check(question.having(option.settings), with_remedies=False)
        assert again.memory == option.memory
        assert again.verdict in ("fits", "tight")
