"""A model without a written program: recorded by a real child process, held against real traces to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from planner import memory
from planner.calibration import attach
from planner.cli import learning as cli_learning
from planner.cli import main
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.spec import ModelSpec
from planner.contract.towers import text_part
from planner.decide import learning, learning_checks
from planner.memory import device
from planner.memory.engine.ledger import Ledger
from planner.memory.engine.monomials import ONE
from planner.memory.loads import case_of
from planner.memory.network.net import Net
from planner.memory.network.quantized import is_quantized
from planner.memory.recorded import play as playing
from planner.memory.recorded.log import RELEASE, SCHEMA
from planner.memory.recorded.shapes import shapes
from planner.memory.recorded.wanted import SPELT, assumed, log_of, path_of, wanted
from planner.memory.step.case import Case
from planner.models import catalogue, recorded, shipped
from planner.models.recorded import Unlearned
from planner.models.sources import from_config

CONFIG: dict[str, Any] = {
    "model_type": "arcee",
    "architectures": ["ArceeForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4000,
    "max_position_embeddings": 4096,
}
CARD = attach.find("rtx4090")
COUNTERS_AND_ITEMS = 8
"""Bytes that a trace counts and no program does, beside step counters: the number of targets."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEPLAN_HOME", str(folder))
        patch.setenv("TUNEPLAN_CACHE", "off")
        yield folder


@pytest.fixture(scope="module")
def spec(home: Path) -> ModelSpec:
    return learning.learned(lambda: from_config(CONFIG, "small"), lambda line: None, allowed=lambda: True)


def _predicted(spec: ModelSpec, choices: TrainingChoices) -> Any:
    return learning.learned(lambda: memory.predict(spec, CARD, choices), lambda line: None, allowed=lambda: True)


def _traced(choices: TrainingChoices, patch: pytest.MonkeyPatch, config: dict[str, Any] = CONFIG) -> dict[str, int]:
    from trainer.trace import run

    patch.setattr(run, "CUDA_GRANULARITY", 1)
    workspaces = int(device.workspace_bytes(CARD))
    return run.trace(config, choices, run.Setup(cublas_workspace_bytes=workspaces, evaluate=True)).instants


