"""The pieces of the training step: same mathematics whichever loss, the layers that were asked for, the dtypes too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.run_settings import Hyperparameters
from tests.support.trace_support import TINY, build, choices, make_batch
from trainer import modeling
from trainer.modeling import chunked
from trainer.modeling.adapters import target_paths


def losses_and_gradients(name: str, config: dict[str, Any], loss: str, **changes: Any) -> tuple[float, dict[str, Any]]:
    chosen = choices(
        precision="fp32", loss=loss, stack="builtin", gradient_checkpointing=False, lora_dropout=0.0, **changes
    )
    model = build(config, chosen).eval()
    batch = make_batch(config, chosen)
    batch["labels"][:, :10] = -100
    batch["labels"][1, 30:] = -100
    items = (batch["labels"][:, 1:] != -100).sum()
    value, _ = modeling.compute_loss(model, batch, chosen, num_items=items)
    value.backward()
    return value.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "cohere", "gpt2", "phi", "qwen2"])
def test_chunked_loss_has_the_same_value_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "chunk_rows", lambda vocab: 37)  # several chunks, the last one ragged
    config = dict(TINY[name])
    if name == "gemma2":
        config["final_logit_softcapping"] = 3.0  # tight enough to bend the logits
    full, gradients = losses_and_gradients(name, config, "full", method="full")
    lean, lean_gradients = losses_and_gradients(name, config, "chunked", method="full")
    assert lean == pytest.approx(full, rel=1e-5)
    assert gradients.keys() == lean_gradients.keys()
    for path, gradient in gradients.items():
        torch.testing.assert_close(lean_gradients[path], gradient, rtol=2e-3, atol=2e-6, msg=path)


def test_chunked_loss_averages_over_the_targets_when_no_count_is_given() -> None:
    chosen = choices(precision="fp32", loss="chunked", stack="builtin", method="full")
    model = build(TINY["llama"], chosen).eval()
    batch = make_batch(TINY["llama"], chosen)
    batch["labels"][0] = -100
    lean, _ = modeling.compute_loss(model, batch, chosen)
    full, _ = modeling.compute_loss(model, batch, choices(precision="fp32", method="full"))
    assert lean.item() == pytest.approx(full.item(), rel=1e-5)


def test_chunked_loss_survives_a_batch_without_targets() -> None:
    chosen = choices(loss="chunked", stack="builtin")
    model = build(TINY["llama"], chosen)
    batch = make_batch(TINY["llama"], chosen)
    batch["labels"].fill_(-100)
    loss, _ = modeling.compute_loss(model, batch, chosen)
    loss.backward()
    assert loss.item() == 0.0


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    for loss in ("full", "chunked"):
        chosen = choices(precision="fp32", loss=loss, stack="builtin", method="full", gradient_accumulation_steps=3)
        model = build(TINY["llama"], chosen).eval()
        batch = make_batch(TINY["llama"], chosen)
        batch["labels"][0, :50] = -100
        items = (batch["labels"][:, 1:] != -100).sum()
        whole, _ = modeling.compute_loss(model, batch, chosen, num_items=items)
        parts = [
            modeling.compute_loss(model, {k: v[i : i + 1] for k, v in batch.items()}, chosen, num_items=items)[0]
            for i in range(3)
        ]
        assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-5)


def test_chunks_are_powers_of_two_that_fit() -> None:
    for vocabulary in (512, 32_000, 50_257, 128_256, 151_936, 256_000):
        rows = chunked.chunk_rows(vocabulary)
        assert rows & (rows - 1) == 0
        assert 64 <= rows <= 4096
        assert rows * vocabulary * 4 <= chunked.CHUNK_BYTES or rows == 64


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_chunked_loss_refuses_other_than_causal_models(name: str) -> None:
    chosen = choices(loss="chunked", stack="builtin")
    with pytest.raises(NotModelled, match="causal"):
        modeling.compute_loss(build(TINY[name], chosen), make_batch(TINY[name], chosen), chosen)


@pytest.mark.parametrize("version", ["4.45", "4.48", "no-upcast"])
def test_older_loss_code_gives_the_same_loss(version: str) -> None:
    batch = make_batch(TINY["llama"], choices())
    values = []
    for asked in (None, version):
        chosen = choices(precision="fp32", transformers_version=asked, method="full")
        values.append(modeling.compute_loss(build(TINY["llama"], chosen).eval(), batch, chosen)[0].item())
    assert values[1] == pytest.approx(values[0], rel=1e-5)


def test_versions_map_to_the_loss_code_they_had() -> None:
    from trainer.modeling.loss import _version

    found = {asked: _version(choices(transformers_version=asked)) for asked in ("4.41", "4.46", "4.49", "4.50", "5.2")}
    assert found == {"4.41": "4.45", "4.46": "4.48", "4.49": "4.48", "4.50": None, "5.2": None}
    with pytest.raises(InvalidInput, match=r"4\.48"):
        _version(choices(transformers_version="new"))


@pytest.mark.parametrize(("layers", "expected"), [(None, 3), (0, 0), (2, 2), (9, 3)])
def test_the_first_layers_are_checkpointed(layers: int | None, expected: int) -> None:
    model = modeling.build(TINY["llama"], dtype=torch.float32)
    assert modeling.apply_checkpointing(model, choices(checkpoint_layers=layers)) == expected
    switches = [layer.gradient_checkpointing for layer in modeling.checkpointable_layers(model)]
    assert switches == [index < expected for index in range(3)]


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_gradient(name: str, reentrant: bool) -> None:
    found = []
    for checkpointing in (False, True):
        chosen = choices(
            precision="fp32",
            gradient_checkpointing=checkpointing,
            checkpoint_layers=2 if checkpointing else None,
            checkpoint_reentrant=reentrant,
            lora_dropout=0.0,
        )
        config = {**TINY[name], "dropout_rate": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        model = build(config, chosen)
        for parameter in model.parameters():  # LoRA's B starts at zero, which would hide a broken path to A
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
        modeling.compute_loss(model, make_batch(config, chosen), chosen)[0].backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert found[0]
    for path, gradient in found[0].items():
        torch.testing.assert_close(found[1][path], gradient, rtol=1e-4, atol=1e-6, msg=path)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({}, torch.float32),
        ({"adapter_dtype": "bf16"}, torch.bfloat16),
        ({"precision": "bf16-mixed"}, torch.float32),
        ({"precision": "fp16"}, torch.float32),
    ],
)
def test_adapters_have_the_chosen_dtype(changes: dict[str, Any], dtype: Any) -> None:
    model = build(TINY["llama"], choices(**changes))
    trained = {p.dtype for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {dtype}


def test_targets_resolve_to_modules() -> None:
    llama = modeling.build(TINY["llama"], dtype=torch.float32)
    leaves = {path.rsplit(".", 1)[-1] for path in target_paths(llama, ("attention",))}
    assert leaves == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert len(target_paths(llama, ("all-linear",))) == 21
    assert len(target_paths(llama, ("lm_head", "q_proj"))) == 4
    gpt2 = modeling.build(TINY["gpt2"], dtype=torch.float32)
    assert {path.split("h.", 1)[1][2:] for path in target_paths(gpt2, ("attention",))} == {"attn.c_attn", "attn.c_proj"}
    bert = modeling.build(TINY["bert"], dtype=torch.float32)
    assert all("attention" in path for path in target_paths(bert, ("attention",)))
    with pytest.raises(InvalidInput, match="q_proj"):
        target_paths(llama, ("qproj",))


def test_adapter_configs_name_leaves_where_that_is_exact() -> None:
    def named(config: dict[str, Any], *targets: str) -> set[str]:
        model = modeling.attach_adapters(modeling.build(config, dtype=torch.float32), choices(lora_targets=targets))
        return set(model.peft_config["default"].target_modules)

    assert named(TINY["llama"], "attention") == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert len(named(TINY["bert"], "attention")) == 12  # `dense` would mean the MLP's too
    assert "c_fc" in named(TINY["gpt2"], "all-linear")


def test_a_classifier_is_trained_in_full() -> None:
    config = {**TINY["bert"], "architectures": ["BertForSequenceClassification"], "num_labels": 2}
    model = modeling.attach_adapters(modeling.build(config, dtype=torch.float32), choices(lora_targets=("all-linear",)))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("classifier.modules_to_save" in name for name in trained)
    assert not any("classifier" in name and "lora" in name for name in trained)


def test_weights_are_read_from_safetensors(tmp_path: Path) -> None:
    model = modeling.build(TINY["llama"], dtype=torch.bfloat16, seed=3)
    model.save_pretrained(tmp_path)
    again = modeling.build(TINY["llama"], dtype=torch.float32, weights=str(tmp_path))
    assert again.training
    torch.testing.assert_close(again.model.norm.weight, model.model.norm.weight.float())
    torch.testing.assert_close(
        again.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight.float()
    )


def test_random_weights_follow_the_seed() -> None:
    first, second, third = (modeling.build(TINY["qwen2"], dtype=torch.float32, seed=s) for s in (1, 1, 2))
    weight = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(first.get_parameter(weight), second.get_parameter(weight))
    assert not torch.equal(first.get_parameter(weight), third.get_parameter(weight))


def test_gemma2_falls_back_to_eager_attention() -> None:
    model = modeling.build(TINY["gemma2"], dtype=torch.float32, attention="sdpa", device="meta")
    assert model.config._attn_implementation == "eager"


def test_unknown_types_are_refused() -> None:
    with pytest.raises(NotModelled, match="nonesuch"):
        modeling.build({"model_type": "nonesuch"}, dtype=torch.float32)
    with pytest.raises(InvalidInput, match="model_type"):
        modeling.build({}, dtype=torch.float32)


@pytest.mark.parametrize(
    ("optimizer", "cls"), [("adamw", "AdamW"), ("sgd", "SGD"), ("adafactor", "Adafactor"), ("adamw-8bit", "AdamW8bit")]
)
def test_optimizers_and_their_groups(optimizer: str, cls: str) -> None:
    if "bit" in optimizer:
        pytest.importorskip("bitsandbytes")
    model = modeling.build(TINY["phi"], dtype=torch.float32)
    made = modeling.build_optimizer(
        model, choices(optimizer=optimizer, method="full"), Hyperparameters(weight_decay=0.1, learning_rate=1e-3)
    )
    assert type(made).__name__ == cls
    assert [group["weight_decay"] for group in made.param_groups] == [0.1, 0.0]
    assert all(parameter.ndim == 1 for parameter in made.param_groups[1]["params"])
    assert sum(len(group["params"]) for group in made.param_groups) == len(list(model.parameters()))


def test_mixed_precision_returns_fp32_logits() -> None:
    chosen = choices(precision="bf16-mixed")
    model = build(TINY["llama"], chosen)
    modeling.wrap_forward(model, modeling.autocast_dtype(chosen), "cpu")
    output = model(**make_batch(TINY["llama"], chosen))
    assert output.logits.dtype == torch.float32


@pytest.mark.parametrize(("model_type", "left"), [("falcon_h1", {"out_proj"}), ("llama", set())])
def test_all_linear_leaves_out_what_peft_refuses(model_type: str, left: set[str]) -> None:
    from benchmarks.small_types import small
    from tests.support.sources_cases import CASES
    from trainer.modeling.adapters import refused_leaves, target_paths

    config = small(model_type) if model_type == "falcon_h1" else dict(CASES)["llama"]
    model = modeling.build(config, dtype=torch.float32, device="meta")
    found = {path.rsplit(".", 1)[-1] for path in target_paths(model, ("all-linear",))}
    assert refused_leaves(model) == left
    assert {"q_proj", "down_proj"} <= found
    assert not found & left
    modeling.attach_adapters(model, TrainingChoices(lora_targets=("all-linear",)), low_cpu_mem_usage=True)
