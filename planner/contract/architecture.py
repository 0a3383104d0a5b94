"""What can be said of an architecture whatever its dimensions; `planner.contract.architectures` says it of each.

Every field is a fact of the transformers 5 classes, and its default is what Llama does, so that a record names only
what differs. Fields that hold a name of code (`builder`, `derives`, `layers`) are the only links to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["causal", "masked", "seq2seq"]
NormForm = Literal["cast_then_gain", "gain_then_cast", "shifted_gain"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """A mixture of experts, which takes the place of the feed-forward part in sparse layers."""

    count: str = "num_local_experts"
    """Key of the number of experts."""
    width: str = "moe_intermediate_size"
    """Key of an expert's width."""
    stepped: bool = True
    """Whether `decoder_sparse_step` and `mlp_only_layers` say which layers are sparse; else all of them are."""
    shared: bool = False
    """Whether an expert that all tokens share, with a gate of its own, stands beside them."""
    normalised: bool = False
    """Whether a token's weights always sum to one; else where `norm_topk_prob` says so."""
    narrowed: bool = True
    """Whether a token's weights are cast back to the logits' dtype."""
    targets: tuple[tuple[str, str], ...] = ()
    """Names that PEFT turns into the fused tensors of transformers 5, each with the tensor that it means
    (peft utils/transformers_weight_conversion.py)."""
    were_modules: bool = False
    """Whether the experts were linear modules of their own before transformers 5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoder:
    """Which modules stand in a layer of Llama's kind. A bias is there, is not, or a config key says whether."""

    qkv_bias: bool | str = False
    o_bias: bool | str = False
    mlp_bias: bool | str = False
    norm: Literal["rms", "layer", "plain"] = "rms"
    """`layer` has a bias; `plain` has no parameters at all."""
    norms: Literal["before", "after", "around"] = "before"
    """Where norms stand: before attention and feed-forward part, after both, or around both."""
    shared_norm_key: str = ""
    """Config key under which one norm serves attention and feed-forward part."""
    qk_norm: Literal["", "head", "full", "per_head"] = ""
    """Norm on queries and keys: over one head's width, over all heads, or one module per head."""
    qk_norm_key: str = ""
    """Config key under which that norm is there; empty: always."""
    fused: bool = False
    """Queries, keys and values in one module, gate and up in another."""
    gated: bool = True
    """Gated feed-forward part; else `mlp_names`' first and last."""
    mlp_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    """Modules of the feed-forward part: the gate (where there is one), up, down."""
    activation_key: str = "hidden_act"
    experts: Experts | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """Names and habits of an encoder's embeddings and heads."""

    prefix: str
    """Where the encoder stands in the network with a head."""
    segments: bool = True
    """Whether embeddings of segments are added."""
    counted_positions: bool = False
    """Whether positions are counted from the tokens that are no padding."""
    transform: tuple[str, str]
    """Linear module and norm between the encoder and its output layer."""
    transform_activation: str = ""
    """Empty: the encoder's own."""
    output: str
    """Output layer of the masked-language-model head."""
    output_bias: str = ""
    """That layer's bias where it is a parameter of the head."""
    pooler: str
    """What the first token passes before the classifier's last layer."""
    classifier: str
    """The classifier's last layer."""
    drops_first: bool = False
    """Whether there is a dropout before the pooler too."""
    classifier_dropout_key: str = "classifier_dropout"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """The text part of a multimodal model that transformers has no head of its own for."""

    name: str
    """Its `model_type`."""
    defaults: tuple[tuple[str, object], ...] = ()
    """What its config class takes where a config is silent, and that of the type that computes the same doesn't."""
    flat_in: str = ""
    """The multimodal type whose published configs hold its keys at their top; empty where they have a `text_config`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One `model_type` of transformers."""

    name: str
    """The `model_type`."""
    task: Task = "causal"
    """Task of a config that names no head."""
    classifies: bool = True
    """Whether transformers has a sequence classification for it."""
    text_of: tuple[str, str] = ("", "")
    """A multimodal model type whose `text_config` this is, and the class of its language model."""

    towers: tuple[Tower, ...] = ()
    """Text parts of multimodal models that compute what this type does, of text alone to the last bit."""

    # ---- a config.json becomes a list of modules (planner.models.sources)
    decoder: Decoder | None = None
    encoder: Encoder | None = None
    builder: str = "llama.decoder"
    """Module and function of `families` that list the network's modules."""
    derives: str = ""
    """Module and function of `families` that work out keys of its own, as its config class does."""
    derives_head_dim: bool = False
    """Whether its config class fills in `head_dim`."""
    window_switch: Literal["", "none", "zero"] = ""
    """What the window is without `use_sliding_window`; empty: there is no such key."""
    window_layers: Literal["", "all", "late", "early_odd", "period", "unrotated"] = ""
    """Which layers slide where the config doesn't list them: all, those from `max_window_layers` on, every second one
    before it, all but every `window_period`-th, those that don't rotate; empty: none."""
    window_period: int = 0
    window_period_key: str = ""
    """Key of that period, where a config may say it."""
    rotary_keys: tuple[str, str] = ("rope_theta", "partial_rotary_factor")
    """Keys of the rotary base and of the share of a head that turns."""
    rotary_share: float | None = None
    """That share where the config doesn't say; None: there is no such key."""
    rotary_by_window: bool = False
    """Whether sliding layers have a rotary base and tables of their own."""
    longrope_names: tuple[str, ...] = ()
    """Older names of the rotary type `longrope`."""
    unrotated_interval: bool = False
    """Whether `no_rope_layer_interval` says which layers don't rotate."""
    tokenizer_from_file: bool = False
    """Whether transformers loads what calls itself a `LlamaTokenizer` from the file as it is, not built by the class:
    it has `TokenizersBackend` for the model type (models/auto/tokenization_auto.py)."""

    # ---- the network runs (planner.memory, planner.speed)
    liger: bool = False
    """Whether Liger patches its norms, rotation, MLP and loss, and it is made of those pieces alone (Liger-Kernel 0.8.5
    transformers/monkey_patch.py; planner.memory.network.liger)."""
    liger_norms_in_place: bool = True
    """Whether those norms write their gradient into the one they get (`in_place` there)."""
    layers: str = "llama"
    """Module of `planner.memory.network.blocks` that holds the layer program."""
    positions: Literal["rotary", "learned", "relative"] = "rotary"
    """Rotated queries and keys, a table that is added, or a bias on the scores."""
    norm_form: NormForm = "cast_then_gain"
    """How an RMS norm is written: gain after the cast back, before it, or 1 + gain in fp32."""
    scaled_embeddings: Literal["", "inside", "after"] = ""
    """Whether embeddings are multiplied by a number: inside the embedding module, or after it."""
    scaled_residuals: bool = False
    scaled_logits: bool = False
    drops_residuals: bool = False
    """Whether attention and feed-forward part end with a call of dropout."""
    wide_rotary_tables: bool = False
    """Whether rotary tables are fp32 and queries and keys rotate in it."""
    fp32_softmax: bool = True
    """Whether attention that is written out takes its softmax in fp32."""
    full_mask_always: bool = True
    """Whether the mask of layers without a window is made though every layer has one."""
    window_mask_always: bool = False
    """Whether the windowed mask is made though no layer has a window."""
    mask_by_position: bool = False
    """Whether layers get their mask by position: a checkpoint then saves it (and offloads it) with the input."""
    sdpa: bool = True
    """Whether it runs by sdpa; else transformers falls back to eager."""
    composite_groups: bool = False
    """Whether PyTorch's composite kernel attends where query heads share keys."""
    flattens: bool = True
    """Whether transformers runs its causal attention through the registry, by sdpa."""
    own_linear: bool = False
    """Whether its linear layers are of a class of its own, x @ W.T + b, which is never quantised."""
    unquantized: tuple[str, ...] = ()
    """Linear modules that quantisation leaves alone, by leaf name."""
    causal_table: bool = False
    """Whether a causal table of positions² flags is among its buffers."""
    keeps_cache: bool = False
    """Whether releases before transformers 5 left `use_cache` on under checkpointing."""
    made_after: tuple[str, str] = ("", "")
    """A module that is made right after another though it is used before it; both by the end of their path."""
    made_first: str = ""
    """Beginning of the paths of modules that are made before all else."""
    reads_end: bool = False
    """Whether its classification head reads the closing token."""

    @property
    def causal(self) -> bool:
        """Whether tokens see only what came before them (in an encoder-decoder: the encoder's)."""
        return self.task == "causal"

    @property
    def experts(self) -> Experts | None:
        """Its mixture of experts."""
        return None if self.decoder is None else self.decoder.experts
