"""Kinds of files that public examples are full of: towers of images, cells that are no Python, templates, variables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.contract.errors import InvalidInput, NotModelled
from planner.exchange import recognise
from planner.exchange.foreign import Foreign
from tests.planner.exchange.files import AXOLOTL, LITGPT, LLAMA_FACTORY, TORCHTUNE, TRL, UNSLOTH


def read(folder: Path, text: str, name: str = "config.yaml", **options: Any) -> Foreign:
    (folder / name).write_text(text)
    return recognise.read([folder / name], **options)


def adapted(words: str) -> str:
    """The script with other words about its adapters."""
    return UNSLOTH.replace("r=16,", f"r=16, {words},")


def test_a_script_reckons_and_names_its_settings(tmp_path: Path) -> None:
    """GIVEN numbers as sums of names, two names bound at once and a model's name in pieces THEN all are read."""
    text = UNSLOTH.replace("max_seq_length = 2048", "rank, max_seq_length = 8 * 2, 4096 // 2\nmax_seq_length = 2048")
    text = text.replace("lora_alpha=16", "lora_alpha=rank*2").replace('"unsloth/Llama', 'f"unsloth/Llama')
    found = read(tmp_path, text, "u.py")
    assert (found.values["lora_alpha"], found.values["max_length"]) == (32.0, 2048)
    assert found.model == "unsloth/Llama-3.2-1B-bnb-4bit"
    assert not found.of("unknown")


@pytest.mark.parametrize("number", ["1 / 0", "2 ** 70", "10**400 * 2", "9" * 5000 + " * 1", "-'a'", "[1] * 2", "not 1"])
def test_sums_that_come_to_nothing_are_said(number: str, tmp_path: Path) -> None:
    """GIVEN an argument that no setting can be THEN it is noted as not used, or refused in one line."""
    said = ""
    try:
        found = read(tmp_path, UNSLOTH.replace("lora_alpha=16", f"lora_alpha={number}"), "u.py")
    except InvalidInput as error:
        said = str(error)
    else:
        assert [note.key for note in found.of("unknown")] == ["get_peft_model.lora_alpha"]
    assert "\n" not in said


def test_the_parts_that_get_adapters_are_those_switched_on(tmp_path: Path) -> None:
    """GIVEN a multimodal model's switches for the text alone THEN adapters are on the parts that they name."""
    on = "finetune_vision_layers=False, finetune_language_layers=True"
    text = adapted(f"{on}, finetune_attention_modules=True, finetune_mlp_modules=False")
    text = text.replace(
        'target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],', ""
    )
    found = read(tmp_path, text, "u.py")
    assert found.values["lora_targets"] == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert not found.of("unknown")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (adapted("finetune_vision_layers=True"), "get_peft_model.finetune_vision_layers"),
        (adapted("finetune_language_layers=False"), "get_peft_model.finetune_language_layers"),
        (adapted("finetune_audio_layers=True"), "get_peft_model.finetune_audio_layers"),
        (adapted("qat_scheme='int4'"), "get_peft_model.qat_scheme"),
        (
            UNSLOTH.replace("tokenizer=tokenizer", "data_collator=UnslothVisionDataCollator(model, tokenizer)"),
            "SFTTrainer.data_collator",
        ),
        (UNSLOTH.replace("dtype=None", "num_labels=3"), "from_pretrained.num_labels"),
    ],
)
def test_towers_and_heads_of_a_script_are_refused(text: str, key: str, tmp_path: Path) -> None:
    """GIVEN a script that trains or feeds a tower, or a classifier THEN it is refused by its key."""
    with pytest.raises(NotModelled, match=rf"u\.py:\d+: {key.replace('.', '[.]')}: "):
        read(tmp_path, text, "u.py")


