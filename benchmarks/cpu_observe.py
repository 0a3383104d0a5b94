"""Real training steps on this machine's CPU beside the closed form: the bytes of their tensors, instant by instant.

    python benchmarks/cpu_observe.py --out DIR [--limit N] [--only TEXT]
    python benchmarks/cpu_observe.py --out DIR --score hardware_profiles/observations/cpu.jsonl

The second form measures nothing: it holds earlier measurements against today's closed form. Small models of many
architectures on both stacks; a meter counts every tensor storage of one steady-state step (trainer/measure/meter.py).
Writes observations.jsonl and summary.md to DIR. Exit code 1 when the median passes 0.2 % or the worst run 1 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import observe_common as common
from observe_common import Observation, Point, TrainingChoices

MEDIAN_LIMIT, WORST_LIMIT = 0.002, 0.01

SIZES: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 512,
    "max_position_embeddings": 512,
}
GROUPED = {"num_key_value_heads": 2}
"""Grouped queries: six query heads on two key-value heads."""


def _decoder(model_type: str, head: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": model_type, "architectures": [head], **SIZES, **changes}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _decoder("llama", "LlamaForCausalLM", **GROUPED),
    "mistral": _decoder("mistral", "MistralForCausalLM", sliding_window=None, **GROUPED),
    "qwen2": _decoder("qwen2", "Qwen2ForCausalLM", tie_word_embeddings=True, **GROUPED),
    "qwen3": _decoder("qwen3", "Qwen3ForCausalLM", head_dim=32, **GROUPED),
    "gemma": _decoder("gemma", "GemmaForCausalLM", head_dim=32, num_key_value_heads=1),
    "gemma2": _decoder("gemma2", "Gemma2ForCausalLM", head_dim=32, sliding_window=512, **GROUPED),
    "phi": _decoder("phi", "PhiForCausalLM", hidden_act="gelu_new", resid_pdrop=0.1, partial_rotary_factor=0.5),
    "phi3": _decoder("phi3", "Phi3ForCausalLM", sliding_window=None, pad_token_id=0, **GROUPED),
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": 192,
        "n_layer": 4,
        "n_head": 6,
        "n_positions": 512,
        "vocab_size": 2048,
    },
    "gpt_neox": _decoder("gpt_neox", "GPTNeoXForCausalLM", rotary_pct=0.25),
    "olmo2": _decoder("olmo2", "Olmo2ForCausalLM", **GROUPED),
    "granite": _decoder("granite", "GraniteForCausalLM", tie_word_embeddings=True, logits_scaling=6.0, **GROUPED),
    "stablelm": _decoder("stablelm", "StableLmForCausalLM", partial_rotary_factor=0.25, **GROUPED),
    "starcoder2": _decoder("starcoder2", "Starcoder2ForCausalLM", tie_word_embeddings=True, **GROUPED),
    "bert": _decoder("bert", "BertForMaskedLM"),
    "distilbert": {
        "model_type": "distilbert",
        "architectures": ["DistilBertForMaskedLM"],
        "vocab_size": 2048,
        "dim": 192,
        "n_layers": 4,
        "n_heads": 6,
        "hidden_dim": 512,
        "max_position_embeddings": 512,
    },
    "t5": {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": 2048,
        "d_model": 192,
        "d_kv": 32,
        "d_ff": 512,
        "num_layers": 3,
        "num_decoder_layers": 3,
        "num_heads": 6,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
    },
    "mixtral": _decoder(
        "mixtral", "MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2, sliding_window=None, **GROUPED
    ),
}

BASE: dict[str, Any] = {"batch_size": 4, "max_length": 128, "gradient_accumulation_steps": 1, "precision": "bf16"}
VARIANTS: dict[str, dict[str, Any]] = {
    "peft lora": {"stack": "peft"},
    "builtin lora chunked plain": {"stack": "builtin", "loss": "chunked", "gradient_checkpointing": False},
    "builtin full fp32": {"stack": "builtin", "method": "full", "precision": "fp32"},
    "peft full padded plain": {
        "stack": "peft",
        "method": "full",
        "padding": "max",
        "gradient_checkpointing": False,
    },
    "peft lora padded fp32": {"stack": "peft", "padding": "max", "precision": "fp32", "checkpoint_layers": 2},
    "builtin lora packed mixed": {"stack": "builtin", "padding": "packed", "precision": "bf16-mixed"},
    "builtin lora bf16 adapters": {
        "stack": "builtin",
        "adapter_dtype": "bf16",
        "lora_dropout": 0.0,
        "lora_targets": ("attention",),
        "gradient_accumulation_steps": 2,
    },
    "peft qlora": {"stack": "peft", "method": "qlora", "quantization": "nf4"},
    "builtin qlora chunked plain": {
        "stack": "builtin",
        "method": "qlora",
        "loss": "chunked",
        "gradient_checkpointing": False,
    },
}
PACKED_VARIANTS: dict[str, dict[str, Any]] = {
    "peft int8": {"stack": "peft", "method": "qlora", "quantization": "int8"},
    "builtin int8 plain": {
        "stack": "builtin",
        "method": "qlora",
        "quantization": "int8",
        "gradient_checkpointing": False,
    },
    "peft dora over nf4": {"stack": "peft", "method": "qlora", "quantization": "nf4", "lora_variant": "dora"},
    "builtin dora over int8": {
        "stack": "builtin",
        "method": "qlora",
        "quantization": "int8",
        "lora_variant": "dora",
        "checkpoint_layers": 2,
    },
}
EXPERT_VARIANTS: dict[str, dict[str, Any]] = {
    "peft lora on experts": {"stack": "peft", "lora_dropout": 0.0, "lora_targets": ("all-linear",)},
    "builtin lora on experts plain": {
        "stack": "builtin",
        "lora_dropout": 0.0,
        "lora_targets": ("all-linear",),
        "gradient_checkpointing": False,
    },
}
"""Adapters on mixtral's fused expert tensors, which take no dropout."""
PACKED = ("llama", "phi", "gpt2", "bert", "qwen3", "gpt_neox")
"""Architectures that are measured over packed weights too."""
QUICK = ("llama", "phi", "gpt2", "bert", "qwen2")
"""Architectures of the ten runs that the tests make."""


