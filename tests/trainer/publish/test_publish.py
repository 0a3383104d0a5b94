"""A finished run for others: what is in the folder, that it gives the run's tokens, that GGUF holds its tensors."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from planner.contract.errors import InvalidInput, NotModelled, RunFailed
from tests.support import hub_stand_in
from tests.support.trainer_support import make_model, make_plan, train, write_pairs
from trainer.commands.publish import publish
from trainer.publish import card
from trainer.publish import facts as facts_of
from trainer.publish import folder as folder_of

PROMPT = "say abab"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny Llama, made once."""
    folder = tmp_path_factory.mktemp("somebodys-home")
    model = make_model(folder / "tiny-base")
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    data = write_pairs(folder / "pairs.jsonl")
    targets = {"lora_targets": ["q_proj", "k_proj", "v_proj", "up_proj"]}
    plan = make_plan(folder / "plan.yaml", model, data, epochs=1.0, settings=targets)
    _, failure = train(plan, folder / "run")
    assert failure is None
    return folder / "run"


def text_of(folder: Path) -> str:
    return "\n".join(
        path.read_text(errors="replace")
        for path in sorted(folder.iterdir())
        if path.suffix in (".md", ".json", ".jinja", "")
    )


def tokens(model: Any, ids: Any) -> list[int]:
    made = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    return [int(token) for token in made[0]]


