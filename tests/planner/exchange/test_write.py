"""Plans as other trainers' files: written, read back, and as strict with names as everything else."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from planner.calibration import attach
from planner.cli import exporting, main
from planner.contract import settings, yaml_text
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.records import Plan
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.exchange import recognise, write
from planner.handover import plans

TOOLS = tuple(recognise.TOOLS)
SCHEDULE = {"learning_rate": 2e-4, "warmup_steps": 10, "max_steps": 200, "epochs": 2.0, "weight_decay": 0.01, "seed": 7}
PLANS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "lora": ("llama-3.2-1b", {"lora_targets": ("q_proj", "v_proj"), "batch_size": 4}, {}, {"format": "messages"}),
    "qlora": ("llama-3.1-8b", {"method": "qlora", "batch_size": 1, "lora_r": 16}, {}, {"format": "alpaca"}),
    "full": (
        "qwen2.5-0.5b",
        {"method": "full", "gradient_checkpointing": False},
        {"scheduler": "linear"},
        {"format": "text"},
    ),
    "dora": (
        "llama-3.2-1b",
        {"lora_variant": "dora"},
        {"min_learning_rate_ratio": 0.0},
        {"format": "prompt-completion"},
    ),
    "packed": (
        "mistral-7b-v0.1",
        {"padding": "packed", "attention": "flash", "batch_size": 1},
        {},
        {"format": "sharegpt"},
    ),
    "experts": ("mixtral-8x7b", {"lora_targets": ("attention",), "method": "qlora", "batch_size": 1}, {}, {}),
    "two devices": ("llama-3.1-8b", {"num_gpus": 2, "strategy": "fsdp", "batch_size": 1}, {}, {"format": "messages"}),
    "phi": ("phi-2", {"lora_targets": ("q_proj", "v_proj", "fc1"), "loss": "chunked"}, {"scheduler": "constant"}, {}),
}
REFUSED = {
    ("unsloth", "dora"): "DoRA",
    ("unsloth", "two devices"): "one device",
    ("torchtune", "two devices"): "one device",
    ("mlx-lm", "two devices"): "one device",
    ("torchtune", "experts"): "no builder",
    ("torchtune", "phi"): "no builder",
    ("litgpt", "dora"): "dora",
    ("litgpt", "phi"): "no switch",
}
"""What a tool can't be asked for, and a word of the line that says so."""
SAME = (
    *("batch_size", "gradient_accumulation_steps", "max_length", "method", "lora_r", "lora_alpha", "lora_dropout"),
    *("lora_variant", "optimizer", "num_gpus"),
)
ALWAYS = ("learning_rate", "max_steps", "seed", "train_on_prompt")
ODD = {
    ("mlx-lm", "weight_decay"),
    ("mlx-lm", "epochs"),
}


@cache
def plan(name: str) -> Plan:
    model, choices, h, data = PLANS[name]
    return Plan(
        model={"llama-3.2-1b": "meta-llama/Llama-3.2-1B"}.get(model, model),
        gpu="a100-80gb",
        settings=settings.choices_from(choices),
        hyperparameters=Hyperparameters(**{**SCHEDULE, **h}),
        data=DataSettings(path="train.jsonl", validation_split=0.1, **data),
    )


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", PLANS)
def test_what_is_written_reads_back_as_the_plan(name: str, tool: str) -> None:
    """GIVEN a plan WHEN a tool's file is written and read by the reader of such files THEN batch, accumulation, length,
    adapters, optimizer, rate and schedule are the plan's, writing what was read gives the same file, and nothing in it
    is unknown."""
    whole = plan(name)
    if (tool, name) in REFUSED:
        with pytest.raises(InvalidInput, match=REFUSED[tool, name]):
            write.export(whole, tool)
        return
    made = write.export(whole, tool)
    assert not made.there.of("unknown")
    there = write.plan_there(whole, made.there)
    choices, own = there.settings, whole.settings
    same = [field for field in SAME if own.method != "full" or not field.startswith("lora")]
    assert {field: getattr(choices, field) for field in same} == {field: getattr(own, field) for field in same}
    if own.method == "qlora" and tool != "mlx-lm":
        assert choices.quantization == own.quantization
    if own.method != "full":
        run = write._run(whole)
        targets = write.targets.in_words_of(run.spec, choices.lora_targets)
        assert set(targets) == set(run.targets())
    for field in ALWAYS:
        if (tool, field) not in ODD and not (field == "train_on_prompt" and whole.data.format == "text"):
            assert getattr(there.hyperparameters, field) == getattr(whole.hyperparameters, field), field
    again = write.export(there, tool)
    assert again.there.values == made.there.values
    assert again.there.hyperparameters == made.there.hyperparameters


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory", "trl", "litgpt", "mlx-lm"])
@pytest.mark.parametrize("name", PLANS)
def test_every_key_is_one_of_the_tools_own(name: str, tool: str) -> None:
    """GIVEN the key lists of the tools' packages (benchmarks/exchange/keys.py) THEN an export holds no other key."""
    if (tool, name) in REFUSED:
        return
    known = json.loads((Path(__file__).parent / "keys.json").read_text())[tool]
    made = write.export(plan(name), tool)
    content = yaml_text.parse(made.files[made.main], made.main).value
    assert set(content) <= {*known["keys"], "lr_schedule"}
    assert set(content.get("train", ()) if tool == "litgpt" else ()) <= set(known.get("train", ()))


