"""A config that transformers saved with a table of its layers, as its makers publish it."""

from __future__ import annotations

from collections.abc import Mapping

KEYS = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
"""What layers of full attention have of their own -> the key by which it is published (Gemma 4; transformers 5.23,
configuration_gemma4.py)."""


def as_published(config: Mapping[str, object]) -> dict[str, object]:
    """The config with `global_head_dim` in place of `per_layer_config`, where the table says no more than that.

    transformers writes the table when it saves such a model, and reads either. Any other table is left as it is.
    """
    found = {
        key: as_published(value) if key == "text_config" and isinstance(value, Mapping) else value
        for key, value in config.items()
    }
    table, kinds = found.get("per_layer_config"), found.get("layer_types")
    if not isinstance(table, Mapping) or not table or not isinstance(kinds, list):
        return found
    full = {str(index) for index, kind in enumerate(kinds) if kind == "full_attention"}
    rows = list(table.values())
    alike = all(isinstance(row, Mapping) and row == rows[0] for row in rows)
    if {str(index) for index in table} != full or not alike or not set(rows[0]) <= set(KEYS):
        return found
    if not all(type(value) is int for value in rows[0].values()) or "head_dim" not in rows[0]:
        return found
    del found["per_layer_config"]
    return {**found, **{KEYS[key]: value for key, value in rows[0].items()}}
