"""What is read back or comes from outside has types and ranges: fits, observations, configs, events, requests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from planner import memory
from planner.calibration import reading, store
from planner.cli import main
from planner.contract import records, settings
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.decide.candidates import MOST_COUNTS, layer_counts
from planner.devices import profiles
from planner.models import catalogue, sources
from planner.tui import history
from tests.support.clock import takes_at_most
from trainer.commands.probe.command import read_request
from trainer.commands.probe.measure import choices_of
from trainer.wire.control import Control
from trainer.wire.events import EventStream

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
FIT: dict[str, Any] = {"applied": True, "versions": {}, "interval": [1.0, 2.0], "context_bytes": 10**9}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    reading.forget_warnings()
    return tmp_path


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


# ---- fits and observations


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"moving_factor": -5.5}, "moving_factor is -5.5, but must be a number from 0.8 to 1.25"),
        ({"persistent_factor": math.nan}, "persistent_factor is nan"),
        ({"fragmentation_factor": 1e308}, "fragmentation_factor is 1e+308"),
        ({"fragmentation_factor": True}, "fragmentation_factor is True"),
        ({"slack_bytes": 0.5}, "slack_bytes is 0.5, but must be a whole number"),
        ({"context_bytes": -(10**12)}, "context_bytes is -1000000000000"),
        ({"context_bytes": 10**300}, "context_bytes is 1"),
        ({"interval": [-1, 2]}, "interval is [-1, 2], but must be two numbers"),
        ({"interval": [1, 2, 3]}, "interval is"),
        ({"interval": "ab"}, "interval is 'ab'"),
        ({"coverage": 2}, "coverage is 2"),
        ({"errors": {"runs": None}}, "errors is"),
        ({"errors": [1]}, "errors is [1]"),
        ({"speed": {"arithmetic": 1}}, "speed is"),
        ({"speed": {"arithmetic": 0, "bandwidth": 1, "launch": 1, "spread": 0}}, "speed is"),
        ({"versions": {"torch": 3}}, "versions is"),
        ({"applied": "yes"}, "applied is 'yes'"),
        ({"made": 20260101}, "made is 20260101"),
    ],
)
def test_a_fit_that_no_fit_would_write_is_set_aside_by_name(
    change: dict[str, Any], said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = put(store.fit_path("a10g"), {"schema": store.SCHEMA, "profile": "a10g", "fits": [FIT | change]})
    assert main(["check", "--gpu", "a10g", "--model", "gpt2", "--max-length", "64", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["calibration"] is None
    assert f"plan: warning: {file}: {said}" in err
    assert err.count("set aside") == 1


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"[" * 9000, b"\xff", b'{"schema": 1}', b'{"a": 1, "a": 2}', b"1" * 9000]
)
def test_files_that_are_no_fits_are_set_aside(content: bytes, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(store.fit_path("a10g"), content)
    assert store.attach(profiles.load("a10g")).calibration is None
    assert capsys.readouterr().err.count("set aside") == 1


def observed(**changes: Any) -> dict[str, Any]:
    """A run of gpt2 on an A10G, measured 1 % above its prediction."""
    config = dict(catalogue.entry("gpt2").config)
    choices = TrainingChoices(batch_size=1, max_length=64)
    report = memory.predict(sources.from_config(config, "gpt2"), profiles.load("a10g"), choices)
    found = records.Observation(
        created="2026-01-01T00:00:00+00:00",
        source="run",
        hardware={"profile": "a10g"},
        versions={},
        model={"id": "gpt2", "config": config},
        settings=settings.to_settings(choices),
        predicted=report,
        allocated_peak_bytes=round(report.allocated_peak_bytes * 1.01),
    )
    return found.model_dump(mode="json", by_alias=True) | changes


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "an object (keys and values) is needed"),
        ({"allocated_peak_bytes": -1}, "allocated_peak_bytes must be at least 0, not -1"),
        ({"allocated_peak_bytes": 0}, "allocated_peak_bytes is 0"),
        ({"allocated_peak_bytes": 10**300}, "allocated_peak_bytes must be below"),
        ({"model": {"id": "x"}}, "model.config is None"),
        ({"model": {"id": 3, "config": {}}}, "model.id is 3"),
        ({"hardware": {"profile": ["a10g"]}}, "hardware.profile is ['a10g']"),
        ({"predicted": [1]}, "predicted: input should be"),
        ({"notes": "failed"}, "notes: input should be"),
        ({"step_seconds": [math.nan]}, "step_seconds.0 must be a number, not nan"),
        ({"batch_lengths": [[-5]]}, "batch_lengths.0.0 must be at least 1, not -5"),
        ({"batch_lengths": [[2**31]]}, "batch_lengths.0.0 must be at most 16777216"),
        ({"batch_lengths": []}, "batch_lengths: "),
        ({"batch_lengths": [[]]}, "batch_lengths.0: "),
        ({"surprise": 1}, "surprise: this key is unknown"),
    ],
)
def test_a_bad_observation_is_set_aside_and_the_others_count(
    bad: Any, said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = put(home / "observations/2026-02.json", observed(**bad) if isinstance(bad, dict) else bad)
    put(home / "observations/2026-01.json", observed())
    device = store.attach(profiles.load("a10g"))
    assert device.calibration is not None
    assert device.calibration.errors["runs"] == 1
    assert device.calibration.errors["runs_worst"] == pytest.approx(-0.01 / 1.01, rel=1e-3)
    assert len(store.read_observations()) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"plan: warning: {file}: ")
    assert said in err
    assert err.count("\n") == 1, "told once, however often it is read"


def test_an_observed_model_that_is_refused_today_is_passed_over(home: Path) -> None:
    wild = observed(model={"id": "x", "config": {"model_type": "llama", "sliding_window": "abc"}}, batch_lengths=[[8]])
    put(home / "observations/1.json", wild)
    assert store.recent_errors(profiles.load("a10g")) == []


# ---- configs


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"sliding_window": "abc"}, "sliding_window is 'abc', but must be a whole number"),
        ({"sliding_window": -1}, "sliding_window is -1"),
        ({"partial_rotary_factor": -1e9}, "partial_rotary_factor is -1000000000.0, but must be a number above 0"),
        ({"rope_parameters": {"partial_rotary_factor": -1e9}}, "rope_parameters.partial_rotary_factor is"),
        ({"rope_parameters": {"full_attention": {"rope_theta": "x"}}}, "rope_parameters.full_attention.rope_theta is"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\], but must be an object"),
        ({"rope_scaling": {"factor": math.nan}}, "rope_scaling.factor is nan"),
        ({"rope_scaling": {"type": 3}}, "rope_scaling.type is 3"),
        ({"rope_theta": -1}, "rope_theta is -1"),
        ({"num_hidden_layers": 10_000}, "num_hidden_layers is 10000, but must be a whole number .* at most 512"),
        ({"num_hidden_layers": 10**300}, "num_hidden_layers is 1"),
        ({"num_hidden_layers": [2]}, r"num_hidden_layers is \[2\]"),
        ({"num_attention_heads": 10**6}, "num_attention_heads is 1000000"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000"),
        ({"head_dim": "64"}, "head_dim is '64'"),
        ({"intermediate_size": 1e308}, "intermediate_size is 1e[+]308"),
        ({"attention_dropout": math.nan}, "attention_dropout is nan"),
        ({"attention_dropout": None}, "attention_dropout is None"),
        ({"attention_bias": 1}, "attention_bias is 1, but must be true or false"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'"),
        ({"layer_types": ["x", "y"]}, "layer_types is .*, but must be a list of full or sliding_attention"),
        ({"layer_types": {"0": "full_attention"}}, "layer_types is"),
        ({"quantization_config": "gptq"}, "quantization_config is 'gptq', but must be an object"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM'"),
        ({"id2label": [1]}, r"id2label is \[1\]"),
        ({"num_labels": 10**9}, "num_labels is 1000000000"),
        ({"max_position_embeddings": "x" * 10_000}, "max_position_embeddings is 'xxx"),
        ({"hidden_act": {"a": 1}}, "hidden_act is"),
    ],
)
def test_every_key_that_is_read_has_a_range(keys: dict[str, Any], said: str) -> None:
    with pytest.raises((InvalidInput, NotModelled), match=f"^config.json: {said}") as refused:
        sources.from_config(LLAMA | keys, "x", origin="config.json")
    assert len(str(refused.value)) < 300


def test_blocks_of_both_stacks_are_counted_together() -> None:
    """GIVEN an encoder and a decoder that are deep together THEN one line says so: each block takes its time."""
    config = {**sources.load_model("t5-v1.1-small").config, "num_layers": 129, "num_decoder_layers": 128}
    with pytest.raises(InvalidInput, match="num_layers 129 and num_decoder_layers 128 are more than 256 together"):
        sources.from_config(config, "deep")


def test_falcons_second_norm_needs_what_calls_it() -> None:
    falcon = dict(catalogue.entry("falcon-7b").config)
    for keys in (
        {"num_ln_in_parallel_attn": 2},
        {"new_decoder_architecture": True, "parallel_attn": False, "num_kv_heads": 71},
    ):
        with pytest.raises(InvalidInput, match="num_ln_in_parallel_attn is 2, but must be 1 but with parallel_attn"):
            sources.from_config(falcon | keys, "x")


def test_a_model_that_is_too_large_for_any_number_is_refused() -> None:
    wide = {"hidden_size": 2**20, "intermediate_size": 2**20, "num_hidden_layers": 512, "vocab_size": 10**8}
    with pytest.raises(InvalidInput, match="parameters, but more than"):
        sources.from_config(LLAMA | wide, "x")


def test_keys_that_nothing_reads_may_hold_anything() -> None:
    odd = {"initializer_range": "x", "new_key": [math.inf], "use_cache": None, "torch_dtype": 3, "sliding_window": None}
    assert sources.from_config(LLAMA | odd, "x").parameters == sources.from_config(LLAMA, "x").parameters


def test_the_deepest_model_is_planned_in_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN 512 layers of two kinds THEN a check takes seconds, and only so many numbers of layers are tried."""
    deep = {**catalogue.entry("gemma-2-2b").config, "num_hidden_layers": 512, "hidden_size": 64, "head_dim": 16}
    file = put(tmp_path / "config.json", deep | {"num_attention_heads": 4, "num_key_value_heads": 4})
    with takes_at_most(10):
        assert main(["check", "--gpu", "a10g", "--model", str(file), "--batch-size", "1", "--json"]) in (0, 3)
    capsys.readouterr()
    counts = layer_counts(sources.load_model(str(file)), TrainingChoices(), ())
    assert len(counts) == MOST_COUNTS
    assert (counts[0], counts[-1]) == (0, 512)


