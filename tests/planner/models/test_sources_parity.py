"""Parameter names, shapes and counts equal those of the transformers model built from the same config."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from planner.contract.architectures import ARCHITECTURES, supported
from planner.contract.errors import NotModelled
from planner.models.sources import from_config, parameter_shapes
from tests.support.sources_cases import CASES, LABELS, build_on_meta, case_task


def assert_same_parameters(ours: dict[str, tuple[int, ...]], model: Any) -> None:
    """Every parameter stands once, under one of its names, with its shape; nothing else does."""
    names: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(name)
        if name in ours:
            assert ours[name] == tuple(value.shape), name
    hits = [[name for name in group if name in ours] for group in names.values()]
    assert all(len(hit) == 1 for hit in hits), list(names.values())
    assert sorted(hit[0] for hit in hits) == sorted(ours)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_names_shapes_and_count_equal_transformers(case: tuple[str, dict[str, Any]]) -> None:
    name, config = case
    spec = from_config(copy.deepcopy(config), name)
    model = build_on_meta(config, case_task(config))
    assert_same_parameters(parameter_shapes(spec), model)
    assert spec.parameters == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_classification_head_equals_transformers(case: tuple[str, dict[str, Any]]) -> None:
    name, config = case
    if not ARCHITECTURES[config["model_type"]].classifies:
        with pytest.raises(NotModelled, match=config["model_type"]):
            from_config(copy.deepcopy(config), name, task="classification")
        return
    spec = from_config(copy.deepcopy(config), name, task="classification")
    model = build_on_meta(config, "classification")
    assert_same_parameters(parameter_shapes(spec), model)
    assert spec.modules[-1].out_features == LABELS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_completed_config_equals_the_config_class(case: tuple[str, dict[str, Any]]) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    name, config = case
    spec = from_config(copy.deepcopy(config), name)
    raw = copy.deepcopy(config)
    model_type = raw.pop("model_type")
    real = CONFIG_MAPPING[model_type](**raw).to_dict()
    ours = {key: value for key, value in spec.config.items() if key not in ("architectures", "num_labels")}
    given_in_the_old_form = {"rope_theta", "rope_scaling", "rotary_pct", "rotary_emb_base", "partial_rotary_factor"}
    given_in_the_old_form |= {"rope_local_base_freq", "sliding_window_pattern", "num_experts", "n_embed"}
    for key in set(ours) - given_in_the_old_form:
        if key == "num_ln_in_parallel_attn":
            continue  # transformers works it out when the first layer is built
        assert ours[key] == real[key], key
    missing = set(real) - set(ours)
    assert not {key for key in missing if key in _structural()}, missing


def _structural() -> set[str]:
    return {"layer_types", "head_dim", "num_key_value_heads", "is_gated_act", "dense_act_fn", "ffn_hidden_size"}


def test_every_architecture_has_a_case() -> None:
    assert {config["model_type"] for _, config in CASES} == set(supported())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_modules_stand_in_forward_order(case: tuple[str, dict[str, Any]]) -> None:
    """The embedding comes first, what follows the stack comes last, and no path stands twice for one layer."""
    name, config = case
    spec = from_config(copy.deepcopy(config), name)
    assert spec.modules[0].kind == "embedding"
    seen = [(module.path, layer) for module in spec.modules for layer in module.layers or (-1,)]
    assert len(seen) == len(set(seen))
    assert all(("{}" in module.path) == (module.layers is not None) for module in spec.modules)
    ties = {module.tied_to for module in spec.modules if module.tied_to}
    assert ties <= {module.path for module in spec.modules}