@pytest.mark.parametrize("tool", TOOLS)
def test_the_header_holds_the_peak_of_that_stack(tool: str, tmp_path: Path, capsys: Any) -> None:
    """GIVEN a plan file WHEN it is exported THEN a new folder holds the file, its header the peak that
    `plan check --from` gives for it, and a second export touches nothing."""
    whole = plan("lora")
    plans.save(whole, tmp_path / "plan.yaml")
    folder = tmp_path / "out"
    assert main(["export", str(tmp_path / "plan.yaml"), "--to", tool, "--output", str(folder)]) == 0
    capsys.readouterr()
    made = write.export(whole, tool, hardware=attach.find("a100-80gb"))
    assert made.report is not None
    assert {path.name for path in folder.iterdir()} == set(made.files)
    text = (folder / made.main).read_text()
    assert "Predicted peak of this run: " in text
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if tool != "mlx-lm":
        assert main(["check", "--from", str(folder / made.main), "--gpu", "a100-80gb", "--json"]) == 0
        assert str(made.report.memory.device_peak_bytes) in capsys.readouterr().out
    assert main(["export", str(tmp_path / "plan.yaml"), "--to", tool, "--output", str(folder)]) == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_exports_leave_links_and_their_targets_alone(tmp_path: Path, capsys: Any) -> None:
    """GIVEN a link, dangling or not, where the folder would be THEN it is refused."""
    plans.save(plan("lora"), tmp_path / "plan.yaml")
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    assert main(["export", str(tmp_path / "plan.yaml"), "--to", "trl", "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "nowhere").exists()
    assert main(["export", str(tmp_path / "plan.yaml"), "--to", "elsewhere"]) == 2
    assert "axolotl" in capsys.readouterr().err


def test_an_export_that_breaks_off_leaves_no_folder(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """GIVEN a disk that is full at the second file THEN nothing stays, so that the same command can be given again."""
    plans.save(plan("two devices"), tmp_path / "plan.yaml")
    written: list[Path] = []

    def fills(path: Path, content: bytes) -> None:
        if written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.write_bytes(content)
        written.append(path)

    again = ["export", str(tmp_path / "plan.yaml"), "--to", "trl", "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patched:
        patched.setattr(exporting, "write_whole", fills)
        assert main(again) == 4
    assert "No space left" in capsys.readouterr().err
    assert written
    assert not (tmp_path / "out").exists()
    assert main(again) == 0


@pytest.mark.parametrize("tool", TOOLS)
def test_names_of_the_plan_stay_values(tool: str) -> None:
    """GIVEN a model and data whose names are code, YAML and line breaks THEN the file still says what the plan says, in
    one comment a line, and a script holds them as literals."""
    model = "meta-llama/Llama-3.2-1B"
    data = "a'); import os; os.system('x') #\nrm: -rf\n.jsonl"
    whole = plan("lora").model_copy(update={"data": DataSettings(path=data, format="messages"), "model": model})
    made = write.export(whole, tool)
    text = made.files[made.main]
    assert made.main.removesuffix(".py") not in TOOLS  # a script of a package's name would import itself
    if made.main.endswith(".py"):
        tree = ast.parse(text)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import) and node.names[0].name == "os"]
        assert any(isinstance(node, ast.Constant) and node.value == data for node in ast.walk(tree))
    else:
        assert "rm" not in yaml_text.parse(text, "x").value


def test_choices_that_no_file_says_are_said_in_comments() -> None:
    """GIVEN recomputation of some layers and a data column's name THEN both stand in the header."""
    choices = TrainingChoices(checkpoint_layers=4, expandable_segments=True)
    whole = plan("lora").model_copy(
        update={
            "settings": choices,
            "data": DataSettings(path="x.jsonl", format="prompt-completion", columns={"prompt": "question"}),
        }
    )
    text = write.export(whole, "trl").files["trl.yaml"]
    for word in ("checkpoint_layers 4", "expandable_segments", "prompt=question"):
        assert word in text


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"prompt": "a", "completion": "b"}, "completion_only_loss"),
        ({"messages": [{"role": r, "content": "a"} for r in ("user", "assistant")]}, "assistant_only_loss"),
    ],
)
def test_the_datas_shape_is_that_of_its_file(row: dict[str, Any], key: str, tmp_path: Path, capsys: Any) -> None:
    """GIVEN a plan that doesn't name its data's format THEN the file's own decides which switch TRL's file gets: TRL
    refuses the other one."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    data = DataSettings(path=str(tmp_path / "rows.jsonl"))
    path = plans.save(plan("lora").model_copy(update={"data": data}), tmp_path / "plan.yaml")
    assert main(["export", str(path), "--to", "trl", "--output", str(tmp_path / "out")]) == 0
    written = (tmp_path / "out" / "trl.yaml").read_text()
    switches = re.findall(r"^(\w+_only_loss): true", written, re.MULTILINE)
    assert switches == [key]


def _written(tool: str, name: str = "lora", **hyperparameters: Any) -> dict[str, Any]:
    whole = plan(name)
    h = Hyperparameters(**{**whole.hyperparameters.model_dump(), **hyperparameters})
    made = write.export(whole.model_copy(update={"hyperparameters": h}), tool)
    content: dict[str, Any] = yaml_text.parse(made.files[made.main], made.main).value
    return content


def test_litgpts_file_holds_what_its_recipe_takes() -> None:
    """GIVEN a plan that clips, without warm-up THEN LitGPT's file names no clipping, which its fine-tuning refuses, one
    step of warm-up, by which it divides, and so many epochs that the steps end the run."""
    train = _written("litgpt", warmup_steps=0, warmup_ratio=0.0)["train"]
    assert not {"max_norm", "min_lr"} & set(train)
    assert (train["lr_warmup_steps"], train["epochs"], train["max_steps"]) == (1, 200, 200)
    data = DataSettings(path="train.jsonl", format="alpaca", validation_split=0.0)
    made = write.export(plan("lora").model_copy(update={"data": data}), "litgpt")
    assert "val_split_fraction: 0.0" in made.files["litgpt.yaml"]
    assert _written("litgpt", warmup_steps=None, warmup_ratio=0.1)["train"]["lr_warmup_steps"] == 20
    assert _written("litgpt", warmup_steps=9, max_steps=5)["train"]["lr_warmup_steps"] == 4


def test_mlx_counts_iterations_in_micro_batches_and_rates_in_updates() -> None:
    """GIVEN a plan of 200 steps, 10 of warm-up, each of several micro-batches THEN `iters` counts these, the schedule
    the steps; plain text is not masked, which mlx-lm refuses."""
    content = _written("mlx-lm")
    pieces = content["grad_accumulation_steps"]
    assert pieces > 1
    assert content["iters"] == 200 * pieces
    assert content["lr_schedule"]["warmup"] == 10
    assert content["lr_schedule"]["arguments"][1] == 190
    assert content["mask_prompt"] is True
    assert _written("mlx-lm", "full")["mask_prompt"] is False


def test_torchtunes_file_names_builders_steps_and_a_schedule_that_it_has() -> None:
    """GIVEN plans for torchtune 0.6.1 THEN the steps are of one epoch, a constant rate is a cosine of no cycle, QLoRA
    is said of the builder with adapters, and a model without a builder is refused."""
    content = _written("torchtune", scheduler="constant")
    assert (content["epochs"], content["max_steps_per_epoch"]) == (1, 200)
    assert content["lr_scheduler"]["num_cycles"] == 0
    assert _written("torchtune", "full")["optimizer_in_bwd"] is False
    model = _written("torchtune", "qlora")["model"]
    assert (model["_component_"], model["quantize_base"]) == ("torchtune.models.llama3_1.lora_llama3_1_8b", True)
    for name, component in (
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2_5.lora_qwen2_5_7b_instruct"),
        ("qwen2.5-7b", "qwen2_5.lora_qwen2_5_7b_base"),
        ("qwen2.5-3b", "qwen2_5.lora_qwen2_5_3b"),
        ("phi-4", "phi4.lora_phi4_14b"),
    ):
        made = write.export(plan("lora").model_copy(update={"model": name, "settings": TrainingChoices()}), "torchtune")
        assert f"_component_: torchtune.models.{component}\n" in made.files[made.main]
    with pytest.raises(InvalidInput, match="no builder for qwen3-4b"):
        write.export(plan("lora").model_copy(update={"model": "qwen3-4b"}), "torchtune")
