"""What operators make is the same whether it is remembered or made anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.contract.choices import TrainingChoices
from trainer.record import marked
from trainer.record.memo import Memo
from trainer.record.session import Session

aten = torch.ops.aten
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
}
HYBRID = {
    "model_type": "qwen3_5_text",
    "architectures": ["Qwen3_5ForCausalLM"],
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
EXPERTS = {
    "model_type": "gpt_oss",
    "architectures": ["GptOssForCausalLM"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


class _Forgetful(Memo):
    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


@pytest.mark.parametrize("own", [HYBRID, EXPERTS], ids=lambda own: own["model_type"])
@pytest.mark.parametrize("choices", [TrainingChoices(), TrainingChoices(method="full", stack="peft", loss="full")])
def test_a_trace_is_the_same(own: dict[str, Any], choices: TrainingChoices, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for memo in (_Forgetful(), Memo()):
        monkeypatch.setattr(marked, "_MEMO", memo)
        session = Session({**SMALL, **own}, choices, target="cuda", padded=True, layers=None)
        for _ in range(2):  # the second time everything is known
            found.append([_run(session, *shape) for shape in ((2, 48), (3, 64))])
    assert found[1:] == found[:1] * 3
    assert memo.known


def _run(session: Session, batch: int, length: int) -> dict[str, object]:
    return session.run(batch, length, piece=1 << 20, chunk=1 << 20, checkpointed=2, evaluate=False)


CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    (aten.mm.default, ((4, 8), (8, 2))),
    (aten.view.default, ((4, 8), [2, 16])),
    (aten.transpose.int, ((4, 8), 0, 1)),
    (aten.select.int, ((4, 8), 0, 3)),
    (aten.mul_.Tensor, ((4, 8), 2.0)),
    (aten.split.Tensor, ((4, 8), 2)),
    (aten.native_layer_norm.default, ((4, 8), [8], None, None, 1e-5)),
    (aten.expand.default, ((1, 8), [4, 8])),
    (aten._unsafe_view.default, ((4, 8), [32])),
]


@pytest.mark.parametrize(("func", "given"), CALLS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_call_returns_what_it_returned_before(func: Any, given: tuple[Any, ...]) -> None:
    memo, mode = Memo(), FakeTensorMode(allow_non_fake_inputs=True)

    def called(call: Any) -> tuple[tuple[Any, ...], list[Any]]:
        with mode:
            args = tuple(torch.empty(arg) if isinstance(arg, tuple) else arg for arg in given)
        with mode:
            out = call(args)
        return args, list(out) if isinstance(out, tuple | list) else [out]

    def told(args: tuple[Any, ...], made: list[Any]) -> list[object]:
        first, storages = args[0].untyped_storage()._cdata, [tensor.untyped_storage() for tensor in made]
        held = [(storage.nbytes(), storage._cdata == first) for storage in storages]
        kinds = [(t.dtype, t.device, t.stride(), t.storage_offset(), t is args[0]) for t in made]
        return [*held, *kinds, *(tuple(tensor.shape) for tensor in made)]

    plain = told(*called(lambda args: func(*args)))
    assert told(*called(lambda args: memo.call(func, args, {}))) == plain
    assert told(*called(lambda args: memo.call(func, args, {}))) == plain
    assert len(memo.known) == 1


def test_other_strides_types_and_numbers_are_other_calls() -> None:
    memo, mode = Memo(), FakeTensorMode()
    with mode:
        rows, columns = torch.empty(4, 8), torch.empty(8, 4).t()
        for args in ((rows,), (columns,), (rows.to(torch.bfloat16),)):
            out = memo.call(aten.clone.default, args, {})
            assert isinstance(out, torch.Tensor)
            assert (out.stride(), out.dtype) == (args[0].stride(), args[0].dtype)
        assert memo.call(aten.add.Tensor, (rows, 1), {}).dtype == torch.float32
        assert memo.call(aten.eq.Scalar, (rows, 1), {}).dtype == torch.bool
        assert memo.call(aten.eq.Scalar, (rows, True), {}).dtype == torch.bool
    assert len(memo.known) == 6


def test_what_values_decide_is_not_remembered() -> None:
    memo = Memo()
    memo.call(aten.nonzero.default, (torch.ones(3),), {})
    with FakeTensorMode():
        memo.call(aten.clone.default, (torch.empty(3, dtype=torch.complex64),), {})
    memo.call(aten.clone.default, (torch.ones(3),), {})
    assert not memo.known
