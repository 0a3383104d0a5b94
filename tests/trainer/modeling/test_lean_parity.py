"""The lean step beside plain PEFT: loss and every gradient, piece by piece, over architectures, dtypes and bases."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Collection
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from planner.contract.choices import TrainingChoices
from tests.support.trace_support import TINY
from trainer import modeling
from trainer.measure.meter import StorageMeter
from trainer.measure.processor import Processor
from trainer.modeling import chunked
from trainer.modeling.lean import PIECES, apply_lean, products, rows
from trainer.modeling.lean.dropout import SeededDropout

RELATIVE = 1e-5
SIZES: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**GROUPED, "architectures": ["LlamaForCausalLM"]},
    "phi": {
        **SIZES,
        "architectures": ["PhiForCausalLM"],
        "hidden_act": "gelu_new",
        "partial_rotary_factor": 0.5,
        "resid_pdrop": 0.0,
    },
    "qwen3": {**GROUPED, "architectures": ["Qwen3ForCausalLM"], "head_dim": 16},
    "gemma2": {**GROUPED, "architectures": ["Gemma2ForCausalLM"], "head_dim": 16, "sliding_window": 16},
    "gpt2": {
        **{key: value for key, value in TINY["gpt2"].items() if key != "model_type"},
        "n_layer": 2,
        "vocab_size": 211,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "gpt_neox": {**SIZES, "architectures": ["GPTNeoXForCausalLM"]},
    "olmo2": {**GROUPED, "architectures": ["Olmo2ForCausalLM"], "pad_token_id": 0},
    "starcoder2": {**GROUPED, "architectures": ["Starcoder2ForCausalLM"], "residual_dropout": 0.0},
}
for _name, _config in MODELS.items():
    _config["model_type"] = _name

Gradients = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are handled in more than one piece, the last one ragged."""
    monkeypatch.setattr(rows, "ROWS", 37)


def choices(**changes: Any) -> TrainingChoices:
    values: dict[str, Any] = {
        "stack": "peft",
        "precision": "fp32",
        "lora_dropout": 0.0,
        "gradient_checkpointing": False,
        "gradient_accumulation_steps": 1,
    }
    return TrainingChoices(**{**values, **changes})


def plain(name: str, chosen: TrainingChoices, **config: Any) -> Any:
    """Plain PEFT with adapters that do something."""
    model = modeling.build({**MODELS[name], **config}, dtype=modeling.weights_dtype(chosen.precision), seed=1)
    if chosen.method == "qlora":
        model = modeling.quantize(model, chosen, compute_dtype=torch.float32)
        modeling.prepare_kbit(model, chosen)
    model = modeling.attach_adapters(model, chosen)
    torch.manual_seed(0)
    for path, parameter in model.named_parameters():
        if "lora_B" in path:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def batch_of(lengths: tuple[int, ...] = (40, 40, 40)) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 211, (len(lengths), max(lengths)), generator=generator)
    labels = ids.clone()
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
    return {"input_ids": ids, "labels": labels}


def step(model: Any, chosen: TrainingChoices, batch: dict[str, Any] | None = None) -> tuple[float, Gradients]:
    batch = batch or batch_of()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    items = (batch["labels"][:, 1:] != -100).sum()
    loss, _ = modeling.compute_loss(model, batch, chosen, num_items=items)
    loss.backward()
    return loss.item(), {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}


def distance(found: Gradients, expected: Gradients) -> float:
    """Squared distance of all gradients together, as a share of the expected ones' square."""
    squares = sum((found[n].double() - expected[n].double()).square().sum().item() for n in expected)
    return squares / sum(expected[n].double().square().sum().item() for n in expected)


def worst(found: Gradients, expected: Gradients) -> float:
    """Largest relative distance (2-norm) of a gradient; the same parameters must have one."""
    assert found.keys() == expected.keys()
    assert expected
    return max(
        ((found[n].double() - expected[n].double()).norm() / expected[n].double().norm().clamp(min=1e-12)).item()
        for n in expected
    )


def assert_parity(model: Any, chosen: TrainingChoices, pieces: Collection[str]) -> None:
    reference, expected = step(model, chosen)
    apply_lean(model, chosen, pieces=pieces)
    loss, found = step(model, chosen)
    assert loss == pytest.approx(reference, rel=RELATIVE)
    assert worst(found, expected) < RELATIVE


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pieces", [*((piece,) for piece in PIECES), PIECES], ids=lambda pieces: "+".join(pieces))
def test_each_piece_alone_and_all_together_are_plain_peft(name: str, pieces: tuple[str, ...]) -> None:
    chosen = choices()
    assert_parity(plain(name, chosen), chosen, pieces)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("made_again", [(), ("mlp",), ("norms",)], ids=lambda names: "+".join(names) or "none")