def points(names: list[str] | None = None, variants: list[str] | None = None) -> list[Point]:
    """Every architecture under every variant that it knows."""
    made = []
    for index, (name, config) in enumerate(ARCHITECTURES.items()):
        if names is not None and name not in names:
            continue
        # Each architecture gets four of the variants in turn, so that a full run stays within minutes.
        chosen = variants or [list(VARIANTS)[(index + step) % len(VARIANTS)] for step in (0, 1, 3, 5)]
        if variants is None and name in PACKED:
            chosen += list(PACKED_VARIANTS)
        if variants is None and name == "gpt2" and "peft qlora" not in chosen:
            chosen.append("peft qlora")  # whose weights are transposed before they are packed
        if variants is None and name == "mixtral":
            chosen += list(EXPERT_VARIANTS)
        for variant in chosen:
            values = {**BASE, **(VARIANTS | PACKED_VARIANTS | EXPERT_VARIANTS)[variant]}
            if values["padding" if "padding" in values else "stack"] == "packed" and name in (
                "bert",
                "distilbert",
                "t5",
            ):
                continue
            if values.get("loss") == "chunked" and name in ("bert", "distilbert", "t5"):
                values["loss"] = "full"
            if name == "mixtral" and "lora_targets" not in values:
                values["lora_targets"] = ("attention",)  # its fused experts take no dropout
            choices = TrainingChoices(**values)
            made.append(
                Point(label=f"{name} / {variant}", model=name, config=config, choices=choices, group=variant, steps=1)
            )
    return made


