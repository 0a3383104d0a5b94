"""GGUF for llama.cpp and what is built on it, through the `gguf` package; read back and compared tensor by tensor.

Layout and keys: gguf 0.19 and llama.cpp `convert_hf_to_gguf.py`, `convert_lora_to_gguf.py` (2026-11): query and key
rows of Llama-likes are re-ordered from halves to pairs, since llama.cpp rotates neighbours. Written for the
architectures of `ARCHITECTURES` (the tokenizers: `vocabulary.py`); anything else is refused with the way to
llama.cpp's own converter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from planner.contract import json_text
from planner.contract.errors import InvalidInput, NotModelled, RunFailed
from trainer.publish.vocabulary import ELSEWHERE, add_tokenizer

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
PAIRED = ("llama", "mistral")
"""Architectures whose query and key rows are re-ordered."""
TYPES = ("f32", "f16", "q8_0")


def package() -> Any:
    """The gguf package, or one line that says how to get it."""
    try:
        import gguf
    except ImportError:
        raise InvalidInput("GGUF needs the gguf package: pip install 'tuneplan[gguf]'") from None
    return gguf


def write_model(folder: Path, path: Path, *, kind: str, name: str) -> int:
    """A merged model's folder as one GGUF file; returns how many tensors it holds, each compared after writing."""
    gguf = package()
    config = json_text.read_object(folder / "config.json")
    arch = _architecture(config)
    writer = gguf.GGUFWriter(str(path), ARCHITECTURES[arch])
    _dimensions(writer, config, kind, name)
    add_tokenizer(writer, folder)
    names = gguf.get_tensor_name_map(_enum(gguf, arch), int(config["num_hidden_layers"]))
    wanted: dict[str, object] = {}
    for tensor_name, values in _tensors(folder):
        mapped = names.get_name(tensor_name, try_suffixes=(".weight", ".bias"))
        if mapped is None:
            raise NotModelled(f"{tensor_name} has no name in GGUF; {ELSEWHERE}")
        values = _paired(values, tensor_name, config) if arch in PAIRED else values
        data, stored = _stored(gguf, values, kind)
        writer.add_tensor(mapped, data, raw_dtype=stored)
        wanted[mapped] = (data, stored)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type") == "llama3":
        factors = llama3_factors({"rope_theta": config.get("rope_theta"), **rope}, _width(config))
        writer.add_tensor("rope_freqs.weight", factors, raw_dtype=gguf.GGMLQuantizationType.F32)
        wanted["rope_freqs.weight"] = (factors, gguf.GGMLQuantizationType.F32)
    _finish(writer)
    _compare(gguf, path, wanted)
    return len(wanted)


def llama3_factors(rope: dict[str, Any], width: int) -> object:
    """What llama.cpp divides each frequency by: Llama 3.1's stretching of the slow ones (transformers
    `modeling_rope_utils.py`, `_compute_llama3_parameters`).
    """
    frequency = float(rope.get("rope_theta") or 10000.0) ** -(np.arange(0, width, 2) / width)
    length = 2 * np.pi / frequency
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    old, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
    smooth = (old / length - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    found = np.where(length < old / high, 1.0, np.where(length > old / low, factor, between))
    return np.ascontiguousarray(found, dtype=np.float32)


def _width(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"]))


def write_adapter(folder: Path, path: Path, *, base_config: dict[str, Any]) -> int:
    """A LoRA adapter as GGUF in f16, for `llama-cli --lora` and Ollama's ADAPTER."""
    gguf = package()
    arch = _architecture(base_config)
    config = json_text.read_object(folder / "adapter_config.json")
    if config.get("use_dora") or config.get("modules_to_save") or config.get("use_rslora"):
        raise NotModelled(
            "GGUF adapters are plain LoRA (no DoRA, rsLoRA or modules trained in full); publish with --merged"
        )
    writer = gguf.GGUFWriter(str(path), ARCHITECTURES[arch])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    names = gguf.get_tensor_name_map(_enum(gguf, arch), int(base_config["num_hidden_layers"]))
    wanted: dict[str, object] = {}
    for tensor_name, values in _tensors(folder, "adapter_model.safetensors"):
        module, _, part = tensor_name.removeprefix("base_model.model.").rpartition(".lora_")
        letter = part.partition(".")[0].lower()
        mapped = names.get_name(module + ".weight", try_suffixes=(".weight",)) if letter in ("a", "b") else None
        if mapped is None:
            raise NotModelled(f"{tensor_name} has no name in GGUF; publish with --merged")
        if letter == "b" and arch in PAIRED:
            values = _paired(values, module + ".weight", base_config)
        data, stored = _stored(gguf, values, "f16")
        writer.add_tensor(f"{mapped}.lora_{letter}", data, raw_dtype=stored)
        wanted[f"{mapped}.lora_{letter}"] = (data, stored)
    _finish(writer)
    _compare(gguf, path, wanted)
    return len(wanted)


def _architecture(config: dict[str, object]) -> str:
    arch = str(config.get("model_type"))
    if arch not in ARCHITECTURES:
        raise NotModelled(f"GGUF of {arch} is not written here; {ELSEWHERE}")
    return arch


def _enum(gguf: Any, arch: str) -> object:
    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == ARCHITECTURES[arch])


def _dimensions(writer: Any, config: dict[str, Any], kind: str, name: str) -> None:
    import gguf

    heads = int(config["num_attention_heads"])
    width = _width(config)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) not in ("default", "llama3"):
        raise NotModelled(f"GGUF with scaled positions ({rope.get('rope_type')}) is not written here; {ELSEWHERE}")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(int(config["vocab_size"]))
    files = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    }
    writer.add_file_type(files[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _tensors(folder: Path, only: str | None = None) -> Any:
    """Names and values in fp32, file by file, so that one tensor at a time is in memory twice."""
    import torch
    from safetensors import safe_open

    for path in sorted(folder.glob(only or "*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name).to(torch.float32).numpy()


def _paired(values: Any, name: str, config: dict[str, Any]) -> object:
    """Rows of query and key from (two halves) to (pairs), head by head."""
    if not name.endswith(("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")):
        return values
    key = "num_key_value_heads" if "k_proj" in name else "num_attention_heads"
    heads = int(config.get(key) or config["num_attention_heads"])
    shape = values.shape
    return values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def _stored(gguf: Any, values: Any, kind: str) -> tuple[object, object]:
    """The bytes of a tensor and their type: vectors stay in f32, rows that don't divide into blocks in f16."""
    if values.ndim < 2 or kind == "f32":
        return np.ascontiguousarray(values, dtype=np.float32), gguf.GGMLQuantizationType.F32
    if kind == "q8_0" and values.shape[-1] % 32 == 0:
        stored = gguf.GGMLQuantizationType.Q8_0
        return gguf.quants.quantize(np.ascontiguousarray(values), stored), stored
    return values.astype(np.float16), gguf.GGMLQuantizationType.F16


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _compare(gguf: Any, path: Path, wanted: dict[str, Any]) -> None:
    """Reads the file and holds every tensor against what was to be written."""
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}
    if set(found) != set(wanted):
        raise RunFailed(f"{path}: reads back with other tensors than were written")
    for name, (data, stored) in wanted.items():
        tensor = found[name]
        if tensor.tensor_type != stored or tensor.data.tobytes() != np.ascontiguousarray(data).tobytes():
            raise RunFailed(f"{path}: tensor {name} reads back with other values than were written")