def test_what_is_kept_in_place_of_made_again_is_plain_peft(name: str, made_again: tuple[str, ...]) -> None:
    chosen = choices(made_again=made_again)
    model = plain(name, chosen)
    reference, expected = step(model, chosen)
    apply_lean(model, chosen)
    loss, found = step(model, chosen)
    assert loss == pytest.approx(reference, rel=RELATIVE)
    assert worst(found, expected) < RELATIVE


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_norms_have_the_gradients_of_those_made_again_to_the_bit(name: str, precision: str) -> None:
    found = []
    for made_again in (("mlp",), ("mlp", "norms")):
        chosen = choices(made_again=made_again, method="full", precision=precision)
        model = apply_lean(plain(name, chosen), chosen)
        found.append(step(model, chosen))
    (first, kept), (second, made) = found
    assert first == second
    assert all(torch.equal(kept[key], made[key]) for key in made)


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2"])
def test_norms_train_under_full_fine_tuning(name: str) -> None:
    chosen = choices(method="full")
    assert_parity(plain(name, chosen), chosen, PIECES)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_variant": "rslora"},
        {"lora_variant": "dora"},
        {"lora_targets": ("attention",)},
        {"gradient_checkpointing": True, "checkpoint_layers": 1},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_variants_of_adapters_are_plain_peft(changes: dict[str, Any]) -> None:
    chosen = choices(**changes)
    model = plain("llama", chosen)
    modeling.apply_checkpointing(model, chosen)
    assert_parity(model, chosen, PIECES)


@pytest.mark.parametrize("quantization", ["nf4", "nf4-double"])
def test_four_bit_bases_are_plain_peft(quantization: str) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    chosen = choices(method="qlora", quantization=quantization)
    assert_parity(plain("llama", chosen), chosen, PIECES)


@pytest.mark.parametrize("name", MODELS)
def test_bf16_is_no_further_from_fp32_than_plain_peft(name: str) -> None:
    wide, narrow = choices(), choices(precision="bf16")
    model = plain(name, narrow)
    exact = copy.deepcopy(model).float()
    _, reference = step(exact, wide)
    _, stock = step(model, narrow)
    apply_lean(model, narrow)
    _, lean = step(model, narrow)

    # The lean step's product of rank r is made in bf16 where PEFT casts to the adapters' fp32; olmo2 normalises the
    # projections' outputs, which magnifies that.
    allowed = 1.75 if name == "olmo2" else 1.5
    assert distance(lean, reference) <= allowed**2 * distance(stock, reference)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_has_the_gradient_of_its_loss_and_survives_recomputation(name: str) -> None:
    chosen = choices(lora_dropout=0.1)
    model = apply_lean(plain(name, chosen), chosen)
    batch = batch_of((24, 24))
    loss, gradients = step(model, chosen, batch)
    assert step(model, chosen, batch)[0] == loss, "the same seed gives the same masks"

    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(5)
    # Along the gradient, disturbed: steep enough that fp32 can tell the slope.
    direction = {
        n: g + 0.3 * g.std() * torch.randn(g.shape, generator=generator) for n, g in gradients.items() if n in trained
    }
    length = sum(d.square().sum().item() for d in direction.values()) ** 0.5

    def moved(by: float) -> float:
        with torch.no_grad():
            before = {n: p.clone() for n, p in trained.items()}
            for n, p in trained.items():
                p.add_(direction[n], alpha=by / length)
        value = step(model, chosen, batch)[0]
        with torch.no_grad():
            for n, p in trained.items():
                p.copy_(before[n])
        return value

    numeric = (moved(0.001) - moved(-0.001)) / 0.002
    analytic = sum((gradients[n] * direction[n]).sum().item() for n in direction) / length
    assert numeric == pytest.approx(analytic, rel=1e-2)

    modeling.apply_checkpointing(model, choices(lora_dropout=0.1, gradient_checkpointing=True))
    again, recomputed = step(model, chosen, batch)
    assert again == loss
    assert worst(recomputed, gradients) < RELATIVE


def test_dropout_keeps_the_share_it_promises() -> None:
    masks = rows.Masks(0.2, 7, torch.empty(0))
    mask = masks.next(500, 400)
    assert mask.mean().item() == pytest.approx(1.0, abs=0.01)
    assert sorted(mask.unique().tolist()) == pytest.approx([0.0, 1.25])