def observe(chosen: list[Point], *, source: str = "cpu_observe", talk: bool = True) -> list[Observation]:
    """Measures the points in one worker process; what isn't modelled or fails is named on stderr and left out."""
    from planner.calibration.worker import Worker
    from planner.contract.errors import TuneplanError
    from planner.devices.hardware import find

    hardware = find("cpu")
    found = []
    with Worker() as worker:
        worker.start()
        for number, point in enumerate(chosen, 1):
            try:
                request = common.request_for(point, hardware, device="cpu", source=source)
                observation = worker.ask(request, timeout=300)
            except TuneplanError as error:
                print(f"[{number}/{len(chosen)}] {point.label}: {error}", file=sys.stderr)
                continue
            found.append(observation)
            error = common.allocated_error(observation)
            if talk and error is not None:
                parts = ", ".join(f"{k} {v:+.3%}" for k, v in common.instant_errors(observation).items())
                print(f"[{number}/{len(chosen)}] {point.label}: {error:+.3%} ({parts})", file=sys.stderr)
    return found


def score(path: Path) -> list[Observation]:
    """Earlier observations with today's predictions; what isn't modelled is named on stderr and left out."""
    from planner.contract.errors import TuneplanError
    from planner.devices.hardware import find

    hardware, found = find("cpu"), []
    for item in common.read_lines(path):
        try:
            found.append(common.rescored(item, hardware))
        except TuneplanError as error:
            print(f"{item.probe.get('label')}: {error}", file=sys.stderr)
    return found


def errors_of(observations: list[Observation]) -> list[float]:
    """Signed errors of the allocated peaks."""
    return [error for item in observations if (error := common.allocated_error(item)) is not None]


def summary(observations: list[Observation]) -> str:
    """The tables in markdown."""
    architecture = common.by(observations, lambda item: str(item.model["id"]))
    variant = common.by(observations, lambda item: item.probe["label"].split(" / ", 1)[1])
    instants: dict[str, list[float]] = {}
    for item in observations:
        for name, error in common.instant_errors(item).items():
            instants.setdefault(name, []).append(error)
    versions = observations[0].versions if observations else {}
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft") if name in versions)
    lines = [
        "# Tensor-storage peaks of real CPU steps beside the closed form",
        "",
        f"{len(observations)} runs; {named}; error = (predicted - measured) / measured of the largest instant.",
        "",
        *common.table("All", [("all runs", errors_of(observations))]),
        *common.table("By architecture", [(k, errors_of(v)) for k, v in architecture.items()]),
        *common.table("By variant", [(k, errors_of(v)) for k, v in variant.items()]),
        *common.table("By instant", list(instants.items())),
    ]
    off = [(item, e) for item in observations if (e := common.allocated_error(item)) and abs(e) > WORST_LIMIT]
    lines += [f"Runs beyond {WORST_LIMIT:.0%}: {len(off)}", ""]
    lines += [f"- {item.probe['label']}: {error:+.2%}" for item, error in sorted(off, key=lambda p: -abs(p[1]))]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for observations.jsonl and summary.md")
    parser.add_argument("--limit", type=int, help="only the first N points")
    parser.add_argument("--score", type=Path, help="observations to score again instead of measuring")
    parser.add_argument("--only", help="only points whose label holds this text")
    given = parser.parse_args()
    chosen = [point for point in points() if given.only is None or given.only in point.label][: given.limit]
    started = time.perf_counter()
    observations = score(given.score) if given.score else observe(chosen)
    if not observations:
        print("no point could be measured", file=sys.stderr)
        return 1
    common.write_lines(given.out / "observations.jsonl", observations)
    text = summary(observations)
    common.write_whole(given.out / "summary.md", text)
    print(text)
    errors = [abs(error) for error in errors_of(observations)]
    print(f"{len(errors)} runs in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return 0 if statistics.median(errors) <= MEDIAN_LIMIT and max(errors) <= WORST_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
