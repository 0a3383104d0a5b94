"""Which model types of transformers get a number, and on what it rests: `python -m benchmarks.model_types [TYPE…]`.

Every type of the causal, masked, sequence-to-sequence and image-text-to-text classes is tried with its own default
config, cut to few layers: the network is described and a training step of it recorded. Results are kept in
`benchmarks/results/model_types.json` from run to run; without a TYPE all that have none yet are tried. `--docs` writes
the table of docs/models.md from them.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.calibration import attach
from planner.contract.architectures import ARCHITECTURES
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled, RunFailed, TuneplanError
from planner.contract.towers import text_part
from planner.contract.words import one_line
from planner.decide.learning import Teacher
from planner.memory.loads import case_of
from planner.memory.recorded.wanted import log_of
from planner.memory.step.case import Case
from planner.models.recorded import Unlearned
from planner.models.sources import from_config
from trainer.commands import record

RESULTS = Path(__file__).parent / "results" / "model_types.json"
DOCS = Path(__file__).parents[1] / "docs" / "models.md"
MARKS = ("<!-- types -->", "<!-- /types -->")
CLASSES = {
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "seq2seq": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "image-text-to-text": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
}
MOST_SECONDS = 240
"""Of processor time that one type may take."""
LATE = "not done in"
AGAIN = 10
"""Seconds after which a library that caught the first interruption is interrupted once more."""
FEW_LAYERS = 8
PUBLISHED: dict[str, dict[str, Any]] = {
    # rednote-hilab/dots.llm1.inst, read 2026-11-27
    "dots1": {
        "hidden_size": 4096,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "n_routed_experts": 128,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
    },
    # databricks/dbrx-instruct, read 2026-11-27
    "dbrx": {
        "d_model": 6144,
        "n_heads": 48,
        "n_layers": 40,
        "vocab_size": 100352,
        "max_seq_len": 32768,
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    },
    # deepseek-ai/DeepSeek-V2-Lite, read 2026-11-27
    "deepseek_v2": {
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
        "num_hidden_layers": 27,
    },
    # tencent/Hunyuan-7B-Instruct and Hunyuan-A13B-Instruct, read 2026-11-27
    "hunyuan_v1_dense": {"head_dim": 128, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128167},
    "hunyuan_vl_text": {"head_dim": 128},
    "hunyuan_v1_moe": {
        "head_dim": 128,
        "num_key_value_heads": 8,
        "intermediate_size": 3072,
        "vocab_size": 128167,
        "num_experts": 64,
        "moe_topk": 8,
    },
    # facebook/xmod-base has no default either; one is chosen by whoever trains it.
    "xmod": {"default_language": "en_XX"},
    # nvidia/Minitron-4B-Base, read 2026-11-27
    "nemotron": {
        "hidden_size": 3072,
        "intermediate_size": 9216,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    # LiquidAI/LFM2-8B-A1B, as in the catalogue
    "lfm2_moe": {
        "num_hidden_layers": 24,
        "layer_types": ["full_attention" if index in (2, 6, 10, 14, 18, 21) else "conv" for index in range(24)],
    },
    # GLM-4.1V and GLM-4.5V turn half of their heads; docs of NVIDIA's Megatron Bridge, read 2026-11-27
    "glm4v_text": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    "glm4v_moe_text": {
        "head_dim": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    },
    # facebook/esm2_t33_650M_UR50D, read 2026-11-27
    "esm": {
        "vocab_size": 33,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 33,
        "max_position_embeddings": 1026,
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "token_dropout": True,
        "mask_token_id": 32,
        "pad_token_id": 1,
    },
    # Its rotary settings stand by kind of layer, of which the defaults have none.
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
}
"""What a type's own defaults lack for a network, as published checkpoints have it."""
CHOICES = TrainingChoices(
    batch_size=2, max_length=256, lora_targets=("all-linear",), lora_dropout=0.0, gradient_checkpointing=True
)
WAYS: tuple[dict[str, Any], ...] = (
    {"loss": "chunked"},
    {"loss": "full"},
    {"loss": "full", "gradient_checkpointing": False},
    {"loss": "full", "precision": "fp32"},
)
"""Settings that are tried one after the other; all layers are recomputed where nothing else is said."""


def types() -> dict[str, dict[str, str]]:
    """Class of head -> model type -> name of the class."""
    from transformers.models.auto import modeling_auto

    found = {}
    for head, name in CLASSES.items():
        mapping = getattr(modeling_auto, name)
        found[head] = {key: value if isinstance(value, str) else value[0] for key, value in mapping.items()}
    return found