def test_a_cell_that_is_no_python_spoils_no_notebook(tmp_path: Path) -> None:
    """GIVEN a broken cell beside the training THEN the rest is read; a broken cell of the training itself is said."""
    cells = [{"cell_type": "code", "source": text} for text in (UNSLOTH, "print(f'{a[0]' b)", "model?", "x = = 1")]
    found = read(tmp_path, json.dumps({"cells": cells}), "u.ipynb")
    assert found.values == read(tmp_path, UNSLOTH, "v.py").values
    cells[1]["source"] = "trainer = DPOTrainer(model=model x)"
    with pytest.raises(InvalidInput, match="not Python that can be read"):
        read(tmp_path, json.dumps({"cells": cells}), "u.ipynb")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (LLAMA_FACTORY + "tensor_model_parallel_size: 4\n", "tensor_model_parallel_size"),
        (LLAMA_FACTORY + "sequence_parallel: true\n", "sequence_parallel"),
        (LLAMA_FACTORY + "freeze_vision_tower: false\n", "freeze_vision_tower"),
        (LLAMA_FACTORY + "freeze_language_model: true\n", "freeze_language_model"),
        (TRL + "context_parallel_size: 2\n", "context_parallel_size"),
        (TORCHTUNE + "tensor_parallel_plan: {_component_: x}\n", "tensor_parallel_plan"),
        (AXOLOTL + "pipeline_parallel_degree: 2\n", "pipeline_parallel_degree"),
        (LITGPT + "tp_size: 2\n", "tp_size"),
    ],
)
def test_a_model_divided_another_way_is_refused_whoever_asks(text: str, key: str, tmp_path: Path) -> None:
    """GIVEN a division of layers or rows that no reader lists THEN it is refused; off or by one it is read."""
    with pytest.raises(NotModelled, match=f"{key}: "):
        read(tmp_path, text)