def test_experts_in_one_tensor_are_no_mlp() -> None:
    experts = torch.nn.Module()
    for name in ("gate_proj", "up_proj", "down_proj"):
        experts.register_parameter(name, torch.nn.Parameter(torch.zeros(2, 4, 4)))
    experts.act_fn = torch.nn.SiLU()
    experts.config = PretrainedConfig()
    assert apply_lean(experts, choices()) is experts
    assert "forward" not in vars(experts)


@pytest.mark.parametrize("shape", [(3, 50, 64), (2, 4, 50, 30)])
def test_dropout_is_the_same_share_of_value_and_gradient(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape).add_(1).requires_grad_()
    out = SeededDropout.apply(x, 0.25, 11)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(out, x * x.grad)
    assert sorted(x.grad.unique().tolist()) == pytest.approx([0.0, 4 / 3])


@pytest.mark.parametrize("layout", ["plain", "turned"])
def test_dropout_of_attention_s_probabilities_makes_nothing_but_its_result(layout: str) -> None:
    """However many heads: a mask beside it would be as large as rows of all heads together."""
    x = torch.ones(2, 4, 50, 30)
    x = x.transpose(1, 2).contiguous().transpose(1, 2) if layout == "turned" else x
    with StorageMeter() as meter:
        meter.adopt([x])
        meter.enter("forward")
        out = SeededDropout.apply(x, 0.25, 11)
        meter.enter("end")
    copied = 1 if layout == "turned" else 0
    assert meter.instants["forward"] == (2 + copied) * out.numel() * 4


LENGTHS = (40, 7, 29)


def with_lengths(batch: dict[str, Any], lengths: tuple[int, ...]) -> dict[str, Any]:
    return {**batch, "lengths": [(length,) for length in lengths]}


@pytest.mark.parametrize("checkpointed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", MODELS)
def test_a_row_without_padding_has_the_padded_batch_s_loss(name: str, checkpointed: bool) -> None:
    chosen = choices(stack="builtin", loss="chunked", gradient_checkpointing=checkpointed)
    model = plain(name, chosen)
    modeling.apply_checkpointing(model, chosen)
    batch = batch_of(LENGTHS)
    reference, expected = step(model, chosen, batch)
    loss, found = step(model, chosen, with_lengths(batch, LENGTHS))
    flattened = model.get_base_model().config._attn_implementation == "sequences"
    assert flattened == (name != "gemma2"), "gemma2's soft cap has no kernel of its own: it stays padded"
    assert loss == pytest.approx(reference, rel=RELATIVE)
    assert worst(found, expected) < RELATIVE


def test_a_sliding_window_shorter_than_a_sequence_holds_within_it() -> None:
    chosen = choices(stack="builtin", loss="chunked")
    model = plain("starcoder2", chosen, sliding_window=11)
    batch = batch_of(LENGTHS)
    reference, expected = step(model, chosen, batch)
    loss, found = step(model, chosen, with_lengths(batch, LENGTHS))
    assert loss == pytest.approx(reference, rel=RELATIVE)
    assert worst(found, expected) < RELATIVE


def test_sequences_packed_into_one_row_do_not_see_each_other() -> None:
    chosen = choices(stack="builtin", loss="chunked")
    model = plain("llama", chosen)
    batch = batch_of(LENGTHS)
    reference, expected = step(model, chosen, batch)
    parts = [batch["input_ids"][row, :length] for row, length in enumerate(LENGTHS)]
    ids = torch.cat(parts).unsqueeze(0)
    labels = torch.cat([torch.cat([torch.tensor([-100]), part[1:]]) for part in parts]).unsqueeze(0)
    packed = {"input_ids": ids, "labels": labels, "lengths": [LENGTHS]}
    loss, found = step(model, chosen, packed)
    assert loss == pytest.approx(reference, rel=RELATIVE)
    assert worst(found, expected) < RELATIVE
    changed = {**packed, "input_ids": ids.clone()}
    changed["input_ids"][0, :40] = 1
    changed["labels"] = labels.clone()
    changed["labels"][0, :40] = -100
    only = {**packed, "labels": changed["labels"]}
    assert step(model, chosen, changed)[0] == pytest.approx(step(model, chosen, only)[0], rel=1e-6)


def test_generation_and_padded_batches_still_see_a_mask() -> None:
    chosen = choices(stack="builtin", loss="chunked")
    model = plain("llama", chosen).eval()
    prompt = batch_of((12,))["input_ids"]
    before = model.generate(input_ids=prompt, max_new_tokens=6, do_sample=False)
    batch = batch_of(LENGTHS)
    step(model, chosen, with_lengths(batch, LENGTHS))
    assert model.get_base_model().config._attn_implementation == "sequences"
    after = model.generate(input_ids=prompt, max_new_tokens=6, do_sample=False)
    assert torch.equal(before, after)
    assert step(model, chosen, batch)[0] == pytest.approx(
        step(model, chosen, with_lengths(batch, LENGTHS))[0], rel=1e-5
    )


