"""Segments that are given back before memory runs out (`garbage_collection_threshold`)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import memory
from planner.contract.allocator_conf import configure, read, remarks
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.units import MIB
from planner.decide.check import check
from planner.decide.question import Question
from planner.devices.hardware import find
from planner.memory.reserved.allocator import CachingAllocator
from planner.memory.reserved.replay import SegmentRules, alike, held
from planner.models import sources

COLLECTING = TrainingChoices(garbage_collection_threshold=0.8)


def _pool(above: int, sizes: list[int]) -> tuple[CachingAllocator, list[int]]:
    pool = CachingAllocator(collect_above=above * MIB)
    return pool, [pool.allocate(size * MIB) for size in sizes]


def test_nothing_is_given_back_below_the_threshold() -> None:
    # 30 + 40 MiB reserved, one free: 50 MiB more, and 70 is not above 70.
    pool, (first, _) = _pool(70, [30, 40])
    pool.release(first)
    pool.allocate(50 * MIB)
    assert (pool.reserved, pool.collected) == (120 * MIB, 0)


def test_free_segments_of_mean_age_or_more_go() -> None:
    # Requests 1 to 3 make 30, 40, 50. Freed before request 4 (age 1 there); the 60 stays: 30 is too small for it.
    pool, (first, _, _) = _pool(100, [30, 40, 50])
    pool.release(first)
    pool.allocate(60 * MIB)
    assert (pool.reserved, pool.collected) == (150 * MIB, 1)


def test_only_what_is_of_mean_age_goes_where_that_is_enough() -> None:
    pool, (first, second, third) = _pool(110, [30, 40, 50])  # requests 1 to 3
    pool.release(first)
    pool.release(second)
    last = pool.allocate(10 * MIB)  # request 4 is met from the 30
    pool.release(third)
    pool.release(last)  # the 30 is whole again, as of request 4
    # At request 5 the 40 is 2 requests old, the 30 and the 50 are 1, the mean 4/3; 10 MiB have to go.
    pool.allocate(80 * MIB)
    assert (pool.reserved, pool.collected) == ((30 + 50 + 80) * MIB, 1)


def test_all_of_one_age_go_together() -> None:
    # 70 of 120 MiB have to go; all are of one age.
    pool, (first, second, third) = _pool(50, [30, 40, 50])
    for handle in (first, second, third):
        pool.release(handle)
    pool.allocate(80 * MIB)
    assert (pool.reserved, pool.collected) == (80 * MIB, 3)


def test_segments_in_part_in_use_and_those_that_expand_stay() -> None:
    pool = CachingAllocator(collect_above=10 * MIB)
    halves = [pool.allocate(6 * MIB), pool.allocate(6 * MIB)]
    pool.release(halves[0])
    pool.allocate(30 * MIB)
    assert (pool.reserved, pool.collected) == (50 * MIB, 0)
    grown = CachingAllocator(expandable_segments=True, collect_above=10 * MIB)
    grown.release(grown.allocate(40 * MIB))
    grown.allocate(50 * MIB)
    assert grown.collected == 0


class _Plainly:
    """The same rule told once more, in lists, for whole segments of 12 MiB and more that are never split."""

    def __init__(self, above: int) -> None:
        self.above, self.requests = above, 0
        self.used: dict[int, int] = {}
        self.free: list[tuple[int, int, int]] = []  # size, number, request before it came to lie there

    @property
    def reserved(self) -> int:
        return sum(self.used.values()) + sum(size for size, _, _ in self.free)

    def allocate(self, number: int, size: int) -> None:
        self.requests += 1
        fitting = [one for one in self.free if one[0] == size]
        if fitting:
            self.free.remove(max(fitting, key=lambda one: one[1]))  # lower addresses are younger
            self.used[number] = size
            return
        excess = self.reserved - self.above
        while excess > 0 and self.free:
            mean = sum(self.requests - since for _, _, since in self.free) / len(self.free)
            for one in [one for one in self.free if self.requests - one[2] >= mean]:
                self.free.remove(one)
                excess -= one[0]
        self.used[number] = size

    def release(self, number: int) -> None:
        self.free.append((self.used.pop(number), number, self.requests))


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(st.tuples(st.sampled_from([12, 14, 16, 18]), st.integers(0, 2), st.integers(0, 99)), max_size=50),
    above=st.integers(10, 120),
)
def test_random_sequences_go_as_the_rule_says(actions: list[tuple[int, int, int]], above: int) -> None:
    # A size of its own for each request but the first four, so that no larger free segment is cut for it.
    pool, plain = CachingAllocator(collect_above=above * MIB), _Plainly(above * MIB)
    handles: dict[int, int] = {}
    for number, (size, kind, pick) in enumerate(actions):
        if kind or not handles:
            if any(free > size * MIB for free, _, _ in plain.free):
                continue  # best fit would cut it
            handles[number] = pool.allocate(size * MIB)
            plain.allocate(number, size * MIB)
        else:
            gone = sorted(handles)[pick % len(handles)]
            pool.release(handles.pop(gone))
            plain.release(gone)
        assert pool.reserved == plain.reserved, number


def test_a_step_whose_segments_are_collected_reserves_less() -> None:
    # 40, 60 and 80 MiB, one at a time: each needs a segment of its own, and only the last is left with collection.
    step = [(1, 40 * MIB), (1, -1), (2, 60 * MIB), (2, -1), (3, 80 * MIB), (3, -1)]
    run = alike([], step)
    assert held(run, limit=None).free_bytes == 180 * MIB
    assert held(run, limit=None, rules=SegmentRules(collect_above=30 * MIB)).free_bytes == 80 * MIB


def test_a_plan_reserves_less_and_allocates_as_much() -> None:
    spec, card = sources.load_model("phi-2"), find("rtx-4090")
    choices = TrainingChoices(stack="peft", batch_size=8, max_length=1536, lora_dropout=0.05)
    plain = memory.predict(spec, card, choices)
    collected = memory.predict(spec, card, replace(choices, garbage_collection_threshold=0.3))
    assert collected.tensors_peak_bytes == plain.tensors_peak_bytes
    assert collected.reserved_peak_bytes < plain.reserved_peak_bytes
    assert collected.reserved_peak_bytes >= collected.allocated_peak_bytes


def test_it_is_refused_where_it_does_nothing() -> None:
    spec = sources.load_model("phi-2")
    with pytest.raises(InvalidInput, match="segments expand"):
        check(Question(model=spec, hardware=find("a10g"), choices=replace(COLLECTING, expandable_segments=True)))
    for name in ("cpu", "m3-max-36gb", "mi300x"):
        with pytest.raises(NotModelled, match="garbage-collection-threshold"):
            check(Question(model=spec, hardware=find(name), choices=COLLECTING))
    for share in (0, 1, 1.5):
        with pytest.raises(InvalidInput):
            TrainingChoices(garbage_collection_threshold=share)


def test_the_run_s_allocator_is_told_with_the_share_that_it_needs() -> None:
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "roundup_power2_divisions:[256:1,512:2]"}
    configure(COLLECTING, environment)
    assert read(environment["PYTORCH_CUDA_ALLOC_CONF"]) == {
        "roundup_power2_divisions": "[256:1,512:2]",
        "garbage_collection_threshold": "0.8",
        "per_process_memory_fraction": "0.999999",
    }
    own = {"PYTORCH_ALLOC_CONF": "garbage_collection_threshold:0.6,per_process_memory_fraction:0.5"}
    configure(COLLECTING, own)
    assert own == {"PYTORCH_ALLOC_CONF": "garbage_collection_threshold:0.6,per_process_memory_fraction:0.5"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("expandable_segments:True", "--expandable-segments"),
        ("garbage_collection_threshold:0.8", "set_per_process_memory_fraction"),
        ("garbage_collection_threshold:0.8,expandable_segments:True", "collects no segments that expand"),
        ("garbage_collection_threshold:0.8,per_process_memory_fraction:0.9", "--garbage-collection-threshold"),
        ("max_split_size_mb:128, roundup_power2_divisions:[256:1,>:4]", "max_split_size_mb, roundup_power2_divisions"),
        ("backend:cudaMallocAsync", "cudaMallocAsync"),
    ],
)
def test_settings_of_the_environment_that_no_plan_counts_on_are_said(text: str, words: str) -> None:
    said = remarks(TrainingChoices(), {"PYTORCH_CUDA_ALLOC_CONF": text})
    assert any(words in one for one in said)
    assert not remarks(TrainingChoices(), {"PYTORCH_CUDA_ALLOC_CONF": "pinned_use_background_threads:True"})
    assert not remarks(TrainingChoices(), {})


def test_kernels_that_are_all_loaded_at_once_are_said() -> None:
    assert "1 GiB" in remarks(TrainingChoices(), {"CUDA_MODULE_LOADING": "EAGER"})[0]
    assert not remarks(TrainingChoices(), {"CUDA_MODULE_LOADING": "LAZY"})


def test_what_the_plan_counts_on_is_not_remarked_on() -> None:
    assert not remarks(TrainingChoices(expandable_segments=True), {"PYTORCH_ALLOC_CONF": "expandable_segments:True"})
    told = {"PYTORCH_ALLOC_CONF": "garbage_collection_threshold:0.8"}
    assert not remarks(COLLECTING, told)