@pytest.mark.nightly
@pytest.mark.parametrize(
    "given",
    [
        {"batch_size": 3, "max_length": 208},
        {"batch_size": 1, "max_length": 336},
        {"batch_size": 6, "max_length": 720, "gradient_checkpointing": False},
        {"batch_size": 3, "max_length": 208, "gradient_accumulation_steps": 1, "lora_dropout": 0.0},
        {"batch_size": 3, "max_length": 208, "method": "full"},
        {"batch_size": 3, "max_length": 208, "stack": "peft", "loss": "full"},
    ],
    ids=lambda given: "-".join(f"{name}={value}" for name, value in given.items()),
)
def test_a_recorded_program_is_the_trace_to_the_byte(
    spec: ModelSpec, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = TrainingChoices(**{"loss": "chunked", **given})
    ours, theirs = _predicted(spec, choices).instants, _traced(choices, monkeypatch)
    for instant in ("forward", "loss", "backward", "eval"):
        missing = theirs[instant] - ours[instant]
        assert missing >= 0, instant
        # Step counters of the optimizer: 4 bytes for each trained tensor, which no program counts.
        assert missing <= COUNTERS_AND_ITEMS + 4 * 7 * 12, instant


DELTA = {
    **{key: value for key, value in CONFIG.items() if key not in ("model_type", "architectures", "num_hidden_layers")},
    "model_type": "qwen3_5_text",
    "architectures": ["Qwen3_5ForCausalLM"],
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}


@pytest.mark.nightly
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(("batch", "length"), [(2, 1024), (3, 1000), (2, 256)])
def test_layers_that_loop_over_the_sequence_are_the_trace_to_the_byte(
    home: Path, batch: int, length: int, recomputed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whole pieces, a part of one, and fewer pieces than the recording tells apart."""
    spec = learning.learned(lambda: from_config(DELTA, "delta"), lambda line: None, allowed=lambda: True)
    given = {"batch_size": batch, "max_length": length, "gradient_checkpointing": recomputed, "lora_dropout": 0.0}
    choices = TrainingChoices(stack="peft", **given)
    ours, theirs = _predicted(spec, choices).instants, _traced(choices, monkeypatch, DELTA)
    for instant in ("forward", "loss", "backward", "eval"):
        assert 0 <= theirs[instant] - ours[instant] <= COUNTERS_AND_ITEMS + 4 * 4 * 16, instant


WIDTHS = {key: value for key, value in CONFIG.items() if key not in ("model_type", "architectures")}
FURTHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # Routers that stay fp32 among weights in bf16.
    "ernie4_5_moe": (
        {
            "architectures": ["Ernie4_5_MoeForCausalLM"],
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 16,
            "moe_layer_start_index": 1,
        },
        {"method": "full", "lora_dropout": 0.05},
    ),
    # A loop over the tokens whose outputs are let go at once.
    "mamba": (
        {"architectures": ["MambaForCausalLM"], "state_size": 4, "num_hidden_layers": 5},
        {"lora_targets": ("in_proj", "x_proj"), "max_length": 48},
    ),
    # A router that is a linear layer, which PEFT adapts as a tensor.
    "afmoe": (
        {
            "architectures": ["AfmoeForCausalLM"],
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 16,
            "moe_intermediate_size": 16,
            "num_shared_experts": 1,
            "num_hidden_layers": 8,
            "sliding_window": 512,
        },
        {"lora_targets": ("all-linear",)},
    ),
    # A table as wide as there are layers: fewer are another network.
    "gemma4_text": (
        {
            "architectures": ["Gemma4ForCausalLM"],
            "head_dim": 16,
            "global_head_dim": 16,
            "sliding_window": 512,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 4000,
            "num_kv_shared_layers": 4,
            "num_hidden_layers": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 4,
        },
        {},
    ),
}
"""Kinds of networks: config beside WIDTHS, choices."""


@pytest.mark.nightly
@pytest.mark.parametrize("model_type", FURTHER)
def test_networks_of_other_kinds_are_the_trace_to_the_byte(
    home: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, given = FURTHER[model_type]
    config = {**WIDTHS, "model_type": model_type, **own}
    spec = learning.learned(lambda: from_config(config, "further"), lambda line: None, allowed=lambda: True)
    plain = {"batch_size": 3, "max_length": 208, "gradient_checkpointing": False, "lora_dropout": 0.0, "stack": "peft"}
    choices = TrainingChoices(**{**plain, "loss": "full", **given})
    ours, theirs = _predicted(spec, choices).instants, _traced(choices, monkeypatch, config)
    for instant in ("forward", "loss", "backward", "eval"):
        assert 0 <= theirs[instant] - ours[instant] <= COUNTERS_AND_ITEMS + 4 * 8 * 20, instant


def test_what_is_missing_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    with pytest.raises(Unlearned, match="'plan learn' records one"):
        learning.learned(lambda: from_config(CONFIG, "small"), lambda line: None, allowed=lambda: False)


SPEC = {
    "schema": recorded.SCHEMA,
    "architecture": "arcee",
    "task": "causal",
    "vocab_size": 32,
    "hidden_size": 8,
    "num_layers": 4,
    "num_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 4,
    "intermediate_size": 16,
    "max_positions": 64,
    "activation": "silu",
    "sliding_window": None,
    "sliding_layers": [],
    "tie_embeddings": False,
    "num_experts": 0,
    "experts_per_token": 0,
    "kinds": ["a"] * 4,
    "buffer_bytes": 16,
    "head": "lm_head",
    "experts": {},
    "versions": {"transformers": "5.23.0"},
    "parameters": 32 * 8 * 2 + 4 * 64,
    "modules": [
        {"path": "embed", "kind": "embedding", "shape": [32, 8], "bias": False, "tied_to": None, "layers": None},
        {"path": "l.{}.q", "kind": "linear", "shape": [8, 8], "bias": False, "tied_to": None, "layers": [0, 1, 2, 3]},
        {"path": "lm_head", "kind": "linear", "shape": [32, 8], "bias": False, "tied_to": None, "layers": None},
    ],
}


def _write_spec(home: Path, content: Any) -> None:
    path = recorded.folder(CONFIG) / "spec.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    return tmp_path


def test_a_described_network_is_read_without_torch(own_home: Path) -> None:
    _write_spec(own_home, SPEC)
    found = from_config(CONFIG, "small")
    assert (found.parameters, found.total_layers, found.architecture) == (768, 4, "arcee")
    assert recorded.notes(found) == [
        "arcee has no written program: it is recorded on this machine, read off transformers 5.23.0."
    ]
    with pytest.raises(Unlearned, match="no program is recorded for these settings"):
        memory.predict(found, CARD, TrainingChoices())


def test_outside_the_stack_every_matrix_but_the_vocabulary_s_is_quantised(own_home: Path) -> None:
    outside = {"kind": "linear", "bias": False, "layers": None, "tied_to": None}
    dense = {**outside, "path": "head.dense", "shape": [8, 8]}
    _write_spec(own_home, {**SPEC, "parameters": SPEC["parameters"] + 64, "modules": [*SPEC["modules"], dense]})
    net = Net.build(from_config(CONFIG, "small"), TrainingChoices(method="qlora"))
    quantised = [module.path for module in net.spec.modules if module.layers is None and is_quantized(net, module)]
    assert quantised == ["head.dense"]


def test_a_layer_that_the_network_leaves_unquantised_is_counted_so(own_home: Path) -> None:
    kept = []
    for own in ([], ["l.{}.q"]):
        _write_spec(own_home, {**SPEC, "unquantized": own})
        net = Net.build(from_config(CONFIG, "small"), TrainingChoices(method="qlora"))
        kept.append(is_quantized(net, net.by_path["l.{}.q"]))
    assert kept == [True, False]


@pytest.mark.parametrize(
    "change",
    [{"schema": "x"}, {"parameters": 5}, {"kinds": ["a"]}, {"modules": [{}]}, {"num_heads": -1}, {"versions": 3}],
    ids=str,
)
def test_a_damaged_description_is_refused_by_its_file(own_home: Path, change: dict[str, Any]) -> None:
    _write_spec(own_home, {**SPEC, **change})
    with pytest.raises(InvalidInput, match=r"spec\.json: is no tuneplan.recorded-model/1; delete it"):
        from_config(CONFIG, "small")


def test_what_cannot_be_recorded_is_refused_with_its_reason(own_home: Path) -> None:
    _write_spec(own_home, {"schema": recorded.REFUSED, "reason": "it has no layers"})
    with pytest.raises(NotModelled, match="small: it has no layers"):
        from_config(CONFIG, "small")


@pytest.mark.parametrize("traced", [True, False])
def test_a_trace_is_offered_only_where_there_is_one(home: Path, spec: ModelSpec, traced: bool) -> None:
    choices = TrainingChoices(lora_r=5 if traced else 6)
    case = case_of(spec, CARD, choices, 0, 256)
    recorded.refuse(path_of(recorded.plain(spec), wanted(case)), "odd", traced=traced)
    with pytest.raises(NotModelled, match="odd; 'plan trace' gives" if traced else "odd$"):
        log_of(case)


def test_a_refusal_ends_with_the_versions_that_made_it(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded.refuse(recorded.folder(CONFIG) / "spec.json", "unknown to the installed transformers")
    with pytest.raises(NotModelled, match="small: unknown to the installed transformers"):
        from_config(CONFIG, "small")
    monkeypatch.setattr(recorded, "versions", lambda: {"transformers": "99"})
    with pytest.raises(recorded.Unlearned):
        from_config(CONFIG, "small")


def _program(found: ModelSpec, choices: TrainingChoices, **more: Any) -> Case:
    """Writes an empty program for a case, as it would be recorded."""
    evaluating = bool(more.pop("evaluating", False))
    case = Case(found, replace(choices, batch_size=2), 0, evaluating=evaluating)
    asked = wanted(case)
    content = {"schema": SCHEMA, "parts": [], "sizes": [], "components": [], "windows": []}
    more = {"assumed": assumed(asked), "versions": recorded.versions(), **more}
    recorded.write(path_of(CONFIG, asked), {**content, **more})
    return case


def test_a_key_names_only_choices_that_are_not_the_default(own_home: Path) -> None:
    _write_spec(own_home, SPEC)
    found = from_config(CONFIG, "small")
    plain = wanted(Case(found, TrainingChoices(batch_size=2), 0))
    assert set(plain["choices"]) == set(SPELT)
    other = wanted(Case(found, TrainingChoices(batch_size=2, lora_r=64), 0))
    assert other["choices"] == {**plain["choices"], "lora_r": 64}
    assert learning.choices_of(other).lora_r == 64
    assert assumed(plain)["lora_r"] == TrainingChoices().lora_r


def test_a_program_ends_with_the_defaults_and_the_libraries_that_it_rests_on(own_home: Path) -> None:
    _write_spec(own_home, SPEC)
    found = from_config(CONFIG, "small")
    assert log_of(_program(found, TrainingChoices())).parts == ()
    versions = recorded.versions()
    for number, more in enumerate(
        ({"assumed": {"lora_dropout": 0.7}}, {"versions": {**versions, "transformers": "4.0", "peft": "0.1"}})
    ):
        case = _program(found, TrainingChoices(lora_r=3 + number), **more)
        with pytest.raises(Unlearned, match="no program is recorded"):
            log_of(case)
    events = [event for key in range(30_000) for event in ([key, 0, 0], [key, RELEASE, 0])]
    long = {"parts": [["forward", None, events]], "sizes": [[[0, 8]]], "components": ["temporaries"]}
    assert len(log_of(_program(found, TrainingChoices(lora_r=6), **long)).parts[0].events) == 60_000
    # A choice that only a newer release knows says nothing of this one's programs.
    assert log_of(_program(found, TrainingChoices(lora_r=5), assumed={"unheard_of": 3})).parts == ()


def test_a_config_of_another_head_or_width_is_another_network() -> None:
    assert recorded.identity(CONFIG) == recorded.identity({**CONFIG, "torch_dtype": "float16", "use_cache": True})
    assert recorded.identity(CONFIG) != recorded.identity({**CONFIG, "hidden_size": 128})
    other = {**CONFIG, "architectures": ["ArceeForSequenceClassification"]}
    assert recorded.identity(CONFIG) != recorded.identity(other)


def test_held_out_shapes_are_none_of_those_that_were_fitted(own_home: Path) -> None:
    _write_spec(own_home, SPEC)
    found = from_config(CONFIG, "small")
    for single in (False, True):
        for regime in range(4):
            asked = {"single": single, "regime": regime, "windowed": False, "unaligned": False}
            points, held_out = shapes(found, asked)
            assert held_out not in points
            assert all(replace(point, piece=1, chunk=1).length % 16 == 0 for point in points)
            if regime & 2:
                assert all(p.chunk < p.batch * (p.length - 1) <= 2 * p.chunk for p in [*points, held_out])


def test_no_traced_sequence_is_longer_than_a_network_of_512_positions_reads(own_home: Path) -> None:
    _write_spec(own_home, {**SPEC, "max_positions": 512})
    found = from_config(CONFIG, "small")
    for single in (False, True):
        points, held_out = shapes(found, {"single": single, "regime": 0, "windowed": False, "unaligned": False})
        assert max(point.length for point in [*points, held_out]) <= 512
        assert len({point.length for point in points}) == 3


def test_a_network_whose_layers_were_all_traced_is_told_as_it_was(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN alike layers that no cut could stand for WHEN the program is played THEN no layer is told twice."""
    _write_spec(
        own_home,
        {
            **SPEC,
            "kinds": ["a"] * 12,
            "num_layers": 12,
            "parameters": 32 * 8 * 2 + 12 * 64,
            "modules": [{**one, "layers": one["layers"] and list(range(12))} for one in SPEC["modules"]],  # type: ignore[index]
        },
    )
    parts = [["forward", layer, [[layer, 0, 0]]] for layer in range(12)]
    content = {"parts": parts, "sizes": [[[ONE, 8]]], "components": ["layer_activations"]}
    case = _program(from_config(CONFIG, "small"), TrainingChoices(gradient_checkpointing=False), **content)
    told: list[Any] = []
    monkeypatch.setattr(playing._Player, "play", lambda self, parts: told.extend(parts))
    playing.play(Ledger(), case, accumulating=False)
    assert [part.layer for part in told] == list(range(12))


def test_programs_are_shared_by_what_is_opened_for_them_and_few_go_to_one() -> None:
    few: list[dict[str, Any]] = [{"choices": choices, "target": "cuda", "padded": False} for choices in "ab"]
    assert learning.shares(few) == (few, [])
    many = [{**one, "regime": regime} for regime in range(4) for one in few]
    first, second = learning.shares(many)
    assert [{one["choices"] for one in part} for part in (first, second)] == [{"a"}, {"b"}]
    assert learning.shares([one for one in many if one["choices"] == "a"])[1] == []


def test_an_evaluation_is_the_same_whatever_training_drops_out(own_home: Path) -> None:
    _write_spec(own_home, SPEC)
    found = from_config(CONFIG, "small")
    kept = _program(found, TrainingChoices(lora_dropout=0.0), evaluating=True)
    for dropout in (0.0, 0.05, 0.2):
        assert log_of(replace(kept, choices=replace(kept.choices, lora_dropout=dropout))).parts == ()
    with pytest.raises(Unlearned, match="no program is recorded"):
        log_of(replace(kept, evaluating=False, choices=replace(kept.choices, lora_dropout=0.2)))


def test_a_grid_asks_for_all_that_is_missing_at_once(own_home: Path) -> None:
    _write_spec(own_home, SPEC)
    found = from_config(CONFIG, "small")
    with pytest.raises(Unlearned) as caught:
        memory.predict_grid(found, CARD, TrainingChoices(), [1, 1, 4], [64, 64, 64], [0, 4, 4])
    asked = [(one["single"], one["checkpointed"]) for one in caught.value.all_wanted()]
    assert sorted(asked) == [(False, "all"), (True, "all"), (True, "none")]


def test_a_recurrence_is_traced_at_a_shape_more_and_pieces_stay_two(own_home: Path) -> None:
    _write_spec(own_home, {**SPEC, "recurrent_piece": 64})
    found = from_config(CONFIG, "small")
    for single, regime in product((False, True), (3, 7)):
        asked = {"single": single, "regime": regime, "windowed": False, "unaligned": False}
        points, held_out = shapes(found, asked)
        assert len({point.length for point in [*points, held_out]}) == 5
        for point in [*points, held_out]:
            assert (point.length % 64 == 0) is (regime == 7)
            assert point.length % 16 == 0
            tokens = point.batch * point.length
            assert tokens / 2 < point.piece < tokens
            assert (tokens - point.batch) / 2 < point.chunk < tokens - point.batch


def test_lengths_that_a_recurrence_takes_whole_are_a_regime_of_their_own(own_home: Path) -> None:
    _write_spec(own_home, {**SPEC, "recurrent_piece": 64})
    with pytest.raises(Unlearned) as caught:
        memory.predict_grid(from_config(CONFIG, "small"), CARD, TrainingChoices(), [2, 2, 2], [64, 100, 128], [4, 4, 4])
    regimes = {one["regime"]: one for one in caught.value.all_wanted()}
    assert sorted(regimes) == [0, 4]
    # A network without a recurrence knows no such regime.
    _write_spec(own_home, SPEC)
    with pytest.raises(Unlearned) as caught:
        memory.predict_grid(from_config(CONFIG, "small"), CARD, TrainingChoices(), [2, 2], [64, 100], [4, 4])
    assert [one["regime"] for one in caught.value.all_wanted()] == [0]


def test_a_cut_that_changes_the_layers_is_refused() -> None:
    learning_checks.alike("aabaab", "xxyxx")
    for other in ("xxyxy", "xxxxx", "xzyxz"):
        with pytest.raises(NotModelled, match="its layers are others"):
            learning_checks.alike("aabaab", other)


def _shipped() -> list[str]:
    """Names of catalogue entries whose programs come with tuneplan."""
    with_programs = set(shipped.networks())
    parts = {entry.name: text_part(entry.config) for entry in catalogue.entries()}
    return [name for name, part in parts.items() if recorded.folder(part).name in with_programs]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] if n else []) for n, name in enumerate(_shipped())]
)
def test_a_shipped_model_answers_where_nothing_can_be_recorded(
    name: str, own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_learning, "installed", lambda: False)
    assert main(["--gpu", "rtx4090", "--model", name, "--json"]) in (0, 3)
    assert json.loads(capsys.readouterr().out)
    assert not list(own_home.glob("recorded/*"))