def test_a_division_by_one_is_none(tmp_path: Path) -> None:
    """GIVEN the same keys off or one THEN they are no reason to refuse."""
    found = read(tmp_path, LLAMA_FACTORY + "tensor_model_parallel_size: 1\nsequence_parallel: false\n")
    assert not found.of("unknown")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: Qwen/Qwen3-0.6B\ntrain_dataset: a.yaml\npeft_config: {name: lora}\n", "LLaMA-Factory's v1"),
        ("model_name: pythia-14m\ntrain: {}\ninitial_checkpoint_dir:\n", "LitGPT's pretraining"),
        (
            "model: {_component_: torchtune.models.llama3.llama3_8b}\ncheckpointer: {}\ntokenizer: {}\n",
            "nothing is trained",
        ),
    ],
)
def test_other_files_of_known_tools_are_named(text: str, said: str, tmp_path: Path, capsys: Any) -> None:
    """GIVEN a file of a known tool that is of another kind THEN one line says which, and the exit code is that of
    invalid input."""
    (tmp_path / "x.yaml").write_text(text)
    assert main(["check", "--from", str(tmp_path / "x.yaml"), "--gpu", "a10g"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_values_that_are_filled_in_elsewhere_are_said(tmp_path: Path, capsys: Any) -> None:
    """GIVEN a template, or a variable where a value is due THEN one line says so; a model can be named beside it."""
    with pytest.raises(InvalidInput, match="a template"):
        read(tmp_path, AXOLOTL.replace("meta-llama/Llama-3.2-1B", "{{ model }}"))
    with pytest.raises(InvalidInput, match=r"micro_batch_size is filled in elsewhere \('\$\{MICRO\}'\)"):
        read(tmp_path, AXOLOTL.replace("micro_batch_size: 2", "micro_batch_size: ${MICRO}"))
    text = AXOLOTL.replace("meta-llama/Llama-3.2-1B", "${MODEL}") + 'chat_template_jinja: "{{ messages }}"\n'
    assert read(tmp_path, text).model is None
    words = ["check", "--from", str(tmp_path / "config.yaml"), "--gpu", "a10g"]
    assert main(words) == 2
    assert "names no model" in capsys.readouterr().err
    assert main([*words, "--model", "llama-3.2-1b"]) == 0


def test_a_shell_script_fills_in_what_it_sets(tmp_path: Path) -> None:
    """GIVEN a launch script with variables of its own THEN they stand for what it sets, or for their default."""
    text = (
        "#!/bin/bash\nexport MODEL='Qwen/Qwen3-0.6B'  # small\nLEN=\"1024\"\n"
        'accelerate launch --num_processes ${GPUS:-2} sft.py --model_name_or_path "$MODEL" \\\n'
        "  --max_length $LEN --per_device_train_batch_size ${BS:-4} --use_peft --learning_rate $LR\n"
    )
    with pytest.raises(InvalidInput, match=r"learning_rate is filled in elsewhere"):
        read(tmp_path, text, "run.sh")
    found = read(tmp_path, text.replace("$LR", "1e-4"), "run.sh")
    assert found.model == "Qwen/Qwen3-0.6B"
    assert {key: found.values[key] for key in ("max_length", "batch_size", "num_gpus")} == {
        "max_length": 1024,
        "batch_size": 4,
        "num_gpus": 2,
    }
    assert found.values["lora_targets"] == ("q_proj", "v_proj")


def test_an_older_trls_words_for_liger_and_parts_are_heeded(tmp_path: Path) -> None:
    """GIVEN `use_liger` of TRL before 0.16 THEN its kernels are on, as under today's name; a list of chosen weights
    (Spectrum) is refused by key, since less is trained than the method says."""
    older = read(tmp_path, f"{TRL}\nuse_liger: true\n")
    today = read(tmp_path, f"{TRL}\nuse_liger_kernel: true\ntorch_dtype: bfloat16\n")
    assert older.values["liger"] is True
    assert (older.values["loss"], older.values["liger"]) == (today.values["loss"], today.values["liger"])
    with pytest.raises(NotModelled, match="spectrum_config_path"):
        read(tmp_path, f"{TRL}\nspectrum_config_path: snr.yaml\n")


TRL_SCRIPT = """
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
model_id = "mistralai/Mistral-7B-v0.1"
rank = 16
quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4",
    bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained(model_id, quantization_config=quantised, dtype=torch.bfloat16,
    attn_implementation="flash_attention_2", device_map="auto")
adapters = LoraConfig(r=rank, lora_alpha=rank * 2, target_modules="all-linear", task_type="CAUSAL_LM")
settings = SFTConfig(output_dir=make_name(), max_length=2048, packing=True, per_device_train_batch_size=2,
    gradient_accumulation_steps=8, learning_rate=2e-4, report_to="none")
trainer = SFTTrainer(model=model, args=settings, train_dataset=data, peft_config=adapters)
trainer.train()
"""


def test_trls_script_is_its_yaml(tmp_path: Path) -> None:
    """GIVEN TRL's calls in a script, and the same in a notebook THEN they say what the same YAML says, with PEFT's own
    defaults where a call is silent."""
    found = read(tmp_path, TRL_SCRIPT, "train.py")
    yaml = read(
        tmp_path,
        "model_name_or_path: mistralai/Mistral-7B-v0.1\ndtype: bfloat16\nattn_implementation: flash_attention_2\n"
        "load_in_4bit: true\nuse_bnb_nested_quant: true\nuse_peft: true\nlora_r: 16\nlora_alpha: 32\n"
        "lora_dropout: 0.0\n"
        "lora_target_modules: all-linear\nmax_length: 2048\npacking: true\nper_device_train_batch_size: 2\n"
        "gradient_accumulation_steps: 8\nlearning_rate: 2e-4\n",
    )
    assert (found.tool, found.model, found.values) == ("trl", yaml.model, yaml.values)
    assert found.hyperparameters == yaml.hyperparameters
    assert not found.of("unknown")
    named = TRL_SCRIPT.replace("from_pretrained(model_id", "from_pretrained(pretrained_model_name_or_path=model_id")
    cells = [{"cell_type": "code", "source": part} for part in ("!pip install trl", named)]
    assert read(tmp_path, json.dumps({"cells": cells}), "train.ipynb").values == yaml.values


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("peft_config=adapters", "peft_config=get_peft_config(words)", "peft_config comes from elsewhere"),
        ("settings = SFTConfig(", "settings = parse(", "makes no SFTConfig"),
        ("trainer.train()", "again = SFTTrainer(model=model)", "SFTTrainer is made a second time"),
        (
            "AutoModelForCausalLM.from",
            "AutoModelForImageTextToText.from",
            "AutoModelForImageTextToText is not modelled",
        ),
        ("max_length=2048", "max_length='many'", "max_length must be a number"),
        ("r=rank,", "r=rank, layers_to_transform=[1],", "layers_to_transform"),
    ],
)
def test_what_a_trl_script_leaves_open_is_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    """GIVEN settings from elsewhere, two trainers or another model THEN one line says so and nothing is guessed."""
    text = TRL_SCRIPT.replace(old, new)
    if "get_peft_config" in new:
        text = text.replace("adapters = LoraConfig(", "adapters = made(")
    with pytest.raises((InvalidInput, NotModelled), match=said) as caught:
        read(tmp_path, text, "train.py")
    assert "\n" not in str(caught.value)


def test_a_trl_script_without_adapters_trains_the_whole(tmp_path: Path) -> None:
    """GIVEN a LoraConfig that no trainer is given THEN the method is full; what is computed is said."""
    text = TRL_SCRIPT.replace(", peft_config=adapters", "").replace("quantization_config=quantised, ", "")
    text = text.replace("load_in_4bit=True, ", "").replace("learning_rate=2e-4", "learning_rate=rate()")
    found = read(tmp_path, text, "train.py")
    assert found.values["method"] == "full"
    assert [note.key for note in found.of("unknown")] == ["learning_rate"]