def test_the_merged_model_gives_the_adapters_tokens(run: Path, tmp_path: Path) -> None:
    """GIVEN a run WHEN its adapter and its merged model are published THEN plain transformers and PEFT load both and
    they go on with the same tokens; the card has loss, memory, data and licence; no path of this machine is in it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said = publish(run, "folder", tmp_path / "adapter")
    assert said["merged"] is False
    whole = publish(run, "folder", tmp_path / "whole", merged=True, dtype="fp32")
    assert whole["merged"] is True
    base = run.parent / "tiny-base"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    attached = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert tokens(attached, ids) == tokens(merged, ids)
    for name in ("adapter", "whole"):
        card = (tmp_path / name / "README.md").read_text()
        for word in (
            "license: apache-2.0",
            "base_model: tiny-base",
            "pairs.jsonl",
            "Loss on held-back",
            "easured peak",
        ):
            assert word in card
        assert str(run.parent) not in text_of(tmp_path / name)
        assert (tmp_path / name / "tokenizer.json").is_file()
        assert not list((tmp_path / name).glob("*.pt")) + list((tmp_path / name).glob("*manifest*"))


def test_a_card_takes_names_for_names(run: Path) -> None:
    """GIVEN a model, data and licence whose names are HTML, Markdown, YAML and terminal codes THEN the front matter
    holds them as values, nothing outside of code is theirs, and the lines that load it are Python."""
    facts = facts_of.read(run)
    base = 'm <img src=x> \x1b[31m\u202e`|](javascript:x): "y"\n```\n# H1'
    whole = dataclasses.replace(facts, base=base)
    text = card.card(whole, merged=False, licence="<b>: #x", loads=folder_of.loads(base, False, False))
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    said = yaml.safe_load(front)
    assert (said["base_model"][:15], said["license"]) == ("m <img src=x> \\", "<b>: #x")
    title, code = body.split("\n")[1], body.partition("```python\n")[2].partition("\n```")[0]
    assert title.startswith("# `m <img src=x>")
    assert "Licence of the base: `<b>: #x`." in body
    assert base in [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert not {"\x1b", "\u202e"} & set(text)


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_gguf_holds_the_merged_tensors(kind: str, run: Path, tmp_path: Path) -> None:
    """GIVEN a run WHEN its GGUF is written THEN every tensor of the merged model is in it under llama.cpp's name: to
    the bit in f32, to half precision in f16, half a step of a block in q8_0; queries and keys in pairs of rows."""
    gguf = pytest.importorskip("gguf")
    from safetensors.numpy import load_file

    said = publish(run, "gguf", tmp_path / "out", kind=kind, dtype="fp32")
    publish(run, "folder", tmp_path / "whole", merged=True, dtype="fp32")
    wanted = load_file(tmp_path / "whole" / "model.safetensors")
    reader = gguf.GGUFReader(str(tmp_path / "out" / said["gguf"]))
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert said["tensors"] == len(found) == len(wanted)
    names = {
        "model.layers.1.self_attn.q_proj.weight": ("blk.1.attn_q.weight", 4),
        "model.norm.weight": ("output_norm.weight", 0),
    }
    names["model.layers.0.self_attn.k_proj.weight"] = ("blk.0.attn_k.weight", 2)
    names["model.layers.0.mlp.up_proj.weight"] = ("blk.0.ffn_up.weight", 0)
    for name, (there, heads) in names.items():
        tensor = found[there]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(wanted[name].shape)
        if heads:  # rows 0, 1, 2 … of a head are 0, half, 1, half + 1 … of the original
            width = values.shape[0] // heads
            order = [
                head * width + half * width // 2 + row
                for head in range(heads)
                for row in range(width // 2)
                for half in (0, 1)
            ]
            assert np.allclose(values, wanted[name][order], atol=tolerance(kind, wanted[name]), rtol=0)
        else:
            assert np.allclose(values, wanted[name], atol=tolerance(kind, wanted[name]), rtol=0)
    fields = reader.fields
    assert (
        len(fields["tokenizer.ggml.tokens"].data)
        == json.loads((tmp_path / "whole" / "config.json").read_text())["vocab_size"]
    )
    assert "tokenizer.chat_template" in fields or not (tmp_path / "whole" / "chat_template.jinja").exists()


def tolerance(kind: str, values: np.ndarray) -> float:
    """None, 2^-11 of the largest, or half a step of 127 (and the step's own half precision)."""
    most = float(np.abs(values).max())
    return {"f32": 0.0, "f16": most * 2**-11, "q8_0": most / 127 * 0.51 + most * 2**-11}[kind]


def test_the_adapter_as_gguf(run: Path, tmp_path: Path) -> None:
    """GIVEN a run WHEN the adapter alone is written for Ollama THEN each of its matrices is there, with alpha, and the
    Modelfile names base and adapter."""
    gguf = pytest.importorskip("gguf")
    said = publish(run, "ollama", tmp_path / "out", merged=False)
    reader = gguf.GGUFReader(str(tmp_path / "out" / said["gguf"]))
    names = {tensor.name for tensor in reader.tensors}
    assert {"blk.0.attn_q.weight.lora_a", "blk.1.ffn_up.weight.lora_b"} <= names
    assert len(names) == 2 * 2 * 4
    assert float(reader.fields["adapter.lora.alpha"].contents()) == 8.0
    modelfile = (tmp_path / "out" / "Modelfile").read_text()
    assert "ADAPTER ./adapter-f16.gguf" in modelfile
    assert "FROM tiny-base" in modelfile


def test_what_is_not_written_here_is_named(run: Path, tmp_path: Path) -> None:
    """GIVEN an architecture without a table THEN it is refused with another way, and no folder is left."""
    pytest.importorskip("gguf")
    from trainer.publish import gguf

    with pytest.raises(NotModelled, match="convert_hf_to_gguf"):
        gguf._architecture({"model_type": "mamba"})
    config = json.loads((run.parent / "tiny-base" / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "yarn", "factor": 8.0}
    with pytest.raises(NotModelled, match="scaled positions"):
        gguf._dimensions(None, config, "f16", "x")


@pytest.mark.parametrize(
    ("target", "word"), [("vllm", "--enable-lora --lora-modules tuned="), ("mlx", "mlx_lm.convert --hf-path")]
)
def test_the_line_that_takes_it_on(target: str, word: str, run: Path, tmp_path: Path) -> None:
    """GIVEN vLLM and MLX THEN the folder is one they read, and the line names it."""
    said = publish(run, target, tmp_path / "out")
    assert word in said["use"]
    assert str(tmp_path / "out") in said["use"]
    assert (tmp_path / "out" / ("adapter_config.json" if target == "vllm" else "config.json")).is_file()


def test_a_push_makes_a_private_repository_with_the_card(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a hub and a token WHEN a run is pushed THEN a private repository holds exactly the folder's files; without
    a token, or with a wrong one, one line says so and nothing is left."""
    import huggingface_hub.constants as constants
    from huggingface_hub import hf_api

    with hub_stand_in.serve() as hub:
        for place in (constants, hf_api):
            monkeypatch.setattr(place, "ENDPOINT", hub.address, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        with pytest.raises(InvalidInput, match="HF_TOKEN"):
            publish(run, "hub", tmp_path / "a", repository="me/tuned")
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(RunFailed, match="refused me/tuned"):
            publish(run, "hub", tmp_path / "a", repository="me/tuned")
        assert not (tmp_path / "a").exists()
        monkeypatch.setenv("HF_TOKEN", hub_stand_in.TOKEN)
        said = publish(run, "hub", tmp_path / "a", repository="me/tuned")
        assert said["commit"] == hub_stand_in.COMMIT
        assert hub.private["me/tuned"] is True
        sent = hub.written["me/tuned"]
        assert {name for name in sent if name != ".gitattributes"} == {path.name for path in (tmp_path / "a").iterdir()}
        assert sent["adapter_model.safetensors"] == (tmp_path / "a" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("target", "options", "word"),
    [
        ("folder", {"repository": "a/b"}, "--to hub"),
        ("hub", {}, "--repo"),
        ("hub", {"repository": "no-owner"}, "owner/name"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(target: str, options: Any, word: str, run: Path, tmp_path: Path) -> None:
    """GIVEN options that don't go together, a folder that is none or taken THEN one line, nothing written."""
    with pytest.raises(InvalidInput, match=word):
        publish(run, target, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidInput, match="no such run"):
        publish(tmp_path / "nowhere", "folder", tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("x")
    with pytest.raises(InvalidInput, match="isn't empty"):
        publish(run, "folder", tmp_path / "taken")
