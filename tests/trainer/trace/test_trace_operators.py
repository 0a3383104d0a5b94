"""What the device's own operators keep and hold, checked against sizes worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from planner.contract.errors import NotModelled
from tests.support.trace_support import TINY, choices
from trainer.trace import Setup, TraceResult, explain, trace
from trainer.trace.attention import choose_kernel
from trainer.trace.autocast import cuda_autocast_rules
from trainer.trace.recorder import StepRecorder
from trainer.trace.result import pattern
from trainer.trace.scratch import stand_ins

BATCH, LENGTH, HIDDEN, HEADS, GROUPS, WIDTH, LAYERS = 3, 64, 64, 4, 2, 16, 3
TOKENS = BATCH * LENGTH


def traced(name: str = "llama", **changes: Any) -> TraceResult:
    options = {k: changes.pop(k) for k in ("target", "padded", "kernel", "events") if k in changes}
    return trace(TINY[name], choices(**changes), Setup(**options))


def held(result: TraceResult, op: str, instant: str = "loss") -> list[Any]:
    return [group for group in result.at_instant[instant] if op in group.op]


def rounded(size: int) -> int:
    return -(-size // 512) * 512


def test_components_sum_to_the_peak_and_the_timeline_reaches_it() -> None:
    result = traced()
    assert sum(result.components.values()) == result.allocated_peak_bytes == max(result.instants.values())
    assert max(total for _, total, _ in result.timeline) == result.allocated_peak_bytes
    assert sum(group.size for group in result.at_peak) + result.components["workspaces"] == result.allocated_peak_bytes
    assert result.components["workspaces"] == 2 * 8519680
    assert result.components["optimizer_state"] >= 2 * result.components["adapters"]


def test_dropout_on_cuda_keeps_one_byte_an_element() -> None:
    cuda, cpu = (traced(gradient_checkpointing=False, target=target) for target in ("cuda", "cpu"))
    masks = [group for group in held(cuda, "native_dropout") if group.dtype == "bool"]
    assert {group.shape for group in masks} == {(BATCH, LENGTH, HIDDEN), (BATCH, LENGTH, 160)}
    # seven modules a layer; the first layer's q, k and v see an input without gradient and keep nothing
    assert sum(group.count for group in masks) == 7 * LAYERS - 3
    assert not held(cpu, "native_dropout")
    assert {group.dtype for group in held(cpu, "bernoulli")} | {"float32"} == {"float32"}


def test_flash_attention_keeps_its_output_and_one_number_a_row() -> None:
    result = traced(gradient_checkpointing=False)
    kept = {group.dtype: group for group in held(result, "_scaled_dot_product_flash_attention.default")}
    assert kept["bfloat16"].size == LAYERS * TOKENS * HEADS * WIDTH * 2
    assert kept["float32"].shape == (BATCH, HEADS, LENGTH)
    assert kept["float32"].size == LAYERS * rounded(TOKENS * HEADS * 4)


def test_flash_backward_holds_an_fp32_accumulator_and_expanded_gradients() -> None:
    result = traced(gradient_checkpointing=False, events=True)
    scratch = [event["bytes"] for event in result.events if "scratch" in event["op"] and event["kind"] == "alloc"]
    accumulator = BATCH * HEADS * 128 * 32 * 4  # rows to 128, width to 32
    sums = rounded(BATCH * HEADS * 128 * 4)
    expanded = BATCH * LENGTH * HEADS * WIDTH * 2  # key and value heads spread over the query heads
    assert scratch[:4] == [accumulator, sums, expanded, expanded]


def test_padding_takes_the_efficient_kernel_and_a_mask_a_layer() -> None:
    plain, padded = (traced(gradient_checkpointing=False, padded=padded) for padded in (False, True))
    assert held(padded, "_scaled_dot_product_efficient_attention")
    assert not held(padded, "flash")
    additive = BATCH * LENGTH * LENGTH * 2
    masks = [group for group in held(padded, "where") if group.shape[-2:] == (LENGTH, LENGTH)]
    assert sum(group.size for group in masks) == LAYERS * additive
    # keys and values are repeated over the query heads besides
    assert padded.instants["forward"] > plain.instants["forward"] + LAYERS * additive


def test_eager_attention_keeps_the_scores() -> None:
    result = traced(attention="eager", gradient_checkpointing=False)
    scores = [group for group in held(result, "softmax") if group.shape == (BATCH, HEADS, LENGTH, LENGTH)]
    assert sum(group.size for group in scores) >= LAYERS * BATCH * HEADS * LENGTH * LENGTH * 4
    assert result.components["attention"] > traced(gradient_checkpointing=False).components["attention"]


def test_mps_runs_the_math_attention() -> None:
    result = traced(gradient_checkpointing=False, target="mps")
    assert not held(result, "flash")
    assert [group for group in held(result, "softmax") if group.shape[-2:] == (LENGTH, LENGTH)]
    assert result.components["workspaces"] == 0


@pytest.mark.parametrize(
    ("dtype", "width", "mask", "groups", "kernel"),
    [
        (torch.bfloat16, 64, False, 4, "flash"),
        (torch.bfloat16, 64, False, 2, "flash"),
        (torch.float32, 64, False, 4, "efficient"),
        (torch.float32, 64, False, 2, "math"),
        (torch.float16, 64, True, 4, "efficient"),
        (torch.bfloat16, 320, False, 4, "efficient"),
    ],
)
def test_the_kernel_that_pytorch_would_choose(dtype: Any, width: int, mask: bool, groups: int, kernel: str) -> None:
    query = torch.empty(2, 4, 8, width, dtype=dtype, device="meta")
    key = torch.empty(2, groups, 8, width, dtype=dtype, device="meta")
    assert choose_kernel(query, key, key, torch.empty(8, 8) if mask else None) == kernel


def test_older_cards_have_no_flash_kernel() -> None:
    query = torch.empty(2, 4, 8, 64, dtype=torch.float16, device="meta")
    grouped = query[:, :2]
    assert choose_kernel(query, query, query, None, "pre-ampere") == "efficient"
    assert choose_kernel(query, grouped, grouped, None, "pre-ampere") == "math"
    assert choose_kernel(query.bfloat16(), query.bfloat16(), query.bfloat16(), None, "pre-ampere") == "math"


def test_cuda_autocast_rules_hold_only_while_they_are_asked_for() -> None:
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = torch.softmax(x, -1).dtype
        with cuda_autocast_rules():
            assert torch.softmax(x, -1).dtype == torch.float32
            assert torch.nn.functional.layer_norm(x, (8,)).dtype == torch.float32
            assert (x**2).dtype == torch.float32
            assert x.sum().dtype == torch.float32
            assert torch.nn.functional.linear(x.float(), torch.ones(3, 8)).dtype == torch.bfloat16
            assert torch.nn.functional.gelu(x).dtype == torch.bfloat16
        assert torch.softmax(x, -1).dtype == before
    torch.testing.assert_close(torch.softmax(x, -1).sum(), torch.tensor(4.0, dtype=torch.bfloat16))


def test_replacements_are_gone_after_a_trace() -> None:
    before = (torch.nn.functional.dropout, torch.nn.functional.scaled_dot_product_attention, torch.is_autocast_enabled)
    traced()
    with pytest.raises(NotModelled):
        traced(attention="flash", target="cpu")
    after = (torch.nn.functional.dropout, torch.nn.functional.scaled_dot_product_attention, torch.is_autocast_enabled)
    assert before == after


def test_kept_logits_are_paid_for_in_backward() -> None:
    dropped, kept = (traced(keep_logits=keep) for keep in (False, True))
    assert kept.instants["backward"] - dropped.instants["backward"] == TOKENS * 512 * 2
    assert kept.instants["loss"] == dropped.instants["loss"]


def test_accumulation_keeps_the_gradients_during_forward() -> None:
    one, four = (traced(method="full", gradient_accumulation_steps=steps) for steps in (1, 4))
    gradients = sum(group.size for group in four.at_instant["forward"] if group.component == "gradients")
    assert gradients == four.components["weights"] or gradients > 0.95 * four.components["weights"]
    batches = 3 * 3 * TOKENS * 8
    assert four.instants["forward"] - one.instants["forward"] == gradients + batches


def test_offloaded_layer_inputs_are_not_on_the_device() -> None:
    # long enough for the layer inputs to outweigh everything else that is alive in forward
    here, there = (
        trace(TINY["llama"], choices(max_length=256, checkpoint_offload=offload), Setup(target="cuda"))
        for offload in (False, True)
    )
    inputs = BATCH * 256 * HIDDEN * 2
    assert here.instants["loss"] - there.instants["loss"] >= (LAYERS - 1) * inputs


def test_paged_state_is_not_allocated() -> None:
    pytest.importorskip("bitsandbytes")
    config = {**TINY["llama"], "vocab_size": 4096}  # the embeddings pass the size from which state is paged
    changes = {"method": "full", "precision": "fp32"}
    plain = trace(config, choices(optimizer="adamw-8bit", **changes))
    paged = trace(config, choices(optimizer="paged-adamw-8bit", **changes))
    assert plain.components["optimizer_state"] - paged.components["optimizer_state"] == 2 * 2 * 4096 * HIDDEN


def test_older_losses_cost_more() -> None:
    today, copied = (traced(transformers_version=version).instants["loss"] for version in (None, "4.48"))
    # the shifted fp32 copy of the logits, less the last position that its log-softmax does without
    assert copied - today == pytest.approx((BATCH * (LENGTH - 1) - BATCH) * 512 * 4, rel=0.01)


def test_explain_names_the_largest_groups() -> None:
    text = explain(traced(gradient_checkpointing=False), instant="forward", limit=5)
    assert "model.layers.{}" in text
    assert "smaller groups" in text


def test_layer_indices_become_a_pattern() -> None:
    assert pattern("model.layers.11.mlp.experts.3.up_proj") == "model.layers.{}.mlp.experts.{}.up_proj"
    assert pattern("h.0") == "h.{}"
    assert pattern("fc1") == "fc1"


def test_no_layer_is_left_out_by_chance_in_a_trace() -> None:
    sizes = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 32)
    few = dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 2)
    own = {"model_type": "m2m_100", "architectures": ["M2M100ForConditionalGeneration"], "vocab_size": 128}
    drawn, never = (
        trace(
            {**own, **sizes, **few, "encoder_layerdrop": rate, "decoder_layerdrop": rate},
            choices(method="full", loss="full", gradient_checkpointing=False),
        )
        for rate in (0.05, 0.0)
    )
    # The number that is drawn and whether it is small enough.
    assert all(0 <= drawn.instants[name] - never.instants[name] <= 2 * 512 for name in never.instants)


def test_of_a_fake_tensor_s_values_only_a_choice_is_known() -> None:
    recorder = StepRecorder()
    recorder.stand_in_for(stand_ins())
    with FakeTensorMode() as mode, recorder:
        x = mode.from_tensor(torch.ones(4))
        assert torch.isfinite(x).all()
        assert not torch.isinf(x).any()
        assert not torch.rand([]) < 0.5
        with pytest.raises(DataDependentOutputException):
            x.max().item()


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(NotModelled, match="tpu"):
        traced(target="tpu")


def test_softmax_backward_holds_a_product_of_its_own_on_cuda_alone() -> None:
    cuda, cpu = (traced(attention="eager", target=target, events=True) for target in ("cuda", "cpu"))
    products = [
        e["bytes"] for e in cuda.events if "softmax" in e["op"] and "scratch" in e["op"] and e["kind"] == "alloc"
    ]
    assert set(products) == {BATCH * HEADS * LENGTH * LENGTH * 4}
    assert len(products) == LAYERS
    assert not [e for e in cpu.events if "scratch" in e["op"]]
