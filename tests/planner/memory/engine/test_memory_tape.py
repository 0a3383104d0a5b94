"""The tape's own rules: lifetimes, engine, checkpointing, repeated layers, stretches, and the envelope of events.

Numbers are computed by hand in the comments; engine and checkpointing also run in PyTorch beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec
from planner.memory.engine import ops, products
from planner.memory.engine.graph import Node, Parameter, Tensor
from planner.memory.engine.layout import Stretch, layout, period, stacked, symbolic_range
from planner.memory.engine.monomials import ONE, SS, TE, WIDTH, T, Vector, add
from planner.memory.engine.peak import envelope, evaluate
from planner.memory.engine.tape import Tape
from planner.memory.engine.values import multipliers, row_multipliers
from planner.memory.reserved.replay import step_log
from planner.memory.step.case import Case
from planner.memory.step.program import layer_kind, run
from planner.models.sources import from_config


def leaf(tape: Tape, elements: int = 100) -> Tensor:
    """A 1-byte tensor of `elements` whose gradient nobody keeps."""
    tensor = tape.new(ONE, elements, 1)
    tape.sequence += 1
    tensor.node = Node(tape.sequence, (), (), lambda g, s: ())
    return tensor


def live(tape: Tape) -> int:
    return tape.ledger.live[ONE]


def peak_of(tape: Tape, name: str) -> int:
    return max(event[ONE] for segment in tape.ledger.segments if segment.name == name for event in segment.events)


# ---- bytes and lifetimes


def test_bytes_live_from_the_first_reference_to_the_last() -> None:
    tape = Tape()
    a = tape.new(T, 10, 2)
    b = a.alias()
    assert tape.ledger.live[T] == 20
    del a
    assert tape.ledger.live[T] == 20
    del b
    assert tape.ledger.live[T] == 0
    assert tape.ledger.segments[-1].events[-1][T] == 20


def test_components_sum_to_what_is_live() -> None:
    tape = Tape()
    with tape.scope("attention"):
        a = tape.new(SS, 3, 4)
    b = tape.new(ONE, 7, 1)
    tape.retag(b, "gradients")
    assert tape.ledger.by_component["attention"][SS] == 12
    assert tape.ledger.by_component["gradients"][ONE] == 7
    assert [
        sum(values[i] for values in tape.ledger.by_component.values()) for i in range(2 * WIDTH)
    ] == tape.ledger.live
    del a, b


def test_a_product_keeps_its_factors_and_backward_makes_one_gradient_each() -> None:
    # a, b: 100 each; out: 100. Kept: a, b. Backward: gradient 100, then 100 for a and 100 for b.
    tape = Tape()
    a, b = leaf(tape), leaf(tape)
    out = ops.mul(tape, a, b)
    del a, b
    assert live(tape) == 300
    tape.ledger.begin("backward")
    gradient = tape.new(ONE, 100, 1)
    root = out.same()
    del out
    tape.backward(root, gradient)
    assert peak_of(tape, "backward") == 300 + 100 + 200
    del root, gradient
    assert live(tape) == 0


def test_under_no_grad_nothing_is_kept() -> None:
    tape = Tape()
    a = leaf(tape)
    with tape.no_grad():
        out = ops.mul(tape, a, a)
    assert out.node is None
    del a
    assert live(tape) == 100


def test_a_parameters_gradient_stays_and_a_second_one_is_added_to_it() -> None:
    # Weight and x of 100; each product makes dW of 100; the first becomes the gradient, the second is added in place.
    tape = Tape()
    weight = ops.Weight(tape, 100, 1, trainable=True)
    x = tape.new(ONE, 100, 1)
    out = ops.add(tape, ops.mul(tape, weight.tensor, x), ops.mul(tape, weight.tensor, x))
    tape.ledger.begin("backward")
    gradient = tape.new(ONE, 100, 1)
    root = out.same()
    del out
    before = live(tape)
    tape.backward(root, gradient)
    assert peak_of(tape, "backward") == before + 200
    del root, gradient, x
    assert weight.parameter is not None
    assert weight.parameter.grad is not None
    assert live(tape) == 200
    assert tape.ledger.by_component["gradients"][ONE] == 100


def test_a_gradient_that_somebody_else_holds_is_copied_for_its_parameter() -> None:
    tape = Tape()
    parameter = Parameter(100, 1)
    held = tape.new(ONE, 100, 1)
    parameter.received = [held.alias()]
    tape._accumulate(parameter)
    assert live(tape) == 200


# ---- engine and checkpointing beside PyTorch


def _engine_ops() -> list[Any]:
    torch = pytest.importorskip("torch")
    from torch.nn import functional
    from torch.utils.checkpoint import checkpoint

    from tests.support.memory_ops_support import Input, Op

    wide = 96
    x = Input(("B", "S", wide), "bf16")
    weight = torch.nn.Parameter(torch.zeros(wide, wide, dtype=torch.bfloat16), requires_grad=False)

    def frozen(tape: Tape) -> ops.Weight:
        made = ops.Weight(tape, 0, 2, trainable=False)
        made.tensor.elements = wide * wide
        return made

    def branches(x: Any) -> Any:
        return x * 2.0 + x * 3.0 + x * 5.0

    def tape_branches(tape: Tape, x: Tensor) -> Tensor:
        return ops.add(tape, ops.add(tape, ops.scale(tape, x), ops.scale(tape, x)), ops.scale(tape, x))

    def ends_in_linear(x: Any) -> Any:
        hidden = functional.silu(x)
        hidden = functional.silu(hidden)
        return functional.linear(hidden * hidden, weight) * 2.0

    def tape_linear(tape: Tape, x: Tensor) -> Tensor:
        hidden = ops.pointwise(tape, x)
        hidden = ops.pointwise(tape, hidden)
        return ops.scale(tape, products.linear(tape, ops.mul(tape, hidden, hidden), frozen(tape), wide, wide))

    def ends_in_product(x: Any) -> Any:
        hidden = functional.silu(x)
        return x + hidden * (hidden + 1.0)

    def tape_product(tape: Tape, x: Tensor) -> Tensor:
        hidden = ops.pointwise(tape, x)
        return ops.add(tape, x, ops.mul(tape, hidden, ops.shift(tape, hidden)))

    cases = [Op("gradients of three uses", (x,), x, branches, tape_branches)]
    for name, real, modelled, parameters in (
        ("ends in a linear", ends_in_linear, tape_linear, (weight,)),
        ("ends in a product", ends_in_product, tape_product, ()),
    ):
        # Layers end in a sum, which hands its gradient on; only of such a region the re-entrant variant is modelled.
        for reentrant in (False, True) if real is ends_in_product else (False,):
            cases.append(
                Op(
                    f"{'reentrant ' if reentrant else ''}checkpoint, {name}",
                    (x,),
                    x,
                    lambda x, *_, real=real, reentrant=reentrant: checkpoint(real, x, use_reentrant=reentrant),
                    lambda tape, x, modelled=modelled, reentrant=reentrant: tape.checkpoint(
                        lambda y: modelled(tape, y), x, reentrant=reentrant
                    ),
                    parameters,
                )
            )
    return cases


@pytest.mark.parametrize("number", range(4))
def test_engine_and_checkpoint_live_as_in_pytorch(number: int) -> None:
    from tests.support.memory_ops_support import agrees

    agrees(_engine_ops()[number])


def test_pytorch_adds_the_second_gradient_in_place_and_leaves_one_that_is_held() -> None:
    """The rule itself, without a meter: where the sum of two gradients lies in memory."""
    torch = pytest.importorskip("torch")
    seen: dict[str, int] = {}

    class Source(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return torch.zeros(1000)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            seen["sum"] = gradient.data_ptr()

    class Use(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, keep: Any) -> Any:
            ctx.keep = keep
            return torch.zeros(())

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            made = torch.ones(1000)
            seen.setdefault("first", made.data_ptr())
            if ctx.keep is not None:
                ctx.keep.append(made)
            return made, None

    for keep in (None, []):
        seen.clear()
        x = Source.apply(torch.zeros((), requires_grad=True))
        (Use.apply(x, keep) + Use.apply(x, keep)).backward()
        assert (seen["sum"] == seen["first"]) is (keep is None)


def test_a_recomputation_stops_before_the_last_output_is_born() -> None:
    # x 100; h = f(x) 100 saved by the product; the product's output 100 is not made again.
    tape = Tape()
    x = leaf(tape)
    weight = ops.Weight(tape, 0, 1, trainable=False)
    weight.tensor.elements = 100

    def region(y: Tensor) -> Tensor:
        hidden = ops.scale(tape, y)
        return ops.mul(tape, hidden, weight_like(tape))

    held = tape.new(ONE, 100, 1)

    def weight_like(tape: Tape) -> Tensor:
        return held.alias()

    out = tape.checkpoint(region, x)
    assert live(tape) == 300  # x, held, out
    del x
    root = out.same()
    del out
    tape.ledger.begin("backward")
    gradient = tape.new(ONE, 100, 1)
    tape.backward(root, gradient)
    # Before: x, held, out, gradient = 400. Recomputed: hidden (dies at once: only `held` is saved), then no output.
    # Backward of the product: one gradient of 100; x is gone once the region ran. Of the scaling: one more.
    assert peak_of(tape, "backward") == 500


def test_a_recomputed_branch_that_backward_leaves_out_lives_as_long_as_its_name() -> None:
    # A weight that only a detached norm uses (DoRA's): the checkpoint drops in forward what its graph saved, but while
    # it is made again it keeps that as long as it is named, though no backward will ask for it.
    tape = Tape()
    x = leaf(tape)
    held: list[int] = []

    def region(y: Tensor) -> Tensor:
        before = live(tape)
        factor = ops.scale(tape, y)
        branch = ops.mul(tape, factor, factor)
        del factor
        branch = ops.scale(tape, branch)
        held.append(live(tape) - before)
        del branch
        return ops.power(tape, y)

    out = tape.checkpoint(region, x)
    tape.ledger.begin("backward")
    tape.backward(out, tape.new(ONE, 100, 1))
    assert held == [100, 200]  # the branch; with it the factor that the product saved


@pytest.mark.parametrize(("reentrant", "kept"), [(False, 0), (True, 100)])
def test_an_input_back_from_the_host_lives_through_backward_where_the_checkpoint_is_reentrant(
    reentrant: bool, kept: int
) -> None:
    tape = Tape()
    seen: list[int] = []

    def region(y: Tensor) -> Tensor:
        first = ops.scale(tape, y)  # its backward needs nothing of y
        out = ops.pointwise(tape, first, save="output")

        def backward(g: Sequence[Tensor | None], s: tuple[Tensor, ...]) -> list[Tensor | None]:
            seen.append(tape.ledger.by_component["checkpoints"][ONE])
            return [tape.like(s[0])]

        return tape.record(tape.like(out), (out,), (out,), backward)

    out = tape.checkpoint(region, leaf(tape), offload=True, reentrant=reentrant)
    tape.backward(out, tape.new(ONE, 100, 1))
    assert seen == [kept]


# ---- repeated layers


def test_a_stretch_counts_as_often_as_it_occurs() -> None:
    # Five layers, each keeping its input (100) for a product with itself, and a scaled copy of the last output.
    # Backward: the output, the gradient and the scaled one (100 each) and both factors' gradients in the last layer.
    def step(copies: int | None) -> list[int]:
        tape = Tape()
        x = leaf(tape)
        tape.ledger.begin("forward")
        count = 1 if copies else 5
        for _ in range(count):
            if copies:
                with tape.group(copies):
                    x = ops.mul(tape, x, x)
            else:
                x = ops.mul(tape, x, x)
        x = ops.scale(tape, x)
        after = live(tape)
        tape.ledger.begin("backward")
        root = x.same()
        del x
        gradient = tape.new(ONE, 100, 1)
        tape.backward(root, gradient)
        peak = max(
            add(event, offset)[ONE]
            for segment in tape.ledger.segments
            if segment.name == "backward"
            for offset in segment.offsets
            for event in segment.events
        )
        return [after, peak]

    assert step(None) == [600, 600 + 200 + 200]
    assert step(5) == step(None)


GROUPED: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **GROUPED},
    "phi": {"model_type": "phi", "resid_pdrop": 0.1, **GROUPED},
    "gemma2": {"model_type": "gemma2", "head_dim": 16, "sliding_window": 64, **GROUPED},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, **GROUPED},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 7, "n_head": 4, "n_positions": 512, "vocab_size": 512},
    "bert": {"model_type": "bert", "architectures": ["BertForMaskedLM"], **GROUPED},
    "t5": {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": 512,
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 160,
        "num_layers": 6,
        "num_decoder_layers": 6,
        "num_heads": 4,
    },
}
BATCH, LENGTH = 3, 256


def spec_of(name: str) -> ModelSpec:
    return from_config(dict(CONFIGS[name]), name)


def choices_of(**changes: Any) -> TrainingChoices:
    values = {"stack": "peft", "lora_targets": ("all-linear",), "gradient_accumulation_steps": 1, **changes}
    if values.get("model") == "mixtral":
        values["lora_targets"] = ("attention",)
    values.pop("model", None)
    return TrainingChoices(**values)


def peaks(tape: Tape, checkpointed: int) -> dict[str, int]:
    """Peak by instant at BATCH x LENGTH."""
    values = multipliers(np.array([BATCH]), np.array([LENGTH]), np.array([checkpointed]), 64)[0]
    found: dict[str, int] = {}
    for segment in tape.ledger.segments:
        for offset in segment.offsets:
            for event in segment.events:
                size = round(float(values @ np.array(add(event, offset), float)))
                found[segment.name] = max(found.get(segment.name, 0), size)
    return found


@pytest.mark.parametrize("checkpointed", [0, 3, "all"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stack", ["peft", "builtin"])
def test_one_layer_for_many_is_every_layer_by_itself(name: str, checkpointed: Any, stack: str) -> None:
    spec = spec_of(name)
    number = spec.total_layers if checkpointed == "all" else checkpointed
    case = Case(spec, choices_of(model=name, stack=stack, gradient_checkpointing=number > 0), number)
    assert peaks(run(case), number) == peaks(run(case, every_layer=True), number)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("gemma2", "t5")])
def test_a_symbolic_n_is_every_n(name: str, method: str) -> None:
    spec = spec_of(name)
    chosen = choices_of(model=name, method=method, gradient_checkpointing=True)
    symbolic = run(Case(spec, chosen, None))
    covered = symbolic_range([0] * spec.total_layers)
    assert covered == range(3, 5)
    for number in covered:
        assert peaks(symbolic, number) == peaks(run(Case(spec, chosen, number)), number)


# ---- stretches


def test_the_period_of_layer_kinds() -> None:
    assert period("aaaa") == 1
    assert period("ababab") == 2
    assert period("aaab") == 4
    assert period("") == 1


def test_stretches_name_every_layer_once() -> None:
    assert layout("aaaaaa", 6) == [Stretch((0,), True), Stretch((1,), True, 5)]
    assert layout("aaaaaa", 0) == [Stretch((0,), False), Stretch((1,), False, 5)]
    assert layout("aaaaaa", 2) == [
        Stretch((0,), True),
        Stretch((1,), True, 1),
        Stretch((2,), False),
        Stretch((3,), False, 3),
    ]
    assert layout("ababab", 6) == [Stretch((0,), True), Stretch((1,), True), Stretch((2, 3), True, 2)]


@pytest.mark.parametrize("kinds", ["a" * 9, "ab" * 5, "aab" * 4, "aaab", "abcd", "a"])
def test_stretches_cover_all_layers_in_order(kinds: str) -> None:
    for number in range(len(kinds) + 1):
        for seam in range(len(kinds) + 1):
            covered = [
                kinds[index] + str(stretch.checkpointed)
                for stretch in stacked(kinds, number, seam)
                for _ in range(stretch.copies)
                for index in stretch.layers
            ]
            assert covered == [kind + str(index < number) for index, kind in enumerate(kinds)]


def test_symbolic_stretches_count_all_layers() -> None:
    stretches = layout("a" * 12, None)
    for number in symbolic_range("a" * 12):
        assert sum(s.copies + s.copies_per_n * number for s in stretches) == 12
        assert sum(s.copies + s.copies_per_n * number for s in stretches if s.checkpointed) == number
    assert list(symbolic_range("ab" * 6)) == []


def test_layers_with_and_without_adapters_are_of_different_kinds() -> None:
    from planner.memory.network.blocks import registry
    from planner.memory.network.net import Net

    spec = spec_of("llama")
    chosen = choices_of(lora_targets=("layers.2.self_attn.q_proj",))
    net = Net.build(spec, chosen)
    kinds = [layer_kind(net, registry.program(spec), index) for index in range(spec.num_layers)]
    assert len(set(kinds)) == 2
    assert kinds[2] != kinds[0] == kinds[3]


# ---- the envelope


def test_the_envelope_is_the_largest_event_everywhere() -> None:
    spec = spec_of("phi")
    tape = run(Case(spec, choices_of(), spec.total_layers))
    found = envelope(tape.ledger)
    rows: list[Vector] = [add(e, o) for s in tape.ledger.segments for o in s.offsets for e in s.events]
    matrix = np.array(rows, dtype=np.float64)
    assert len(found.coefficients) < len(rows) / 10
    generator = random.Random(7)
    for _ in range(50):
        b, s = generator.randint(1, 64), generator.randint(1, 8192)
        values = multipliers(np.array([b]), np.array([s]), np.array([7]), 64)
        assert evaluate(found, values)[0][0] == round(float((values @ matrix.T).max()))


def test_the_monomials_at_a_batch_and_a_length() -> None:
    values = multipliers(np.array([3]), np.array([130]), np.array([5]), 64, 64)[0]
    # 1, S, T, S², B·S², C = min(T - B, 64), B, B·256, T - B, R = min(T, 2048), TX, S·144, B·S·144, S, T, B·S², RX, CX,
    # K and KK, P and PP: a recurrence takes 3 pieces of each sequence
    constant: Sequence[float] = [1, 130, 390, 16900, 50700, 64, 3, 768, 387, 390, 0, 18720, 56160]
    constant = [*constant, 130, 390, 50700, 0, 64, 9, 27, 3, 9]
    none = [0] * 15  # answers are as long as what is read; no more tokens than one kernel takes unsorted
    assert values.tolist() == [*constant, *none, *(5 * value for value in constant), *none]


def test_tokens_are_sorted_for_an_embedding_beyond_3072() -> None:
    values = multipliers(np.array([3, 3]), np.array([1024, 1025]), np.array([0, 0]), 64)
    assert values[:, TE].tolist() == [0, 3075]
    assert row_multipliers([1024, 2049], 0, 64)[:, TE].tolist() == [3073, 3073]


def test_the_monomials_of_answers() -> None:
    values = multipliers(np.array([3]), np.array([130]), np.array([0]), 64, answers=20)[0]
    # U, B·U, U², B·U², S·U, B·S·U, B·128, R, RX, TX, U·32, B·U·32, U·144, B·U·144
    own = [20, 60, 400, 1200, 2600, 7800, 384, 60, 0, 0, 640, 1920, 2880, 8640]
    assert values[22:36].tolist() == own
    long = multipliers(np.array([3]), np.array([130]), np.array([0]), 64, answers=1000)[0]
    assert long[29:32].tolist() == [2048, 952, 3000]


# ---- the log of a step


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "t5"])
@pytest.mark.parametrize("number", [0, 4, 7])
@pytest.mark.parametrize("stack", ["peft", "builtin"])
def test_an_unrolled_log_is_the_log_of_every_layer(name: str, number: int, stack: str) -> None:
    """Same sizes in the same order, and the same bytes live after each event."""
    case = Case(spec_of(name), choices_of(model=name, stack=stack, gradient_checkpointing=number > 0), number)
    values = [float(v) for v in multipliers(np.array([2]), np.array([100]), np.array([0]), 64)[0][:WIDTH]]
    explicit = [event for segment in run(case, None, values, every_layer=True).ledger.segments for event in segment.log]
    assert _curve(step_log(case, values)) == _curve(explicit)


def _curve(log: list[tuple[int, int]]) -> list[int]:
    sizes: dict[int, int] = {}
    now, curve = 0, []
    for key, size in log:
        if size >= 0:
            assert key not in sizes
            sizes[key] = size
            now += size
        else:
            now -= sizes.pop(key)
        curve.append(now)
    return curve


def test_the_log_has_the_peak_that_the_polynomials_have() -> None:
    spec = spec_of("llama")
    case = Case(spec, choices_of(), spec.total_layers)
    values = [float(v) for v in multipliers(np.array([BATCH]), np.array([LENGTH]), np.array([0]), 64)[0][:WIDTH]]
    tape = run(case)
    persistent = tape.ledger.segments[0].events[-1][ONE]
    assert max(_curve(step_log(case, values))) + persistent == max(peaks(tape, 7).values())