def test_a_decoder_with_a_head_for_labels_is_no_traceback(tmp_path: Path) -> None:
    spec = sources.from_config(LLAMA, "x", task="classification")
    for loss in ("full", "chunked"):
        with pytest.raises(NotModelled, match="classification"):
            memory.predict(spec, profiles.load("a10g"), TrainingChoices(batch_size=1, max_length=16, loss=loss))


# ---- runs, control lines, requests


def test_events_of_foreign_runs_are_taken_or_passed_over(tmp_path: Path) -> None:
    def run(name: str, lines: list[bytes]) -> None:
        put(tmp_path / name / "plan.yaml", b"model: m\ngpu: cpu\nsettings: {}\n")
        put(tmp_path / name / "events.jsonl", b"\n".join(lines) + b"\n")
        (tmp_path / name / "checkpoint-1").mkdir()

    def event(**data: Any) -> bytes:
        return json.dumps({"schema": "tuneplan.event/1", "kind": "step", "time": 1.0, "data": data}).encode()

    good = event(step=3, total_steps=9)
    run("good", [good])
    for number, line in enumerate(
        (
            event(step={"a": 1}),
            event(step="="),
            event(step=10**300),
            event(step=math.inf),
            event(step=True),
            event(total_steps=[1]),
            b"[" * 5_000,
            b'{"kind": "step", "time": 1, "data": {"step": ' + b"9" * 5000 + b"}}",
            b'{"kind": "step", "time": 1e999}',
            b"\xff\x00",
        )
    ):
        run(f"bad-{number}", [good, line])
    found = {run.folder.name: run for run in history.unfinished(tmp_path)}
    assert len(found) == 11
    for past in found.values():
        assert (past.step, past.total_steps) == (3, 9)
        snapshot, _ = history.reopen(past)
        assert snapshot.step == 3


