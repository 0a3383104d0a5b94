"""What transformers saves as a table of layers is read as its makers publish it, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from planner.contract.layer_table import as_published

KINDS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]


def _saved(table: Any) -> dict[str, Any]:
    return {"model_type": "gemma4_text", "layer_types": KINDS, "head_dim": 16, "per_layer_config": table}


def test_two_widths_of_heads_are_one_key_each() -> None:
    row = {"head_dim": 32, "num_key_value_heads": 1}
    want = {"model_type": "gemma4_text", "layer_types": KINDS, "head_dim": 16}
    want |= {"global_head_dim": 32, "num_global_key_value_heads": 1}
    assert as_published(_saved({"1": row, "3": row})) == want
    whole = {"model_type": "gemma4", "text_config": _saved({"1": row, "3": row})}
    assert as_published(whole) == {"model_type": "gemma4", "text_config": want}


@pytest.mark.parametrize(
    "table",
    [
        {"1": {"head_dim": 32}},
        {"0": {"head_dim": 32}, "3": {"head_dim": 32}},
        {"1": {"head_dim": 32}, "3": {"head_dim": 64}},
        {"1": {"hidden_size": 8}, "3": {"hidden_size": 8}},
        {"1": {"head_dim": "org/model"}, "3": {"head_dim": "org/model"}},
        {"1": 3, "3": 3},
        {"1": {}, "3": {}},
        [],
        None,
    ],
    ids=str,
)
def test_any_other_table_stays_for_the_refusal(table: Any) -> None:
    assert as_published(_saved(table)) == _saved(table)