def test_a_second_child_begins_only_where_much_will_be_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN an unknown model WHEN it is described for one check THEN one child starts, for a search a second one."""
    asked: list[object] = []

    def ask(self: object, **request: object) -> dict[str, Any]:
        asked.append((id(self), request["do"]))
        raise InvalidInput("no such type")

    monkeypatch.setattr(learning.Recorder, "ask", ask)
    monkeypatch.setattr(learning.os, "cpu_count", lambda: 2)
    for many in (False, True):
        teacher = learning.Teacher(lambda line: None)
        teacher.many = many
        teacher.model({**CONFIG, "vocab_size": 4001})
        assert (teacher.beside is not None) == many
        teacher.close()
    assert {what for _, what in asked} <= {"describe", "load"}


def test_the_wizards_questions_share_their_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN two questions that lack something WHEN the wizard asks them THEN one teacher answers, which is let go after
    a while."""
    import threading

    from planner.tui import work

    made: list[Any] = []
    closed = threading.Event()

    class Counted:
        def __init__(self, say: object) -> None:
            made.append(self)

        def learn(self, missing: Unlearned) -> None: ...

        def close(self) -> None:
            closed.set()

    monkeypatch.setattr(learning, "Teacher", Counted)
    monkeypatch.setattr("planner.handover.recorder.installed", lambda: True)
    work._teacher.cache_clear()
    try:
        for seconds in (60.0, 0.01):
            monkeypatch.setattr(work, "KEPT_SECONDS", seconds)
            lacking = iter([Unlearned("not known", dict(CONFIG), None)] * 2)

            def question(lacking: Iterator[Unlearned] = lacking) -> str:
                for missing in lacking:
                    raise missing
                return "answer"

            assert work.learned(question) == "answer"
            assert len(made) == 1
        assert closed.wait(30)
    finally:
        work._teacher.cache_clear()
