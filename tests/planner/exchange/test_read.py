"""Other trainers' files, key by key: what they say, what is refused by name, and what nobody should have written."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.contract import settings, yaml_text
from planner.contract.errors import InvalidInput, NotModelled, TuneplanError
from planner.contract.run_settings import Hyperparameters
from planner.contract.yaml_text import Document
from planner.exchange import recognise, targets
from planner.exchange.foreign import Foreign
from planner.models import sources
from tests.planner.exchange.files import AXOLOTL, FILES, LITGPT, LLAMA_FACTORY, MLX_LM, TRL, UNSLOTH


def read(folder: Path, text: str, name: str = "config.yaml", **options: Any) -> Foreign:
    (folder / name).write_text(text)
    return recognise.read([folder / name], **options)


@pytest.mark.parametrize("tool", FILES)
def test_a_file_of_each_tool_is_known_by_its_keys(tool: str, tmp_path: Path) -> None:
    """GIVEN a tool's own file WHEN it is read THEN tool, model, choices and hyperparameters are those it stands for,
    every value is one that tuneplan takes, and no key is without a note."""
    name, text, choices, hyperparameters = FILES[tool]
    found = read(tmp_path, text, name)
    assert found.tool == tool
    assert found.model is not None
    assert {key: found.values[key] for key in choices} == choices
    assert {key: found.hyperparameters[key] for key in hyperparameters} == hyperparameters
    settings.choices_from(found.values)
    Hyperparameters(**found.hyperparameters)
    assert not found.of("unknown")
    if name.endswith((".yml", ".yaml")):
        noted = {note.key.split(".")[0] for note in found.notes}
        assert {key for key, value in yaml_text.parse(text, "x").value.items() if value is not None} <= noted


def test_every_line_is_that_of_its_key(tmp_path: Path) -> None:
    """GIVEN notes with lines THEN the key stands on that line."""
    lines = AXOLOTL.splitlines()
    for note in read(tmp_path, AXOLOTL).notes:
        if note.line is not None:
            assert lines[note.line - 1].lstrip().startswith(note.key.rpartition(".")[2])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (AXOLOTL + "rl: dpo\n", "rl"),
        (AXOLOTL + "torch_compile: true\n", "torch_compile"),
        (AXOLOTL.replace("paged_adamw_8bit", "muon"), "optimizer"),
        (AXOLOTL + "lora_target_parameters: [a]\n", "lora_target_parameters"),
        (AXOLOTL + "fsdp: [full_shard]\nfsdp_config: {offload_params: true}\n", "fsdp_config.offload_params"),
        (LLAMA_FACTORY + "use_galore: true\n", "use_galore"),
        (LLAMA_FACTORY.replace("stage: sft", "stage: dpo"), "stage"),
        (TRL + "loss_type: dft\n", "loss_type"),
        (TRL + "beta: 0.1\n", "beta"),
        (LITGPT.replace("bnb.nf4", "bnb.fp4"), "quantize"),
        (MLX_LM.replace("num_layers: -1", "num_layers: 16"), "num_layers"),
    ],
)
def test_what_has_no_figure_is_refused_by_its_key(text: str, key: str, tmp_path: Path) -> None:
    """GIVEN a key whose memory isn't modelled THEN it is refused with file, line and key."""
    with pytest.raises(NotModelled, match=rf"config\.yaml:\d+: {key.replace('.', '[.]')}: "):
        read(tmp_path, text)


@pytest.mark.parametrize("switch", ["torch_compile", "relora", "fp8", "qat", "tiled_mlp"])
def test_what_is_switched_off_is_no_reason_to_refuse(switch: str, tmp_path: Path) -> None:
    """GIVEN the same keys switched off THEN the file is read."""
    found = read(tmp_path, AXOLOTL + f"{switch}: false\n")
    assert any(note.key == switch and note.text == "off" for note in found.of("read"))


