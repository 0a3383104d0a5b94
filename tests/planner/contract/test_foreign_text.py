"""YAML and JSON that someone else wrote: bounded, nothing guessed, and refused in one line with file and line."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
import yaml

from planner.cli import main
from planner.cli.options import read_config
from planner.contract import json_text, text_file, yaml_text
from planner.contract.errors import InvalidInput
from planner.contract.records import read_plan
from planner.contract.shown import shown
from planner.handover.plans import load
from tests.support.clock import takes_at_most
from trainer.wire.request import Request
from trainer.wire.request import read_plan as trainer_plan

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(8)
)
PLAN = "model: m\ngpu: cpu\nsettings: {}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, ":1: the anchor &a stands here"),
        ("a: 1\nb: *a\n", ":2: the alias *a stands here"),
        ("a: 1\nb: !!python/object/apply:os.system [x]\n", ":2: the tag tag:yaml.org,2002:python/object"),
        ("a: ! x\n", ":1: the tag ! stands here"),
        ("a: !!timestamp 2026-01-01\n", ":1: the tag"),
        ("%TAG ! tag:x,2000:\n---\na: 1\n", "%TAG stands here"),
        ("a: 1\nb: 2\na: 3\n", ":3: key 'a' stands twice (first on line 1)"),
        ("x:\n  a: 1\n  a: 3\n", ":3: key 'a' stands twice (first on line 2)"),
        ('{"a": 1, "a": 1}', "key 'a' stands twice"),
        ("--- 1\n--- 2\n", ":2: a second document begins here"),
        ("? [a]\n: 1\n", ":1: a list or mapping stands as a key"),
        ("a: 1\nb: \x07\n", ":2: a control character (U+0007)"),
        ("a: \x1b[31m\n", ":1: a control character (U+001B)"),
        ('a: "\\0"\n', ":1: a NUL character"),
        ('a: "\\ud800"\n', ":1: not YAML"),
        ('{"a": "\\ud800"}', "half a character"),
        ("a: " + "[" * 100_000, "nested deeper than 64"),
        ('{"a":' * 100_000, "nested deeper than 64"),
        ("- " * 100_000, "nested deeper than 64"),
        ("a: " + "9" * 5_000, ":1: a number of 5000 digits"),
        ('{"a": 1,\n "b": ' + "9" * 5_000 + "}", "line 2: a number of 5000 digits"),
        ("a:\n" + "- x\n" * 200_000, "more than 100000 values"),
        ("a: " + "x" * 9_000_000, "larger than"),
        ("a: [\n", ":2: not YAML"),
        ("a: @x\n", ":1: not YAML"),
    ],
)
def test_what_yaml_may_not_hold_is_refused_at_once(text: str, said: str) -> None:
    with takes_at_most(5), pytest.raises(InvalidInput) as refused:
        yaml_text.parse(text, "f.yaml")
    message = str(refused.value)
    assert message.startswith("f.yaml:")
    assert said in message
    assert len(message) < 300
    assert message.isprintable()


def test_nothing_is_guessed_from_a_words_looks() -> None:
    text = (
        "a: [no, Yes, on, 2026-01-01, 2026-01-01T00:00:00Z, 010, 0x10, 0o7, 1:30, 1_000, .e1, 1e5, 2e-4, 1.5e3, ==, <<]"
    )
    words = text[4:-1].split(", ")
    assert yaml_text.parse(text, "f").value == {"a": words}
    numbers = yaml_text.parse("[1, -2, +3, 0, 1.5, 2.0e-4, .5, 1., -1.E+3, '1', 1.0e+400]", "f").value
    assert numbers == [1, -2, 3, 0, 1.5, 2e-4, 0.5, 1.0, -1000.0, "1", float("inf")]
    assert [type(number) for number in numbers[:5]] == [int, int, int, int, float]
    assert yaml_text.parse("{a: , b: ~, c: null, d: 'null', 1: x, true: y, null: z}", "f").value == {
        "a": None,
        "b": None,
        "c": None,
        "d": "null",
        "1": "x",
        "true": "y",
        "null": "z",
    }
    assert yaml_text.parse("", "f").value is None
    written = [
        "1e5",
        "1.5e3",
        "010",
        "no",
        "1:30",
        "2026-01-01",
        "~",
        "null",
        "1_0",
        ".5",
        "-.inf",
        1e-5,
        1e300,
        "é",
        "",
    ]
    assert yaml_text.parse(yaml.safe_dump(written, allow_unicode=True), "f").value == written
    assert yaml_text.parse("\ufeffa: é😀", "f").value == {"a": "é😀"}
    assert yaml_text.parse('{"a": "\\ud83d\\ude00",\t"b": [1]}', "f").value == {"a": "😀", "b": [1]}


def test_without_the_parser_in_c_all_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a: [no, 010, 1.5]\nb:\n  c: |\n    x\n    y\n  d: \"\\u00e9\"\n  e: 'it''s'\n"
    fast = yaml_text.parse(text, "f")
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert yaml_text.parse(text, "f") == fast
    for wrong in (LAUGHS, "a: 1\na: 2", "a: [" * 200, 'a: "\\ud800"', "a: !x 1", 'a: "\\UFFFFFFFF"', "a: [1"):
        with pytest.raises(InvalidInput):
            yaml_text.parse(wrong, "f")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "key 'a' stands twice, with different values"),
        ('{"a": 1, "a": true}', "key 'a' stands twice"),
        ('{"a": ' + "1" * 5000 + "}", "a number of 5000 digits"),
        ('{"a": -' + "1" * 400 + "}", "a number of 401 digits"),
        ("[" * 100_000, "nested deeper"),
        ("[" * 70 + "]" * 70, "nested deeper"),
        ('{"a": "\\u0000"}', "a NUL character"),
        ('{"a\\ud800": 1}', "half a character"),
        ("[" + "0," * 200_000 + "0]", "more than 100000 values"),
        ('{"a": 1', "line 1, column 8: not valid JSON"),
        (b'{"a": "\xff"}', "not UTF-8 text, byte 7"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8 text, byte 0"),
        ('"' + "x" * 5_000_000 + '"', "larger than"),
    ],
)
def test_what_json_may_not_hold(text: str | bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        json_text.parse(text, "f.json")
    assert str(refused.value).startswith("f.json: ")
    assert said in str(refused.value)
    assert len(str(refused.value)) < 300


def test_json_that_is_read() -> None:
    text = b'\xef\xbb\xbf{"a": 1, "a": 1, "b": [NaN, -Infinity, 1e999], "c": "\\ud83d\\ude00"}'
    value = json_text.parse_object(text, "f")
    assert value["a"] == 1
    assert value["b"][1:] == [float("-inf"), float("inf")]
    assert value["c"] == "😀"
    for wrong in ("[1]", "1", '"a"', "null"):
        with pytest.raises(InvalidInput, match="an object"):
            json_text.parse_object(wrong, "f")


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, said in (
        (tmp_path, "a folder where a file belongs"),
        (tmp_path / "none", "cannot be read (No such file"),
        (pipe, "a named pipe where a file belongs"),
        (Path("a\0b"), "cannot be read"),
        (Path("/dev/zero"), "a device where a file belongs"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ):
        with pytest.raises(InvalidInput) as refused:
            text_file.read(path, "f", max_bytes=100_000)
        assert said in str(refused.value), path
    (tmp_path / "big").write_bytes(b"x" * 101)
    with pytest.raises(InvalidInput, match="larger than 100 bytes"):
        text_file.read(tmp_path / "big", "f", max_bytes=100)


def test_an_open_stream_is_read_to_its_end_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    inward, outward = os.pipe()
    path = Path(f"/dev/fd/{inward}")
    os.write(outward, b"a: ")

    def fill() -> None:
        time.sleep(0.05)
        os.write(outward, b"1\n")
        os.close(outward)

    writer = threading.Thread(target=fill)
    writer.start()
    assert yaml_text.read(path).value == {"a": 1}
    writer.join()
    os.close(inward)
    inward, outward = os.pipe()
    monkeypatch.setattr(text_file, "STREAM_SECONDS", 0.1)
    with pytest.raises(InvalidInput, match="nothing came out of it"):
        yaml_text.read(Path(f"/dev/fd/{inward}"))
    os.close(inward)
    os.close(outward)


def test_laughs_hang_neither_planner_nor_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(LAUGHS)
    for read in (load, read_plan, lambda path: trainer_plan(Request(plan=path))):
        with pytest.raises(InvalidInput, match=r"plan.yaml:1: the anchor &a"):
            read(file)  # type: ignore[operator]
    assert main(["check", "--gpu", "a10g", "--config", str(file)]) == 2
    assert capsys.readouterr().err == (
        f"plan: --config {file}:1: the anchor &a stands here; anchors and aliases are not read\n"
    )


def test_a_settings_file_says_yes_in_yamls_words(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "gradient-checkpointing: no\nkeep_logits: ON\nmodel: no\nlora-targets: [q_proj, no]\nbatch-size: 010\n"
    )
    known = ("gradient_checkpointing", "keep_logits", "model", "lora_targets", "batch_size")
    assert read_config(file, known) == {
        "gradient_checkpointing": False,
        "keep_logits": True,
        "model": "no",
        "lora_targets": "q_proj,no",
        "batch_size": "010",
    }
    for wrong, said in (
        ("gradient-checkpointing: maybe", "s.yaml:1: 'gradient_checkpointing' must be true or false, not 'maybe'"),
        ("\nbatch-size: true", "s.yaml:2: 'batch_size' must be a value, not True"),
        ("batch-size: 1\nbatch_size: 2", "s.yaml:2: 'batch_size' stands twice"),
        ("lora-targets: [{a: 1}]", "s.yaml:1: 'lora_targets' holds {'a': 1}, where a word is needed"),
        ("batch-size: {a: 1}", "takes one value, not a mapping"),
        ("2026-01-01: 1", "unknown option '2026-01-01'"),
        ("- a", "one option per line"),
    ):
        file.write_text(wrong)
        with pytest.raises(InvalidInput) as refused:
            read_config(file, known)
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("settings: {lora_targets: /etc}", "settings.lora_targets '/etc' is no module's name"),
        ("settings: {lora_targets: [../x]}", "settings.lora_targets '../x' is no module's name"),
        ("settings: {lora_targets: []}", "settings.lora_targets is empty"),
        ("settings: {lora_targets: {q_proj: 1}}", "settings.lora_targets must be a list of names, not {'q_proj': 1}"),
        (
            "settings: {gradient_checkpointing: 'fa<se'}",
            "settings.gradient_checkpointing must be true or false, not 'fa<se'",
        ),
        ("settings: {batch_size: true}", "settings.batch_size must be a whole number, not True"),
        ("settings: {batch_size: 1.5}", "settings.batch_size must be a whole number, not 1.5"),
        ("settings: {batch_size: [1]}", "settings.batch_size must be a whole number, not [1]"),
        ("settings: {max_length: .inf}", "settings.max_length must be a whole number, not inf"),
        ("settings: {lora_alpha: .nan}", "settings.lora_alpha must be a number above 0, not nan"),
        ("settings: {lora_dropout: -1e308}", "settings.lora_dropout must lie in [0, 1), not -1e+308"),
        ("settings: {checkpoint_layers: many}", "settings.checkpoint_layers must be a whole number, not 'many'"),
        ("settings: {precision: {bf16: 1}}", "settings.precision must be text, not {'bf16': 1}"),
        ("settings: {batchsize: 1}", "settings.batchsize: this key is unknown (did you mean batch_size"),
        ("settings: [1]", "settings: input should be a valid dictionary"),
        ("settings: {}\nhyperparameters: {epochs: 0}", ":4: hyperparameters.epochs must be above 0, not 0"),
        ("settings: {}\nhyperparameters:\n  seed: true", ":5: hyperparameters.seed must be a number, not true"),
        ("settings: {}\nhyperparameters: {beta1: 1}", "hyperparameters.beta1 must be below 1, not 1"),
        ("settings: {}\nhyperparameters: {learning_rate: .nan}", "hyperparameters.learning_rate must be"),
        ("settings: {}\nhyperparameters: {seed: -1}", "hyperparameters.seed must be at least 0, not -1"),
        ("settings: {}\nhyperparameters: {report_to: [x]}", "hyperparameters.report_to 'x' is unknown; choose among"),
        ("settings: {}\ndata: {validation_split: 1}", "data.validation_split must lie in [0, 1), not 1"),
        ("settings: {}\ncreated: 99999-99-99\nx: 1", ":5: x: this key is unknown"),
        ("settings: {}\npredicted: {}", "predicted.allocated_peak_bytes: this key is missing (and"),
    ],
)
def test_planner_and_trainer_refuse_the_same_plans(lines: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(f"model: m\ngpu: cpu\n{lines}\n")
    messages = set()
    for read in (load, lambda path: trainer_plan(Request(plan=path))):
        with pytest.raises(InvalidInput) as refused:
            read(file)  # type: ignore[operator]
        messages.add(str(refused.value))
    (message,) = messages
    assert said in message
    assert len(message.removeprefix(str(file))) < 300


def test_choices_of_a_hand_written_plan(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        PLAN.replace("{}", "{lora_targets: 'q_proj, k_proj', gradient_checkpointing: no, max_grad_norm: 1}")
    )
    choices = trainer_plan(Request(plan=file)).settings
    assert choices.lora_targets == ("q_proj", "k_proj")
    assert choices.gradient_checkpointing is False


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": "0"}, "--epochs must be above 0, not '0'"),
        ({"learning_rate": "1e400"}, "--learning-rate must be a number, not '1e400'"),
        ({"seed": "9" * 5000}, "--seed"),
        ({"beta2": "1"}, "--beta2 must be below 1, not '1'"),
        ({"report_to": "wandb,x"}, "--report-to 'x' is unknown"),
        ({"scheduler": "sudden"}, "--scheduler: input should be 'cosine'"),
    ],
)
def test_hyperparameters_of_the_command_line_have_the_same_ranges(
    given: dict[str, str], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN)
    with pytest.raises(InvalidInput) as refused:
        trainer_plan(Request(plan=file, overrides=given))
    assert str(refused.value).startswith(said)
    assert len(str(refused.value)) < 300


def test_values_are_shown_in_a_few_words() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for value in (10**6000, -(10**6000), deep, {"a" * 10**6: 1}, ["x"] * 10**6, "y" * 10**7, float("nan"), None):
        assert len(shown(value)) <= 60
    assert shown({"a": [1, {"b": 2}]}) == "{'a': [1, {…}]}"
    assert json.loads(shown(12)) == 12
