"""The architectures that can be planned: the one place where a model type's facts stand.

Source: transformers 5.23 models/*/{configuration,modeling}_*.py, peft 0.21, read 2026-11. CONTRIBUTING.md (a new
architecture) says what to do for another one.
"""

from __future__ import annotations

from dataclasses import replace

from planner.contract.architecture import Architecture, Decoder, Encoder, Experts, Task, Tower

_BIASED = Decoder(qkv_bias="attention_bias", o_bias="attention_bias")
_QWEN2 = Decoder(qkv_bias=True)
_QWEN2_VL = (("rms_norm_eps", 1e-5), ("rope_theta", 1e6))
_QWEN3_VL = (("rope_theta", 5e5),)
"""Defaults of models/qwen*_vl*/configuration_*.py, transformers 5.23. The rotary positions of these towers have three
parts (time, height, width), which are equal for text: then the rotation is the plain one."""
_QWEN3 = replace(_BIASED, qk_norm="head")
_GEMMA2 = replace(_BIASED, norms="around", activation_key="hidden_activation")
_BERT = Encoder(
    prefix="bert",
    transform=("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
    output="cls.predictions.decoder",
    output_bias="cls.predictions.bias",
    pooler="bert.pooler.dense",
    classifier="classifier",
)
_ROBERTA = Encoder(
    prefix="roberta",
    counted_positions=True,
    transform=("lm_head.dense", "lm_head.layer_norm"),
    transform_activation="gelu",
    output="lm_head.decoder",
    output_bias="lm_head.bias",
    pooler="classifier.dense",
    classifier="classifier.out_proj",
    drops_first=True,
)
_DISTILBERT = Encoder(
    prefix="distilbert",
    segments=False,
    transform=("vocab_transform", "vocab_layer_norm"),
    output="vocab_projector",
    pooler="pre_classifier",
    classifier="classifier",
    classifier_dropout_key="seq_classif_dropout",
)
_ROBERTA_LIKE = Architecture(
    name="roberta",
    task="masked",
    encoder=_ROBERTA,
    builder="encoders.roberta",
    layers="bert",
    positions="learned",
    mask_by_position=True,
)

_ALL = (
    # ---- decoders of Llama's kind
    Architecture(
        name="llama",
        liger=True,
        decoder=replace(_BIASED, mlp_bias="mlp_bias"),
        derives_head_dim=True,
    ),
    Architecture(
        name="mistral",
        liger=True,
        tokenizer_from_file=True,
        decoder=Decoder(),
        derives_head_dim=True,
        full_mask_always=False,
    ),
    Architecture(name="ministral", liger=True, tokenizer_from_file=True, decoder=Decoder(), window_layers="all"),
    Architecture(name="cwm", decoder=Decoder(), classifies=False, derives_head_dim=True),
    Architecture(
        name="seed_oss",
        decoder=Decoder(qkv_bias="attention_bias", o_bias="attention_out_bias", mlp_bias="mlp_bias"),
        derives_head_dim=True,
        drops_residuals=True,
    ),
    Architecture(
        name="qwen2",
        towers=(
            Tower(name="qwen2_vl_text", defaults=_QWEN2_VL, flat_in="qwen2_vl"),
            Tower(name="qwen2_5_vl_text", defaults=_QWEN2_VL, flat_in="qwen2_5_vl"),
        ),
        liger=True,
        decoder=_QWEN2,
        window_switch="none",
        window_layers="late",
    ),
    Architecture(
        name="qwen3",
        towers=(Tower(name="qwen3_vl_text", defaults=_QWEN3_VL),),
        liger=True,
        decoder=_QWEN3,
        window_switch="none",
        window_layers="late",
    ),
    Architecture(
        name="granite",
        tokenizer_from_file=True,
        decoder=replace(_BIASED, mlp_bias="mlp_bias"),
        classifies=False,
        scaled_embeddings="after",
        scaled_residuals=True,
        scaled_logits=True,
    ),
    Architecture(
        name="smollm3",
        liger=True,
        decoder=replace(_BIASED, mlp_bias="mlp_bias"),
        window_layers="unrotated",
        unrotated_interval=True,
    ),
    Architecture(name="olmo", decoder=replace(_BIASED, norm="plain"), layers="olmo", wide_rotary_tables=True),
    Architecture(
        name="olmo2",
        liger=True,
        liger_norms_in_place=False,
        tokenizer_from_file=True,
        decoder=replace(_BIASED, norms="after", qk_norm="full"),
        layers="olmo2",
        wide_rotary_tables=True,
        norm_form="gain_then_cast",
    ),
    Architecture(
        name="phi3",
        liger=True,
        tokenizer_from_file=True,
        decoder=Decoder(fused=True),
        rotary_share=1.0,
        longrope_names=("su", "yarn"),
        layers="phi3",
        full_mask_always=False,
        made_after=("self_attn.qkv_proj", "self_attn.o_proj"),
    ),
    Architecture(
        name="stablelm",
        tokenizer_from_file=True,
        decoder=Decoder(
            qkv_bias="use_qkv_bias",
            norm="layer",
            shared_norm_key="use_parallel_residual",
            qk_norm="per_head",
            qk_norm_key="qk_layernorm",
        ),
        rotary_share=0.25,
        layers="stablelm",
        flattens=False,
    ),
    Architecture(
        name="starcoder2",
        decoder=Decoder(
            qkv_bias="use_bias",
            o_bias="use_bias",
            mlp_bias="use_bias",
            norm="layer",
            gated=False,
            mlp_names=("c_fc", "c_proj"),
        ),
        layers="starcoder2",
        full_mask_always=False,
    ),
    Architecture(name="gemma", liger=True, decoder=_BIASED, norm_form="shifted_gain", scaled_embeddings="inside"),
    Architecture(
        name="gemma2",
        liger=True,
        liger_norms_in_place=False,
        decoder=_GEMMA2,
        window_layers="period",
        window_period=2,
        layers="gemma",
        norm_form="shifted_gain",
        scaled_embeddings="inside",
        sdpa=False,
        flattens=False,
    ),
    Architecture(
        name="gemma3_text",
        liger=True,
        liger_norms_in_place=False,
        decoder=replace(_GEMMA2, qk_norm="head"),
        text_of=("gemma3", "Gemma3ForCausalLM"),
        window_layers="period",
        window_period=6,
        window_period_key="sliding_window_pattern",
        rotary_by_window=True,
        layers="gemma",
        norm_form="shifted_gain",
        scaled_embeddings="inside",
    ),
    # ---- mixtures of experts
    Architecture(
        name="mixtral",
        liger=True,
        tokenizer_from_file=True,
        decoder=Decoder(
            experts=Experts(
                width="intermediate_size",
                stepped=False,
                normalised=True,
                narrowed=False,
                targets=(
                    ("gate", "gate.weight"),
                    ("w1", "gate_up_proj"),
                    ("w3", "gate_up_proj"),
                    ("w2", "down_proj"),
                ),
                were_modules=True,
            )
        ),
        layers="experts",
        full_mask_always=False,
    ),
    Architecture(
        name="qwen2_moe",
        decoder=Decoder(qkv_bias="qkv_bias", experts=Experts(count="num_experts", shared=True)),
        window_switch="zero",
        window_layers="early_odd",
        layers="experts",
        window_mask_always=True,
    ),
    Architecture(
        name="qwen3_moe",
        liger=True,
        towers=(Tower(name="qwen3_vl_moe_text", defaults=(*_QWEN3_VL, ("norm_topk_prob", True))),),
        decoder=replace(
            _QWEN3,
            experts=Experts(
                targets=(
                    ("gate", "gate.weight"),
                    ("gate_proj", "gate_up_proj"),
                    ("up_proj", "gate_up_proj"),
                    ("down_proj", "down_proj"),
                )
            ),
        ),
        window_switch="none",
        layers="experts",
        full_mask_always=False,
        made_after=("mlp.gate.weight", "experts.down_proj"),
    ),
    # ---- decoders of GPT's kind
    Architecture(name="phi", builder="gpt.phi", rotary_share=0.5, layers="phi"),
    Architecture(
        name="gpt2",
        builder="gpt.gpt2",
        layers="gpt2",
        positions="learned",
        fp32_softmax=False,
        mask_by_position=True,
    ),
    Architecture(
        name="gpt_bigcode",
        tokenizer_from_file=True,
        builder="gpt.gpt_bigcode",
        derives="gpt.gpt_bigcode_keys",
        layers="gpt2",
        positions="learned",
        causal_table=True,
        keeps_cache=True,
    ),
    Architecture(
        name="gpt_neox",
        builder="gpt.gpt_neox",
        rotary_keys=("rotary_emb_base", "rotary_pct"),
        rotary_share=0.25,
        layers="gpt_neox",
    ),
    Architecture(
        name="falcon",
        builder="gpt.falcon",
        derives="gpt.falcon_keys",
        layers="falcon",
        composite_groups=True,
        flattens=False,
        own_linear=True,
    ),
    # ---- encoders
    Architecture(
        name="bert",
        task="masked",
        encoder=_BERT,
        builder="encoders.bert",
        layers="bert",
        positions="learned",
        mask_by_position=True,
        made_after=("token_type_embeddings", "position_embeddings"),
    ),
    _ROBERTA_LIKE,
    replace(_ROBERTA_LIKE, name="xlm-roberta", made_first="lm_head"),
    Architecture(
        name="distilbert",
        task="masked",
        encoder=_DISTILBERT,
        builder="encoders.distilbert",
        layers="distilbert",
        positions="learned",
        mask_by_position=True,
    ),
    # ---- encoder and decoder
    Architecture(
        name="t5",
        task="seq2seq",
        builder="t5.t5",
        derives="t5.t5_keys",
        layers="t5",
        positions="relative",
        unquantized=("wo",),
        reads_end=True,
    ),
)

ARCHITECTURES: dict[str, Architecture] = {record.name: record for record in _ALL}

_FURTHER_TASKS: tuple[tuple[Task, tuple[str, ...]], ...] = (
    ("masked", ("albert", "electra", "modernbert", "deberta-v2")),
    ("seq2seq", ("mt5", "bart", "umt5")),
)
"""Heads of model types that have no record and can be trained all the same."""

LIGER_PATCHES_TOO = {
    *("deepseek_v2", "deepseek_v3", "deepseek_v4", "exaone4", "falcon_h1", "gemma4_text", "glm4", "gpt_oss", "granite"),
    *("hunyuan_v1_dense", "hunyuan_v1_moe", "llama4_text", "mllama_text_model", "nemotron", "olmo3", "qwen3_next"),
    *("qwen3_5_text", "qwen3_5_moe_text"),
}
"""Types of a text model that Liger 0.8.5 patches beside those whose record says so (`MODEL_TYPE_TO_APPLY_LIGER_FN`):
what they take then is not modelled. Any other it leaves as it is."""


def of(model_type: str) -> Architecture:
    """The facts of a model type; of one without a record what most decoders do, and no layer program."""
    found = ARCHITECTURES.get(model_type)
    if found is None:
        found = Architecture(name=model_type, builder="", layers="")
        for task, names in _FURTHER_TASKS:
            found = replace(found, task=task) if model_type in names else found
    return found


def supported() -> tuple[str, ...]:
    """Model types that can be planned, sorted."""
    return tuple(sorted(ARCHITECTURES))