def test_trl_as_yaml_json_and_command_line_is_one_run(tmp_path: Path) -> None:
    """GIVEN one TRL run as YAML, as JSON and as the words of a shell THEN all three say the same."""
    one = read(tmp_path, TRL, "t.yaml")
    content = yaml_text.parse(TRL, "x").value
    other = read(tmp_path, json.dumps(content), "t.json")
    words = ["trl sft \\"]
    for key, value in content.items():
        said = (
            " ".join(value)
            if isinstance(value, list)
            else f"'{json.dumps(value)}'"
            if isinstance(value, dict)
            else value
        )
        words.append(f"  --{key} {str(said).lower() if isinstance(said, bool) else said} \\")
    words = [word for word in words if "lr_scheduler_kwargs" not in word]
    line = read(tmp_path, "\n".join(words).rstrip("\\"), "run.sh")
    assert one.values == other.values == line.values
    assert one.hyperparameters == other.hyperparameters
    assert line.hyperparameters == {**one.hyperparameters, "min_learning_rate_ratio": 0.0}


def test_a_launcher_says_over_how_many_devices(tmp_path: Path) -> None:
    """GIVEN an accelerate config and a DeepSpeed config beside a file THEN devices and strategy are theirs."""
    (tmp_path / "fsdp.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_processes: 4\nmixed_precision: bf16\n"
        "fsdp_config: {fsdp_sharding_strategy: FULL_SHARD, fsdp_offload_params: false}\n"
    )
    (tmp_path / "t.yaml").write_text(TRL)
    found = recognise.read([tmp_path / "fsdp.yaml", tmp_path / "t.yaml"])
    assert (found.values["num_gpus"], found.values["strategy"]) == (4, "fsdp")
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}}))
    by_key = read(tmp_path, LLAMA_FACTORY + "deepspeed: ds.json\n")
    assert by_key.values["strategy"] == "zero3"
    assert by_key.several == "deepspeed"
    by_name = read(tmp_path, LLAMA_FACTORY + "deepspeed: examples/deepspeed/ds_z2_config.json\n")
    assert by_name.values["strategy"] == "zero2"
    (tmp_path / "off.json").write_text(
        json.dumps({"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}})
    )
    with pytest.raises(NotModelled, match=r"offload_param\.device"):
        read(tmp_path, LLAMA_FACTORY + "deepspeed: off.json\n")
    with pytest.raises(InvalidInput, match="not what is trained"):
        recognise.read([tmp_path / "fsdp.yaml"])


def test_a_script_is_read_and_never_run(tmp_path: Path) -> None:
    """GIVEN a script and a notebook that would leave a file if they ran THEN both are read, and no file is there."""
    trap = tmp_path / "ran"
    script = f"open({str(trap)!r}, 'w')\n" + UNSLOTH
    read(tmp_path, script, "u.py")
    cells = [
        {"cell_type": "code", "source": ["!pip install unsloth \\\n", "    trl\n", f"open({str(trap)!r}, 'w')\n"]},
        {"cell_type": "markdown", "source": "from_pretrained("},
        {"cell_type": "code", "source": UNSLOTH},
    ]
    found = read(tmp_path, json.dumps({"cells": cells}), "u.ipynb")
    assert found.values == read(tmp_path, UNSLOTH, "v.py").values
    assert not trap.exists()


def test_parts_of_a_layer_are_found_by_what_a_model_calls_them() -> None:
    """GIVEN Llama's names THEN Phi-2's and Falcon's own are chosen; names that no table has stay."""
    every = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert targets.in_words_of(sources.load_model("phi-2"), every) == ("q_proj", "v_proj", "dense", "fc1", "fc2")
    assert targets.in_words_of(sources.load_model("falcon-7b"), ("q_proj", "v_proj")) == ("query_key_value",)
    assert targets.in_words_of(sources.load_model("phi-2"), ("my_layer",)) == ("my_layer",)


HOSTILE: tuple[Any, ...] = (
    *(None, "", "x", "\x1b[31m", -1, 0, 10**400, 1e308, float("nan"), True, False, [], {}, [[]], {"a": {"b": [None]}}),
    *([1, "a"], "0", "yes", 0.5, "../../etc/passwd", "/dev/zero", ["q_proj", None], "(" * 50 + "a" + ")" * 50),
)


def leaves(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    for key, value in content.items() if isinstance(content, dict) else ():
        found += leaves(value, (*path, key))
    return found


@pytest.mark.parametrize("tool", FILES)
def test_any_value_under_any_key_is_read_or_refused_in_one_line(tool: str, tmp_path: Path) -> None:
    """GIVEN each key of each tool's file with values that nobody should have written THEN what is read holds only
    values that tuneplan takes, and what isn't is a user's error of one line."""
    name, text, _, _ = FILES[tool]
    (tmp_path / name).write_text(text)
    document = recognise._open(tmp_path / name, None)
    for path in leaves(document.value):
        for value in HOSTILE:
            content = copy.deepcopy(document.value)
            at = content
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
            said = ""
            try:
                found = recognise.interpret(Document(where=str(tmp_path / name), value=content), tool=tool)
                settings.choices_from(found.values)
                Hyperparameters(**found.hyperparameters)
            except TuneplanError as error:
                said = str(error)
            assert not {"\n", "\x1b"} & set(said), (path, value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", ""),
        ("a.yaml", "- 1\n"),
        ("a.yaml", "a: &x 1\nb: *x\n"),
        ("a.yaml", "base_model: !!python/object:os.system x\n"),
        ("a.yaml", "hello: world\n"),
        ("a.yaml", "distributed_type: FSDP\n"),
        ("a.py", "def ("),
        ("a.py", "x = 1\n"),
        ("a.py", UNSLOTH.replace("SFTTrainer(", "DPOTrainer(")),
        ("a.py", UNSLOTH.partition("trainer =")[0]),
        ("a.yaml", "model_name_or_path: x\ntemplate: llama3\ninfer_backend: huggingface\n"),
        ("a.py", "(" * 5000),
        ("a.ipynb", "{}"),
        ("a.ipynb", '{"cells": [1, {"cell_type": "code", "source": 7}]}'),
        ("a.sh", "echo 'unclosed --a"),
        ("a.sh", "echo hello"),
        ("a.sh", "trl sft --a 1 --a 2"),
        ("a.json", "{" * 100_000),
    ],
)
def test_what_is_no_trainers_file_is_one_line(name: str, text: str, tmp_path: Path, capsys: Any) -> None:
    """GIVEN files that are none THEN exit code 2 and one line that names the file."""
    (tmp_path / name).write_text(text)
    assert main(["check", "--from", str(tmp_path / name), "--gpu", "a10g"]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert name in said


def test_check_from_a_file_is_the_check_of_its_settings(tmp_path: Path, capsys: Any) -> None:
    """GIVEN a file, and the same settings as options THEN both give one figure, and the file's names its keys."""
    (tmp_path / "a.yml").write_text(AXOLOTL)
    assert main(["check", "--from", str(tmp_path / "a.yml"), "--gpu", "rtx-4090", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["from"]["tool"] == "axolotl"
    flags = settings.to_flags(settings.choices_from(found["settings"]))
    flags += ["--loss", found["settings"]["loss"], "--optimizer-implementation", "foreach"]
    assert main(["check", "--model", "llama-3.2-1b", "--gpu", "rtx-4090", "--json", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["memory"] == found["memory"]
    assert main(["check", "--from", str(tmp_path / "a.yml"), "--gpu", "rtx-4090", "--batch-size", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "micro_batch_size (line 14)" in said
    assert "batch 1×4" in said


@pytest.mark.parametrize(
    ("changes", "grows"),
    [([], False), (["--padding", "longest"], True), (["--padding", "longest", "--expandable-segments"], False)],
)
def test_what_varying_lengths_reserve_elsewhere_is_said(
    changes: list[str], grows: bool, tmp_path: Path, capsys: Any
) -> None:
    """GIVEN another trainer's file under which lengths vary THEN it says what is reserved then, and the way out."""
    (tmp_path / "a.yml").write_text(AXOLOTL)
    assert main(["check", "--from", str(tmp_path / "a.yml"), "--gpu", "a100-80gb", *changes]) == 0
    assert ("expandable_segments:True" in capsys.readouterr().out) == grows


def test_a_run_over_devices_needs_their_number(tmp_path: Path, capsys: Any) -> None:
    """GIVEN FSDP without a number THEN exit 2 with the option; with it, an answer."""
    (tmp_path / "a.yml").write_text(
        AXOLOTL.replace("load_in_4bit: true\nadapter: qlora", "adapter: lora") + "fsdp: [full_shard]\n"
    )
    assert main(["check", "--from", str(tmp_path / "a.yml"), "--gpu", "a100-80gb"]) == 2
    assert "--num-gpus" in capsys.readouterr().err
    assert (
        main(
            [
                "check",
                "--from",
                str(tmp_path / "a.yml"),
                "--gpu",
                "a100-80gb",
                "--num-gpus",
                "2",
                "--optimizer",
                "adamw",
            ]
        )
        == 0
    )


def test_a_mirror_is_its_original(tmp_path: Path, capsys: Any) -> None:
    """GIVEN a model of an account that republishes THEN the original's config is planned, and it is said."""
    (tmp_path / "a.yml").write_text(AXOLOTL.replace("meta-llama/Llama-3.2-1B", "NousResearch/Llama-3.2-1B"))
    assert main(["check", "--from", str(tmp_path / "a.yml"), "--gpu", "rtx-4090"]) == 0
    assert "which NousResearch/Llama-3.2-1B republishes" in " ".join(capsys.readouterr().out.split())


LIGER: dict[str, tuple[str, dict[str, Any]]] = {
    "trl": (TRL + "use_liger_kernel: true\n", {"liger": True, "loss": "full"}),
    "trl, some": (
        TRL + "use_liger_kernel: true\nliger_kernel_config: {rope: false, layer_norm: true}\n",
        {"liger": True, "liger_kernels": ("rms_norm", "swiglu", "fused_linear_cross_entropy")},
    ),
    "axolotl": (
        AXOLOTL + "liger_rope: true\nliger_fused_linear_cross_entropy: true\nliger_rms_norm: false\n",
        {"liger": True, "liger_kernels": ("rope", "fused_linear_cross_entropy"), "loss": "full"},
    ),
    "llama-factory": (LLAMA_FACTORY + "enable_liger_kernel: true\n", {"liger": True, "loss": "full"}),
}


@pytest.mark.parametrize("case", LIGER)
def test_ligers_switches_are_read(case: str, tmp_path: Path) -> None:
    """GIVEN a switch of Liger's WHEN a file is read THEN it is planned for, and every key of it has a note."""
    text, wanted = LIGER[case]
    found = read(tmp_path, text)
    assert {name: found.values[name] for name in wanted} == wanted
    settings.choices_from(found.values)
    assert not found.of("unknown")


def test_what_switches_compiling_on_is_refused(tmp_path: Path) -> None:
    """GIVEN transformers' backend or mode of compiling, each of which sets torch_compile THEN it is refused."""
    for key, value in (("torch_compile_backend", "inductor"), ("torch_compile_mode", "max-autotune")):
        with pytest.raises(NotModelled, match=key):
            read(tmp_path, TRL + f"{key}: {value}\n")


@pytest.mark.parametrize(
    ("name", "text", "key"),
    [
        ("a.yaml", "distributed_type: MULTI_GPU\ndynamo_config: {dynamo_backend: INDUCTOR}\n", "dynamo_backend"),
        ("a.yaml", "distributed_type: 'NO'\ndynamo_backend: INDUCTOR\n", "dynamo_backend"),
        ("a.json", '{"zero_optimization": {"stage": 3}, "compile": {"deepcompile": true}}', "deepcompile"),
    ],
)
def test_a_launcher_that_compiles_is_refused(tmp_path: Path, name: str, text: str, key: str) -> None:
    """GIVEN an accelerate or DeepSpeed config that compiles THEN it is refused, and one that says no is not."""
    (tmp_path / "t.yaml").write_text(TRL)
    (tmp_path / name).write_text(text)
    with pytest.raises(NotModelled, match=key):
        recognise.read([tmp_path / name, tmp_path / "t.yaml"])
    (tmp_path / name).write_text(text.replace("INDUCTOR", "'NO'").replace("true", "false"))
    recognise.read([tmp_path / name, tmp_path / "t.yaml"])


def test_axolotl_compiling_by_deepspeed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotModelled, match="deepcompile"):
        read(tmp_path, AXOLOTL + "deepcompile: true\n")


def test_a_model_that_liger_patches_otherwise_has_an_upper_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN Liger's switch for a model without a figure of it THEN plain code is taken, and said."""
    (tmp_path / "c.yaml").write_text(TRL + "use_liger_kernel: true\n")
    words = ["check", "--from", str(tmp_path / "c.yaml"), "--gpu", "a100-80gb", "--json"]
    assert main([*words, "--model", "phi-2", "--lora-targets", "attention"]) in (0, 3)
    told = json.loads(capsys.readouterr().out)
    assert told["settings"]["liger"] is False
    assert [key["how"] for key in told["from"]["keys"] if key["key"] == "liger"] == ["assumed"]
    assert main([*words, "--model", "llama-3.2-1b", "--lora-targets", "attention"]) in (0, 3)
    assert json.loads(capsys.readouterr().out)["settings"]["liger"] is True