def test_the_chunked_loss_and_the_lean_step_together_are_plain_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "chunk_rows", lambda vocab: 41)
    stock = choices()
    model = plain("llama", stock)
    batch = batch_of(LENGTHS)
    reference, expected = step(model, stock, batch)
    lean = choices(stack="builtin", loss="chunked")
    apply_lean(model, lean)
    loss, found = step(model, lean, with_lengths(batch, LENGTHS))
    assert loss == pytest.approx(reference, rel=RELATIVE)
    assert worst(found, expected) < RELATIVE


@pytest.mark.skipif(not products.available(), reason="oneDNN has no 512-bit products for this processor")
@pytest.mark.parametrize("name", MODELS)
def test_products_by_onednn_are_plain_peft_as_those_by_blas_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []
    real = products._onednn

    def watched(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        taken.append(tuple(x.shape))
        return real(x, weight, bias)

    monkeypatch.setattr(products, "_onednn", watched)
    monkeypatch.setattr(products, "faster", lambda: True)  # it has to hold on Intel's processors too
    chosen = choices()
    model = plain(name, chosen)
    reference, expected = step(model, chosen)
    apply_lean(model, chosen)
    with products.only_blas():
        blas, by_blas = step(model, chosen)
    assert not taken
    loss, found = step(model, chosen)
    assert taken
    assert blas == pytest.approx(reference, rel=RELATIVE)
    assert loss == pytest.approx(reference, rel=RELATIVE)
    assert worst(by_blas, expected) < RELATIVE
    assert worst(found, expected) < RELATIVE


@pytest.mark.parametrize(("rows_", "inner", "out"), [(1, 8, 3), (37, 64, 211), (300, 96, 8), (64, 8, 96)])
def test_a_product_is_that_of_torch_in_every_layout(rows_: int, inner: int, out: int) -> None:
    generator = torch.Generator().manual_seed(rows_)
    x = torch.randn((rows_, inner), generator=generator)
    weight = torch.randn((out, inner), generator=generator)
    bias = torch.randn(out, generator=generator)
    exact = x.double() @ weight.double().t()
    strided = torch.randn((rows_, 2 * inner), generator=generator)[:, ::2].copy_(x)
    cases = {
        "plain": (products.linear(x, weight), exact),
        "bias": (products.linear(x, weight, bias), exact + bias),
        "transposed weight": (products.linear(x, weight.t().contiguous().t()), exact),
        "matmul": (products.matmul(x, weight.t()), exact),
        "rows apart": (products.linear(strided, weight), exact),
        "other dtype": (products.linear(x.double(), weight.double()), exact),
    }
    for name, (found, wanted) in cases.items():
        assert found.shape == wanted.shape, name
        assert found.is_contiguous(), name
        assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize(
    ("vendor", "available", "onednn"),
    [("AuthenticAMD", True, True), ("AuthenticAMD", False, False), ("GenuineIntel", True, False), ("", True, True)],
)
def test_the_processor_s_maker_says_which_library_multiplies(
    vendor: str, available: bool, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(products, "processor", lambda: Processor(vendor=vendor))
    monkeypatch.setattr(products, "available", lambda: available)
    monkeypatch.setattr(products, "faster", products.faster.__wrapped__)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "_onednn", lambda x, weight, bias: taken.append(1) or x @ weight.t())
    products.linear(torch.ones((2, 3)), torch.ones((4, 3)))
    assert bool(taken) is onednn


def test_no_rows_have_no_product() -> None:
    assert products.linear(torch.zeros((0, 8)), torch.zeros((3, 8))).shape == (0, 3)


def test_a_gated_mlp_keeps_the_dropout_at_its_end() -> None:
    """GIVEN an architecture that drops out what its MLP made WHEN it runs lean THEN about as much is zero."""
    config = {**GROUPED, "model_type": "seed_oss", "head_dim": 16, "residual_dropout": 0.75, "attention_dropout": 0.0}
    chosen = choices(stack="builtin")
    model = modeling.attach_adapters(modeling.build(config, dtype=torch.float32, seed=1), chosen)
    apply_lean(model, chosen, pieces=("mlp",))
    made = model.base_model.model.model.layers[0].mlp(torch.ones(4, 64, 64))
    assert 0.7 < (made == 0).float().mean().item() < 0.8
