"""Models, adapters and checkpoints from anywhere: nothing in them is run or unpickled, what is broken is named."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.small_types import small
from planner.contract.errors import InvalidInput, NotModelled, TuneplanError
from planner.contract.layer_table import as_published
from tests.support.trainer_support import make_model, make_plan, of_kind, train, write_pairs
from trainer import modeling
from trainer.loop import loading
from trainer.recovery import checkpoints
from trainer.weights import adapter_files, fingerprints, model_files, tensors
from trainer.wire.files import manifest_problem, write_manifest


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


@pytest.fixture(scope="module")
def run(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps with a checkpoint after two."""
    folder = tmp_path_factory.mktemp("run")
    _, failure = train(make_plan(folder / "plan.json", model, data, max_steps=4, save_steps=2), folder / "run")
    assert failure is None
    return folder


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


def change(file: Path, **keys: Any) -> None:
    content = json.loads(file.read_text())
    content |= keys
    file.write_text(json.dumps({key: value for key, value in content.items() if value != "-"}))


def build(folder: Path) -> Any:
    return modeling.build(loading.read_config(str(folder)), dtype=torch.float32, weights=str(folder))


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


# ---- no pickle -----------------------------------------------------------------------------------------------------


def test_a_run_and_its_resume_unpickle_nothing(
    run: Path, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN no reader of pickles works WHEN a run saves, ends and goes on THEN it ends with the same weights."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a pickle was read or written")

    for owner, name in (
        *((pickle, name) for name in ("Unpickler", "_Unpickler", "load", "loads", "dump", "dumps")),
        *((torch, name) for name in ("load", "save")),
        *((torch.serialization, name) for name in ("load", "save", "_load", "_save", "_legacy_load")),
    ):
        monkeypatch.setattr(owner, name, refuse)
    plan = make_plan(tmp_path / "plan.json", model, data, max_steps=4, save_steps=2)
    shutil.copytree(run / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-4", "adapter"))
    events, failure = train(plan, tmp_path / "run", resume="auto")
    assert failure is None
    assert of_kind(events, "started")[0]["resumed_from"].endswith("checkpoint-2")
    for name in ("checkpoint-4", "adapter"):
        ours, theirs = (tensors.read(base / "run" / name / "adapter_model.safetensors") for base in (tmp_path, run))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    kinds = {file.suffix for file in (tmp_path / "run/checkpoint-4").rglob("*") if file.is_file()}
    assert kinds <= {".json", ".safetensors", ".md", ".jinja"}
    assert not [file for file in (tmp_path / "run/adapter").iterdir() if file.name.startswith(("optimizer", "random"))]


def test_a_checkpoint_with_pickles_is_refused(run: Path, model: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run/checkpoint-2"
    shutil.copytree(run / "run/checkpoint-2", folder)
    for name in ("optimizer", "scheduler", "random"):
        (folder / f"{name}.json").unlink()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    write_manifest(folder)
    plan = make_plan(tmp_path / "plan.json", model, data, max_steps=4)
    for resume in ("auto", str(folder)):
        events, failure = train(plan, tmp_path / "run", resume=resume)
        assert "optimizer.pt may be a pickle" in str(failure)
        assert f"--adapter {folder}" in str(failure)
        assert of_kind(events, "failed")[0]["exit_code"] == 2
    assert not (tmp_path / "sprung").exists()
    _, failure = train(plan, tmp_path / "new", adapter=str(folder))  # the way out that it names
    assert failure is None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.PTH", "model.ckpt", "model.pkl"])
def test_pickled_weights_are_refused_by_name(copy: Path, tmp_path: Path, name: str) -> None:
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(InvalidInput, match=f"{name}: pickled weights can run code"):
        build(copy)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("shard", "says"),
    [
        ("pytorch_model.bin", "may be a pickle"),
        ("model.pt", "may be a pickle"),
        ("../model.safetensors", "outside this folder"),
        ("/etc/passwd", "outside this folder"),
        ("sub/model.safetensors", "outside this folder"),
        ("..\\model.safetensors", "outside this folder"),
        ("gone.safetensors", "missing, though"),
        (7, "outside this folder"),
    ],
)
def test_an_index_names_only_tensors_in_its_folder(copy: Path, shard: Any, says: str) -> None:
    (copy / "model.safetensors").rename(copy.parent / "model.safetensors")
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": shard}}))
    with pytest.raises(InvalidInput, match=says):
        build(copy)
    for content in ("", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'):
        index.write_text(content)
        with pytest.raises(InvalidInput, match=r"model\.safetensors\.index\.json"):
            build(copy)


def test_what_lies_beside_the_weights_is_not_found(copy: Path, tmp_path: Path, run: Path) -> None:
    """An adapter in the folder, `.metadata` of a distributed checkpoint, code that generates: none of it is read."""
    before = build(copy).state_dict()
    shutil.copy(run / "run/adapter/adapter_config.json", copy / "adapter_config.json")
    (copy / "adapter_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    (copy / ".metadata").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    (copy / "__0_0.distcp").write_bytes(b"x")
    (copy / "custom_generate").mkdir()
    (copy / "custom_generate/generate.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    change(copy / "config.json", transformers_weights="adapter_model.bin")
    after = build(copy).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "sprung").exists()


def edited(file: str, change_it: Callable[[Any], Any]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        made = change_it(content)
        (folder / file).write_text(json.dumps(made if isinstance(made, dict) and "schema" in made else content))

    return act


def narrow(folder: Path) -> None:
    held = tensors.read(folder / "optimizer.safetensors")
    name = next(name for name in held if name.endswith("exp_avg_sq"))
    tensors.write(folder / "optimizer.safetensors", {**held, name: held[name][:1].contiguous()})


STRANGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "moments of another size": (narrow, "exp_avg_sq of base_model"),
    "other parameters": (edited("optimizer.json", lambda c: c["state"]["parameters"].pop()), "tensors were trained"),
    "no groups": (edited("optimizer.json", lambda c: c["state"].pop("param_groups")), "param_groups"),
    "no tensors": (lambda folder: (folder / "optimizer.safetensors").unlink(), "optimizer.safetensors"),
    "schedule of texts": (edited("scheduler.json", lambda c: {**c, "state": {"last_epoch": "x"}}), "doesn't fit"),
    "schedule is a list": (edited("scheduler.json", lambda c: {**c, "state": []}), "doesn't fit"),
    "random of texts": (edited("random.json", lambda c: c["state"].update(python="x")), "doesn't fit"),
    "no random": (edited("random.json", lambda c: c["state"].pop("numpy")), "doesn't fit"),
    "step is a text": (edited("trainer_state.json", lambda c: c.update(global_step="2")), "trainer_state.json"),
    "logs are texts": (edited("trainer_state.json", lambda c: c.update(log_history="x")), "trainer_state.json"),
    "state is a list": (lambda folder: (folder / "trainer_state.json").write_text("[]") and None, "trainer_state.json"),
    "identity is a list": (lambda folder: (folder / "tuneplan.json").write_text("[]") and None, "tuneplan.json"),
    "rows are texts": (edited("tuneplan.json", lambda c: c.update(recovery={"rows": "x"})), "tuneplan.json"),
    "processes": (edited("tuneplan.json", lambda c: c.update(processes=None)), "tuneplan.json"),
}


@pytest.mark.slow
def test_a_strange_checkpoint_is_one_line(run: Path, model: Path, data: Path, tmp_path: Path) -> None:
    """GIVEN a checkpoint whose manifest holds for what is in it WHEN a run goes on from it THEN exit 2 and a line."""
    plan = make_plan(tmp_path / "plan.json", model, data, max_steps=4, save_steps=2)
    folder = tmp_path / "run/checkpoint-2"
    for name, (breaks, says) in STRANGE.items():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run / "run/checkpoint-2", folder)
        breaks(folder)
        write_manifest(folder)
        events, failure = train(plan, tmp_path / "run", resume="auto")
        assert failure is not None, name
        (failed,) = of_kind(events, "failed")
        assert says in failed["message"], (name, failed)
        assert failed["exit_code"] == 2, (name, failed)
        assert str(folder) in failed["message"], (name, failed)


# ---- a config chooses no code --------------------------------------------------------------------------------------

HOSTILE: dict[str, Any] = {
    "attn_implementation": "org/kernel",
    "_attn_implementation": "org/kernel@main:attention",
    "_attn_implementation_internal": "org/kernel",
    "experts_implementation": "org/experts",
    "_experts_implementation": "org/experts",
    "auto_map": {"AutoModelForCausalLM": "org/other--modeling.Mine", "AutoConfig": "modeling.Config"},
    "trust_remote_code": True,
    "use_kernels": True,
    "kernel_config": {"RMSNorm": "org/kernel:Norm"},
    "fusion_config": {"patch_embeddings": True},
    "transformers_weights": "adapter_model.bin",
    "custom_pipelines": {"mine": {"impl": "code.Mine"}},
    "torch_dtype": "os",
    "dtype": "org/thing",
    "tp_plan": "auto",
    "backbone": "timm/resnet",
    "use_pretrained_backbone": True,
    "_name_or_path": "org/elsewhere",
    "name_or_path": "org/elsewhere",
    "to_dict": 1,
    "tokenizer_class": "org/Tokenizer",
    "some_new_key": "org/kernel",
    "another": {"repo": "org/kernel"},
}


def test_keys_that_choose_code_never_reach_transformers(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN every such key WHEN the model is built THEN it is the one without them, and no kernel was asked for."""
    from transformers.integrations import hub_kernels

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a kernel was asked for")

    for name in ("get_kernel", "lazy_load_kernel", "load_and_register_attn_kernel", "kernelize"):
        monkeypatch.setattr(hub_kernels, name, refuse)
    before = build(copy)
    change(copy / "config.json", **HOSTILE)
    config = loading.read_config(str(copy))
    for made in (build(copy), modeling.build(config, dtype=torch.float32, device="meta")):
        shown = made.config.to_dict()
        assert not {key for key in HOSTILE if shown.get(key) == HOSTILE[key]}
        assert made.config._attn_implementation == "sdpa"
        assert not made.config._experts_implementation or "/" not in made.config._experts_implementation
        assert made.state_dict().keys() == before.state_dict().keys()
    assert modeling.as_config({**config, "attn_implementation": {"": "org/kernel"}})._attn_implementation is None


def test_parts_of_a_config_are_held_to_the_same_list() -> None:
    inner = {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 1, **HOSTILE}
    made = modeling.as_config(
        {"model_type": "gemma3", "text_config": inner, "attn_implementation": {"text_config": "o/k"}}
    )
    assert made.text_config.hidden_size == 64
    assert made.text_config._attn_implementation is None
    assert not hasattr(made.text_config, "some_new_key")


@pytest.mark.parametrize(
    "keys",
    [
        {"quantization_config": {"quant_method": "awq", "bits": 4}},
        {"quantization": {"bits": 4}},
        {"text_config": {"quantization_config": {"quant_method": "torchao"}}},
        {"compression_config": {"format": "x"}},
        {"per_layer_config": {"0": {"hidden_size": 8}}},
    ],
)
def test_weights_that_take_code_to_read_are_refused(copy: Path, keys: dict[str, Any]) -> None:
    change(copy / "config.json", **keys)
    with pytest.raises(NotModelled, match="aren't trained"):
        build(copy)


@pytest.mark.parametrize(
    "keys",
    [
        {"model_type": "-"},
        {"model_type": 7},
        {"model_type": ["llama"]},
        {"model_type": "org/model"},
        {"hidden_act": "org/act"},
        {"hidden_size": "wide"},
        {"hidden_size": -4},
        {"num_hidden_layers": None},
        {"num_attention_heads": 0},
        {"rope_parameters": {"rope_type": "org/rope"}},
        {"rope_scaling": "x"},
        {"id2label": "x"},
        {"vocab_size": 1e9999},
        {"architectures": 3},
        {"architectures": [3]},
        {"pad_token_id": 10**9},
    ],
)
def test_senseless_configs_are_one_line(copy: Path, keys: dict[str, Any]) -> None:
    change(copy / "config.json", **keys)
    with pytest.raises(TuneplanError) as caught:
        build(copy)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_generation_settings_are_numbers_only(copy: Path) -> None:
    (copy / "generation_config.json").write_text(
        json.dumps(
            {
                "temperature": 0.7,
                "do_sample": True,
                "eos_token_id": [1, 2],
                "custom_generate": "org/generate",
                "assistant_model": "org/model",
                "penalty_alpha": 0.6,
                "dola_layers": "high",
                "top_k": "many",
                "constraints": [{}],
            }
        )
    )
    made = build(copy).generation_config
    assert (made.temperature, made.do_sample, made.eos_token_id) == (0.7, True, [1, 2])
    assert made.top_k is None or isinstance(made.top_k, int)
    assert not getattr(made, "dola_layers", None)
    assert not getattr(made, "penalty_alpha", None)
    assert not hasattr(made, "custom_generate")


# ---- weights that don't fit ----------------------------------------------------------------------------------------


def rewritten(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        held = tensors.read(folder / "model.safetensors")
        change(held)
        tensors.write(folder / "model.safetensors", held)

    return act


def cut(size: int) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[:size])

    return act


def linked(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/0123")


def a_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").mkdir()


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (cut(0), "it is empty"),
    "truncated": (cut(-100), "the file has"),
    "header only": (cut(60), "header"),
    "missing link": (linked, "a link to a file that isn't there"),
    "folder": (a_folder, "model.safetensors.index.json"),
    "wide": (rewritten(lambda held: held.update({"model.norm.weight": torch.ones(64)})), "has the shape"),
    "missing": (rewritten(lambda held: held.pop("model.layers.1.mlp.up_proj.weight")), "missing (first"),
    "int8": (
        rewritten(lambda held: held.update({"lm_head.weight": held["lm_head.weight"].to(torch.int8)})),
        "stored as I8",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_weights_are_named(copy: Path, name: str) -> None:
    breaks, says = BROKEN[name]
    breaks(copy)
    with pytest.raises(InvalidInput) as caught:
        build(copy)
    assert says in str(caught.value)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_into_a_cache_is_a_file(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (copy / "model.safetensors").rename(tmp_path / "blobs/0123")
    (copy / "model.safetensors").symlink_to("../blobs/0123")
    assert build(copy).name_or_path == str(copy)


def test_broken_weights_end_a_run_with_exit_code_2(copy: Path, data: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "plan.json", copy, data, max_steps=1)
    whole = (copy / "model.safetensors").read_bytes()
    rewritten(lambda held: held["model.norm.weight"].fill_(float("nan")))(copy)
    spoilt = (copy / "model.safetensors").read_bytes()
    tokenizer = (copy / "tokenizer.json").read_bytes()
    for file, content, says in (
        ("model.safetensors", spoilt, "norm.weight holds values that aren't numbers"),
        ("model.safetensors", whole[:-7], "model.safetensors: damaged"),
        ("tokenizer.json", tokenizer[:-20], "its tokenizer can't be loaded"),
        ("tokenizer.json", b"", "its tokenizer can't be loaded"),
    ):
        before = (copy / file).read_bytes()
        (copy / file).write_bytes(content)
        events, _ = train(plan, tmp_path / "run")
        (failed,) = of_kind(events, "failed")
        assert says in failed["message"]
        assert failed["exit_code"] == 2, failed
        (copy / file).write_bytes(before if file != "model.safetensors" else whole)


# ---- adapters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"peft_type": "XLORA", "adapters": {"1": "org/adapter"}}, "only LORA ones"),
        ({"peft_type": ["LORA"]}, "only LORA ones"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_co"),
        ({"lora_ga_config": {"cache_file": "x.pt"}}, "lora_ga_config"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights changed the base"),
        ({"init_lora_weights": {"a": 1}}, "init_lora_weights changed the base"),
        ({"runtime_config": {"ephemeral_gpu_offload": True}}, "runtime_config"),
        ({"custom_modules": {"a": "b"}}, "custom_modules"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"r": "eight"}, "r is 'eight'"),
        ({"r": True}, "r is 'True'"),
        ({"r": "-"}, "r is missing"),
        ({"target_modules": 3}, "target_modules"),
    ],
)
def test_an_adapter_asks_for_nothing_but_lora(run: Path, tmp_path: Path, keys: dict[str, Any], says: str) -> None:
    folder = Path(shutil.copytree(run / "run/adapter", tmp_path / "adapter"))
    change(folder / "adapter_config.json", **keys)
    with pytest.raises(TuneplanError) as caught:
        adapter_files.read_config(folder)
    assert says in str(caught.value)


def test_a_pickled_or_broken_adapter_is_named(run: Path, model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run / "run/adapter", tmp_path / "adapter"))
    change(folder / "adapter_config.json", auto_mapping={"base_model_class": "X", "parent_library": "os"})
    base = build(model)
    assert adapter_files.attach(base, folder) is not None
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    for damaged in (b"", content[:-1], content[:50]):
        file.write_bytes(damaged)
        with pytest.raises(InvalidInput, match=r"adapter_model\.safetensors: damaged"):
            adapter_files.read_weights(folder)
    held = {}
    file.write_bytes(content)
    for name, tensor in tensors.read(file).items():
        held[name] = tensor[..., :1].contiguous()
    tensors.write(file, held)
    with pytest.raises(InvalidInput, match="other shapes"):
        adapter_files.attach(build(model), folder)
    tensors.write(file, dict(list(held.items())[:1]))
    with pytest.raises(InvalidInput, match="doesn't fit"):
        adapter_files.attach(build(model), folder)
    file.unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(InvalidInput, match=r"adapter_model\.bin: may be a pickle"):
        adapter_files.read_weights(folder)
    assert not (tmp_path / "sprung").exists()


# ---- the same base -------------------------------------------------------------------------------------------------


def test_a_fingerprint_tells_bases_apart_and_knows_a_copy(model: Path, copy: Path, tmp_path: Path) -> None:
    ours = fingerprints.of_model(str(model))
    assert ours == fingerprints.of_model(str(copy))
    held = tensors.read(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(held)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for part, some in parts.items():
        tensors.write(copy / part, {name: held[name] for name in some})
    where = {name: part for part, some in parts.items() for name in some}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert ours == fingerprints.of_model(str(copy))
    assert build(copy).state_dict().keys() == build(model).state_dict().keys()
    for change_it in (
        lambda name, value: value * 1.001 if name.endswith("layers.1.self_attn.q_proj.weight") else value,
        lambda name, value: value.to(torch.bfloat16),
        lambda name, value: value + 1e-4,
    ):
        for part, some in parts.items():
            tensors.write(copy / part, {name: change_it(name, held[name]) for name in some})
        assert ours != fingerprints.of_model(str(copy))
    assert fingerprints.of_model(str(make_model(tmp_path / "bare", weights=False))) is None


def test_a_resume_over_another_base_is_refused(run: Path, copy: Path, data: Path, tmp_path: Path) -> None:
    """Each by name, with what was and what is, before anything is loaded."""
    checkpoint = str(run / "run/checkpoint-2")

    def refusal(model: Path, settings: dict[str, Any] | None = None) -> str:
        plan = make_plan(tmp_path / "plan.json", model, data, settings=settings, max_steps=4, save_steps=2)
        events, failure = train(plan, tmp_path / "run", resume=checkpoint)
        assert of_kind(events, "failed")[0]["exit_code"] == 2, failure
        return str(failure)

    for settings, says in (
        ({"lora_alpha": 16}, "lora_alpha was 8.0 and is 16.0"),
        ({"lora_variant": "dora"}, "lora_variant was 'lora' and is 'dora'"),
        ({"lora_variant": "rslora"}, "lora_variant was 'lora' and is 'rslora'"),
        ({"lora_dropout": 0.0}, "lora_dropout was 0.1 and is 0.0"),
        ({"precision": "bf16"}, "precision was 'fp32' and is 'bf16'"),
        ({"adapter_dtype": "bf16"}, "adapter_dtype was 'fp32' and is 'bf16'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save was [] and is ['lm_head']"),
        ({"optimizer": "sgd"}, "optimizer was 'adamw' and is 'sgd'"),
        ({"method": "full"}, "method was 'lora' and is 'full'"),
    ):
        assert says in refusal(copy, settings)
    rewritten(lambda held: held["model.embed_tokens.weight"].mul_(1.5))(copy)
    assert "the base model's weights changed since then" in refusal(copy)
    again = make_model(tmp_path / "again")
    template = again / "chat_template.jinja"
    template.write_text(f"{template.read_text()}{{# the same text of the data, another one all the same #}}")
    assert "the tokenizer or its chat template changed since then" in refusal(again)


def test_a_copy_of_the_base_goes_on(run: Path, copy: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "run/checkpoint-2", tmp_path / "run/checkpoint-2")
    assert manifest_problem(tmp_path / "run/checkpoint-2") is None
    settings = {"gradient_checkpointing": True, "attention": "eager", "loss": "chunked"}
    plan = make_plan(tmp_path / "plan.json", copy, data, settings=settings, max_steps=4, save_steps=2)
    _, failure = train(plan, tmp_path / "run", resume="auto")
    assert failure is None


def test_an_adapter_is_used_over_its_own_base(run: Path, model: Path, copy: Path, data: Path, tmp_path: Path) -> None:
    from trainer.commands.generate import load_trained
    from trainer.commands.merge import merge

    folder = Path(shutil.copytree(run / "run/adapter", tmp_path / "adapter"))
    change(folder / "adapter_config.json", base_model_name_or_path=str(copy))
    load_trained(folder, torch.device("cpu"))
    rewritten(lambda held: held["model.embed_tokens.weight"].mul_(1.5))(copy)
    with pytest.raises(InvalidInput, match="trained over other weights than"):
        load_trained(folder, torch.device("cpu"))
    with pytest.raises(InvalidInput, match="trained over other weights than"):
        merge(folder, tmp_path / "merged")
    plan = make_plan(tmp_path / "plan.json", copy, data, max_steps=1)
    _, failure = train(plan, tmp_path / "run", adapter=str(folder))
    assert "trained over other weights than" in str(failure)


def test_the_best_checkpoint_is_found_by_its_step(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoint-3").mkdir(parents=True)
    assert checkpoints.of_step(3, tmp_path / "other", tmp_path / "run") == tmp_path / "run/checkpoint-3"
    assert checkpoints.of_step(None, tmp_path / "run") is None
    assert checkpoints.of_step(4, tmp_path / "run") is None
    assert model_files.refused(tmp_path) is None


def test_numbers_that_json_has_no_word_for_are_read_as_transformers_writes_them(tmp_path: Path) -> None:
    from benchmarks.small_types import small

    made = modeling.as_config(small("granitemoehybrid"))
    made.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {"__float__": "Infinity"} in saved["time_step_limit"]
    assert tuple(modeling.as_config(saved).time_step_limit) == (0.0, float("inf"))


def test_two_widths_of_heads_are_read_as_transformers_saves_them(tmp_path: Path) -> None:
    """GIVEN a Gemma 4 as transformers saves it, a table of layers in its config, THEN it is built of the folder."""
    published = small("gemma4_text", vocab_size=128, num_key_value_heads=2, num_global_key_value_heads=1)
    published |= {"attention_k_eq_v": True, "vocab_size_per_layer_input": 128}
    made = modeling.build(published, dtype=torch.float32)
    made.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "global_head_dim" not in saved
    again = modeling.build(saved, dtype=torch.float32, weights=str(tmp_path))
    assert {name: p.shape for name, p in again.named_parameters()} == {n: p.shape for n, p in made.named_parameters()}
    assert as_published(saved)["num_global_key_value_heads"] == 1