def default_config(model_type: str, cls: str) -> dict[str, Any]:
    """The type's default config with few layers, or a published one where its defaults make no network."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    own = PUBLISHED.get(model_type, {})
    made = CONFIG_MAPPING[model_type](**copy.deepcopy(own))
    names = getattr(type(made), "attribute_map", {})
    layers = names.get("num_hidden_layers", "num_hidden_layers")
    if isinstance(getattr(type(made), layers, None), property):
        layers = "num_layers"
    count = getattr(made, layers, None)
    config: dict[str, Any] = {"model_type": model_type, "architectures": [cls], **copy.deepcopy(own)}
    each = any(isinstance(value, (list, tuple)) and len(value) == count for value in vars(made).values())
    if isinstance(count, int) and count > FEW_LAYERS and not each:
        config[layers] = FEW_LAYERS
    text = getattr(made, "text_config", None)
    if text is not None:
        config["text_config"] = {"model_type": text.model_type, **copy.deepcopy(PUBLISHED.get(text.model_type, {}))}
    return config


class _Late(Exception):
    """A type takes too long: no TuneplanError, so that nothing goes on after it."""


class _Here:
    """Answers as a recorder's child does, in this process: a child of each type's own would take as long to start as
    the type takes."""

    def __init__(self) -> None:
        self.desk = record._Desk()

    def ask(self, **request: object) -> dict[str, Any]:
        """The answer to one request."""
        answer: dict[str, Any] = json.loads(json.dumps(record._answer(self.desk, json.dumps(request))))
        if "error" in answer:
            raise (InvalidInput if answer["code"] == InvalidInput.exit_code else RunFailed)(answer["error"])
        return answer

    def close(self) -> None:
        """Nothing to end."""


class _Tried:
    """One type after the other."""

    def __init__(self) -> None:
        self.teacher = self._teacher()
        self.card = attach.find("a100-80gb")
        signal.signal(signal.SIGPROF, self._late)

    def _teacher(self) -> Teacher:
        made, beside = Teacher(lambda line: None), Teacher(lambda line: None)
        made.recorder = beside.recorder = _Here()  # type: ignore[assignment]
        made.beside = beside
        return made

    def tried(self, model_type: str, cls: str) -> dict[str, str]:
        """`basis` of a figure (written, recorded, traced, refused), and why it is no better."""
        try:
            config = default_config(model_type, cls)
        except Exception as error:  # a class whose own defaults it refuses
            return {"basis": "refused", "why": f"its default config can't be made: {one_line(error)}"}
        if text_part(config)["model_type"] in ARCHITECTURES:
            return {"basis": "written"}
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS, AGAIN)
        try:
            return self._recorded(config, model_type)
        except (_Late, RunFailed) as error:
            self.teacher = self._teacher()
            return {"basis": "not tried to the end", "why": one_line(error)}
        except TuneplanError as error:
            return {"basis": "refused", "why": one_line(error)}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _recorded(self, config: dict[str, Any], model_type: str) -> dict[str, str]:
        spec = self._learned(lambda: from_config(config, model_type))
        reasons = []
        for way in WAYS if spec.task == "causal" else WAYS[1:]:
            choices = replace(CHOICES.with_usual_implementation("cuda"), **way)
            case = case_of(spec, self.card, choices, choices.checkpointed_layers(spec.total_layers), choices.max_length)

            def work(case: Case = case) -> Any:
                return log_of(case)

            try:
                self._learned(work)
            except RunFailed:
                raise
            except TuneplanError as error:
                reasons.append(one_line(error))
                if LATE in reasons[-1]:  # the recorder made a refusal of it
                    raise _Late(reasons[-1]) from None
                continue
            named = ", ".join(f"{name} {value}" for name, value in way.items())
            return {"basis": "recorded", **({"why": f"{named}: {reasons[-1]}"} if reasons else {})}
        traced = any("plan trace" in reason for reason in reasons)
        told = reasons if spec.task != "causal" else reasons[1:]
        return {"basis": "only traced" if traced else "refused", "why": " · ".join(dict.fromkeys(told))}

    def _learned(self, work: Callable[[], Any]) -> Any:
        for _ in range(8):
            try:
                return work()
            except Unlearned as missing:
                self.teacher.learn(missing)
        raise NotModelled("asks for more and more recordings")

    def _late(self, *_: object) -> None:
        raise _Late(f"{LATE} {MOST_SECONDS} s of processor time")


def table(results: dict[str, dict[str, dict[str, str]]]) -> str:
    """The results as Markdown."""
    lines: list[str] = []
    known = types()
    for head, found in results.items():
        counts: dict[str, list[str]] = {}
        for name in sorted(found):
            counts.setdefault(found[name]["basis"], []).append(name)
        lines += [
            f"**{head}** ({len(found)} of {len(known[head])} types tried so far)",
            "",
            "| basis | types |",
            "|---|---|",
        ]
        for basis, names in sorted(counts.items()):
            lines.append(f"| {basis} ({len(names)}) | {' '.join(f'`{name}`' for name in names)} |")
        why = [
            (name, found[name]["why"])
            for name in sorted(found)
            if "recorded" not in found[name]["basis"] and "why" in found[name]
        ]
        lines += ["", *(f"- `{name}`: {reason[:200]}" for name, reason in why), ""]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Tries what was asked for and keeps it."""
    results: dict[str, dict[str, dict[str, str]]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments == ["--docs"]:
        text = DOCS.read_text(encoding="utf-8")
        before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
        DOCS.write_text(f"{before}{MARKS[0]}\n{table(results)}{MARKS[1]}{after}", encoding="utf-8")
        return 0
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"TUNEPLAN_HOME": home, "TUNEPLAN_CACHE": "off"}
        trying = _Tried()
        for head, names in types().items():
            for name, cls in names.items():
                known = results.setdefault(head, {})
                if name in arguments or (not arguments and name not in known):
                    known[name] = trying.tried(name, cls)
                    print(head, name, known[name], flush=True)
                    RESULTS.parent.mkdir(exist_ok=True)
                    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        trying.teacher.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