def test_control_lines_of_any_kind_are_answered_with_a_warning() -> None:
    class Warnings(EventStream):
        def __init__(self) -> None:
            self.told: list[str] = []

        def warn(self, what: str, message: str, advice: str = "") -> None:
            self.told.append(message)

    events = Warnings()
    control = Control(events)
    lines = [b"[" * 100_000, b"9" * 5000, b"\xff", b"[]", b'{"command": 3}', b'{"command": {"a": []}}', b"null"]
    control._read(iter([*lines, b'{"command": "pause"}\n']))
    assert len(events.told) == len(lines)
    assert control.pause.is_set()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"model": {}, "settings": {}, "steps": true}', "here: steps must be a number, not true"),
        ('{"model": {}, "settings": {}, "steps": 0}', "here: steps must be at least 1, not 0"),
        ('{"model": {}, "settings": {}, "seed": -1}', "here: seed must be at least 0, not -1"),
        ('{"model": {}, "settings": {}, "seed": ' + "9" * 5000 + "}", "here: line 1: a number of 5000 digits"),
        ("[" * 9000, "here: nested deeper"),
        ("[]", "here: top level"),
    ],
)
def test_requests_have_ranges(text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_request(text, "here")
    assert str(refused.value).startswith(said)


def test_settings_of_a_request_are_those_of_a_plan() -> None:
    for given in ({"lora_targets": "/etc"}, {"gradient_checkpointing": "fa<se"}, {"x": 1}, {"batch_size": [1]}):
        with pytest.raises(InvalidInput):
            choices_of(read_request(json.dumps({"model": {}, "settings": given}), "here"))
    assert choices_of(read_request('{"model": {}, "settings": {"lora_targets": ["q_proj"]}}', "here")).lora_targets == (
        "q_proj",
    )


def test_an_unknown_users_home_is_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    assert main(["check", "--gpu", "a10g", "--model", "~nobody-of-that-name/x"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    monkeypatch.setenv("TUNEPLAN_HOME", "~nobody-of-that-name")
    monkeypatch.setenv("HF_HUB_CACHE", "~nobody-of-that-name")
    assert main(["check", "--gpu", "a10g", "--model", "gpt2", "--max-length", "64"]) == 0
