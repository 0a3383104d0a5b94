"""The three orthogonal frozen inputs of every plan: model, hardware, choices.

`ModelSpec` says what is trained, `HardwareProfile` what it runs on, `TrainingChoices` how. None knows of another.
Byte fields end in `_bytes`; rates say their unit. Checks of a single value run at construction and raise
`InvalidInput`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from planner.contract import architectures
from planner.contract.architecture import Architecture
from planner.contract.errors import InvalidInput
from planner.contract.shown import shown

# --------------------------------------------------------------------------------------------------------------------
# Model

ModuleKind = Literal["linear", "conv1d", "embedding", "norm", "parameter"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One parameterised module of the network, repeated over `layers`; the unit in which parameters are counted."""

    path: str
    """Dotted name inside the transformers model, `{}` where the layer index stands:
    `model.layers.{}.self_attn.q_proj`.
    """
    kind: ModuleKind
    """`linear` and `conv1d` (GPT-2's transposed linear) can carry LoRA; `parameter` is a bare tensor (e.g. fused
    experts).
    """
    shape: tuple[int, ...]
    """Weight shape: linear (out, in); conv1d (in, out); embedding (rows, width); norm (width,); parameter as stored."""
    bias: bool = False
    """Whether a bias of the output width exists too."""
    layers: tuple[int, ...] | None = None
    """Layer indices that have this module; None for a module outside the layer stack (exactly one copy)."""
    tied_to: str | None = None
    """Path of the module whose weight this one shares (no parameters of its own besides the bias)."""

    @property
    def copies(self) -> int:
        """How many copies the network has."""
        return 1 if self.layers is None else len(self.layers)

    @property
    def in_features(self) -> int:
        """Input width of a linear or conv1d module."""
        return self.shape[0] if self.kind == "conv1d" else self.shape[-1]

    @property
    def out_features(self) -> int:
        """Output width of a linear or conv1d module."""
        return self.shape[1] if self.kind == "conv1d" else self.shape[0]

    @property
    def parameters(self) -> int:
        """Parameters of one copy, a tied weight not counted."""
        weight = 1
        for dimension in self.shape:
            weight *= dimension
        if self.kind in ("linear", "conv1d"):
            bias = self.out_features if self.bias else 0
        else:
            bias = self.shape[0] if self.bias else 0
        return (0 if self.tied_to else weight) + bias

    @property
    def leaf(self) -> str:
        """Last component of the path, the name by which LoRA targets are given."""
        return self.path.rsplit(".", 1)[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """Dimensions and structure of one network, as its config.json fixes them; holds no training choice."""

    id: str
    """Catalogue name, hub id or path, as the user will recognise it."""
    architecture: str
    """`model_type` of the config: llama, mistral, qwen2, phi, gpt2, bert, t5, ..."""
    task: Literal["causal", "masked", "seq2seq", "classification"] = "causal"
    """The head that is on the network; `causal` for decoders, `masked` for encoders, `seq2seq` for t5."""
    vocab_size: int
    hidden_size: int
    num_layers: int
    """Decoder (or encoder) layers; for t5 the encoder's."""
    num_decoder_layers: int = 0
    """t5: decoder layers; 0 elsewhere."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    """Longest length the position scheme allows (`max_position_embeddings`, `n_positions`); 0 where unlimited (t5)."""
    activation: str
    """As named in the config: silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, ..."""
    sliding_window: int | None = None
    """Attention window in tokens of the sliding layers; None where every layer sees everything."""
    sliding_layers: tuple[int, ...] = ()
    """Indices of the layers that use the window."""
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    """Residual/MLP dropout probability of the base model in training mode."""
    embedding_dropout: float = 0.0
    tie_embeddings: bool = False
    num_experts: int = 0
    """Mixture of experts: experts per sparse layer; 0 for dense networks."""
    experts_per_token: int = 0
    expert_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0
    sparse_layers: tuple[int, ...] = ()
    """Indices of the layers whose MLP is a mixture of experts."""
    modules: tuple[Module, ...]
    """Every parameterised module in forward order; parameters sum to the transformers model's, to the last one."""
    config: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The config it was read from, with the architecture's defaults filled in; what else an architecture needs
    stands here.
    """

    @property
    def facts(self) -> Architecture:
        """What its architecture does whatever the dimensions."""
        return architectures.of(self.architecture)

    @property
    def parameters(self) -> int:
        """All parameters, tied weights counted once."""
        return sum(module.parameters * module.copies for module in self.modules)

    @property
    def total_layers(self) -> int:
        """Layers of all stacks, in forward order (t5: the encoder's, then the decoder's)."""
        return self.num_layers + self.num_decoder_layers

    def with_task(self, task: str) -> ModelSpec:
        """The same network with another task noted (module list unchanged)."""
        return replace(self, task=task)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------------
# Hardware


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A number from a data sheet or a measurement, with where and when it was found."""

    value: float
    unit: str
    source: str
    date: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What observations on this machine taught about a device (planner.calibration); a profile carries it."""

    applied: bool
    """False where observations exist but no correction was accepted; `reason` says why."""
    reason: str = ""
    made: str = ""
    """ISO 8601 date and time of the fit."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of torch and others that it was measured with."""
    observations: int = 0
    models: int = 0
    persistent_factor: float = 1.0
    """Measured over predicted bytes of what lives through the whole step (weights, adapters, optimizer state)."""
    moving_factor: float = 1.0
    """Measured over predicted bytes of what comes and goes within a step."""
    fragmentation_factor: float = 1.0
    """Measured over predicted bytes that the allocator holds beyond the tensors."""
    slack_bytes: int = 0
    """Bytes that the allocator holds besides, whatever the shape."""
    cublas_workspace_bytes: int | None = None
    """One of the two workspaces; None: as the profile has it."""
    context_bytes: int | None = None
    """None: as the profile has it."""
    interval: tuple[float, float] | None = None
    """Lower and upper half width of the device peak's interval in units of 16 MiB plus 1 % of the moving bytes."""
    coverage: float | None = None
    """Share of observations inside an interval that was made without their model."""
    errors: dict[str, float] = field(default_factory=dict)
    """Signed and absolute errors of the device (or allocated) peak, in shares: bare_median, fitted_median, worst ..."""
    speed: dict[str, float] = field(default_factory=dict)
    """Factors on the expected efficiencies (arithmetic, bandwidth, launch) and `spread`, the log error's deviation."""

    def __hash__(self) -> int:
        return hash((self.applied, self.made, self.observations, self.reason))

    def summary(self) -> dict[str, Any]:
        """What a report says of it."""
        content: dict[str, Any] = {"applied": self.applied}
        if self.reason:
            content["reason"] = self.reason
        if self.made:
            content |= {"made": self.made, "versions": self.versions}
            content |= {"observations": self.observations, "models": self.models}
        if self.coverage is not None:
            content["coverage"] = round(self.coverage, 3)
        content["errors"] = {name: round(value, 5) for name, value in self.errors.items()}
        return content


@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareProfile:
    """One device: what its memory and arithmetic units can do. Read from `hardware_profiles/*.toml`."""

    name: str
    """Lower case with hyphens: `a10g`, `a100-80gb`, `m3-18gb`, `cpu`."""
    title: str
    """As its maker writes it: `NVIDIA A10G`."""
    kind: Literal["cuda", "rocm", "mps", "cpu"]
    total_bytes: int
    """Bytes that a process could address if nobody else held any (NVML total, Metal working set, host RAM)."""
    context_bytes: int
    """Bytes a process pays before its first tensor: CUDA context, kernels, libraries."""
    reserve_bytes: int
    """Bytes left free by default: display, other processes; on a Mac what the system needs."""
    bandwidth_bytes_per_second: float
    flops_per_second: dict[str, float]
    """Dense peak by dtype: keys fp32, tf32, bf16, fp16 as far as supported."""
    dtypes: tuple[str, ...]
    """Training dtypes supported in hardware: subset of fp32, bf16, fp16."""
    compute_capability: tuple[int, int] | None = None
    """CUDA compute capability (8, 6); None elsewhere."""
    unified_memory: bool = False
    """Whether CPU and GPU share the memory (Apple, CPU)."""
    cublas_workspace_bytes: int = 0
    """Bytes of one cuBLAS workspace; counts as allocated (PyTorch: 8.125 MiB, 32 MiB on Hopper)."""
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What a person should know before using this device: missing dtypes, builds without its kernels, swap limits."""
    facts: dict[str, Fact] = field(default_factory=dict, repr=False)
    """Every fact with unit, source and date, by its key in the TOML."""
    calibration: Calibration | None = None
    """What was learned on this machine; None for the profile as it is shipped."""

    @property
    def budget_bytes(self) -> int:
        """Device bytes a run may use when nobody else holds any: total minus the default reserve."""
        return self.total_bytes - self.reserve_bytes


# --------------------------------------------------------------------------------------------------------------------
# Choices

METHODS = ("full", "lora", "qlora")
PRECISIONS = ("bf16", "fp16", "fp32", "bf16-mixed", "fp16-mixed", "bf16-amp")
"""`-mixed` keeps fp32 weights under autocast; `bf16-amp` is autocast over bf16 weights, as some frameworks run it."""
ADAPTER_DTYPES = ("fp32", "bf16")
OPTIMIZERS = ("adamw", "adamw-8bit", "paged-adamw-8bit", "adafactor", "sgd")
LOSSES = ("full", "chunked")
ATTENTIONS = ("sdpa", "eager", "flash")
PADDINGS = ("longest", "max", "packed")
STACKS = ("builtin", "peft")
STRATEGIES = ("ddp", "zero2", "zero3", "fsdp")
ZERO_BUCKET = 50_000_000
"""Elements of a bucket of gradients that ZeRO reduces at once, as the trainer sets it (DeepSpeed's own is 500 M)."""
LORA_VARIANTS = ("lora", "dora", "rslora")
QUANTIZATIONS = ("nf4", "nf4-double", "int8")
KBIT_PREPARATIONS = ("stock", "norms", "none")
OPTIMIZER_IMPLEMENTATIONS = ("foreach", "fused", "forloop")
UPDATE_PARTS = 16
"""Runs of parameters that the trainer updates one after the other where a run has to be copied to be undone."""
LARGEST_COUNT = 65_536
"""Beyond it a batch, an accumulation or a rank is a slip of the keyboard, and bytes would leave 64 bits."""
LARGEST_LENGTH = 2**24
"""Tokens of a sequence, for the same reason; the longest context of a published model is 10 M."""
LARGEST_TOKENS = 2**30
"""Tokens of a micro-batch, for the same reason."""


MOST_NAMES = 256
"""Modules named in one choice."""
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}(\.[0-9A-Za-z.+-]{1,40})?")
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_ALLOWED: dict[str, tuple[str, ...]] = {
    "method": METHODS,
    "precision": PRECISIONS,
    "adapter_dtype": ADAPTER_DTYPES,
    "lora_variant": LORA_VARIANTS,
    "quantization": QUANTIZATIONS,
    "kbit_preparation": KBIT_PREPARATIONS,
    "optimizer": OPTIMIZERS,
    "optimizer_implementation": OPTIMIZER_IMPLEMENTATIONS,
    "loss": LOSSES,
    "attention": ATTENTIONS,
    "padding": PADDINGS,
    "stack": STACKS,
    "strategy": STRATEGIES,
}
_FLAGS = (
    *("gradient_checkpointing", "checkpoint_reentrant", "checkpoint_offload", "keep_logits", "keep_cache"),
    "expandable_segments",
)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingChoices:
    """Everything a person chooses that moves memory or speed. One instance is one configuration."""

    batch_size: int = 8
    """Micro-batch: sequences in one forward pass on one device."""
    gradient_accumulation_steps: int = 4
    max_length: int = 1024
    """Tokens per sequence after padding or packing."""
    gradient_checkpointing: bool = True
    checkpoint_layers: int | None = None
    """How many layers (the first ones) are checkpointed; None means all of them when checkpointing is on."""
    checkpoint_reentrant: bool = False
    checkpoint_offload: bool = False
    """Saved layer inputs live in host memory between forward and backward."""
    method: str = "lora"
    lora_r: int = 8
    lora_alpha: float = 32
    lora_dropout: float = 0.05
    lora_targets: tuple[str, ...] = ("all-linear",)
    """Module leaf names, or one of the sets `attention`, `all-linear`."""
    lora_variant: Literal["lora", "dora", "rslora"] = "lora"
    modules_to_save: tuple[str, ...] = ()
    """Leaf names of modules trained in full beside the adapters (embeddings, head)."""
    precision: str = "bf16"
    adapter_dtype: str = "fp32"
    quantization: Literal["nf4", "nf4-double", "int8"] = "nf4-double"
    """Storage of the base weights under `method=qlora`."""
    kbit_preparation: str | None = None
    """Stack `peft` over quantised weights: what becomes fp32 before adapters are attached. `stock`: everything that is
    not quantised (PEFT's own preparation); `norms`: the norms alone (TRL's, which takes embeddings and head back);
    `none`. None: `stock`, but `none` where autocast runs over bf16 weights (`bf16-amp`).
    """
    optimizer: str = "adamw"
    optimizer_implementation: Literal["foreach", "fused", "forloop"] = "foreach"
    loss: str = "full"
    attention: str = "sdpa"
    padding: str = "longest"
    stack: str = "builtin"
    transformers_version: str | None = None
    """Stack `peft`: whose loss code runs (X.Y), and below 5 Mixtral's experts as modules of their own; None is
    today's.
    """
    keep_logits: bool = False
    """The loop holds the model's output through backward."""
    keep_cache: bool = False
    """The model returns every layer's keys and values beside the logits (`use_cache`, which older releases' GPTBigCode
    leaves on in training).
    """
    max_grad_norm: float = 1.0
    """Gradient clipping threshold; 0 switches clipping off."""
    eval_batch_size: int | None = None
    """None: same as batch_size."""
    expandable_segments: bool = False
    """CUDA's caching allocator extends its segments in place of making further ones (`PYTORCH_ALLOC_CONF`)."""
    num_gpus: int = 1
    strategy: str = "ddp"

    def __post_init__(self) -> None:
        for name in ("batch_size", "gradient_accumulation_steps", "max_length", "lora_r", "num_gpus"):
            self._check_count(name, least=1)
        if self.eval_batch_size is not None:
            self._check_count("eval_batch_size", least=1)
        if self.checkpoint_layers is not None:
            self._check_count("checkpoint_layers", least=0)
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if (value is not None or name != "kbit_preparation") and value not in allowed:
                raise InvalidInput(f"{_flag(name)} {shown(value)} is unknown; choose one of {', '.join(allowed)}")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InvalidInput(f"{_flag(name)} must be true or false, not {shown(getattr(self, name))}")
        for name in ("lora_targets", "modules_to_save"):
            self._check_names(name)
        self._check_number("lora_dropout", "lie in [0, 1)", lambda value: 0 <= value < 1)
        self._check_number("lora_alpha", "be a number above 0", lambda value: 0 < value < math.inf)
        self._check_number("max_grad_norm", "be 0 (no clipping) or a number above", lambda value: 0 <= value < math.inf)
        version = self.transformers_version
        known = version is None or (
            isinstance(version, str) and (version == "no-upcast" or _VERSION.fullmatch(version))
        )
        if not known:
            raise InvalidInput(f"--transformers-version {shown(version)} is no version; write X.Y, like 4.48")

    def _check_count(self, name: str, *, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidInput(f"{_flag(name)} must be a whole number of at least {least}, not {shown(value)}")
        largest = LARGEST_LENGTH if name == "max_length" else LARGEST_COUNT
        if value > largest:
            raise InvalidInput(f"{_flag(name)} {shown(value)} is beyond {largest}, the most that is modelled")

    def _check_number(self, name: str, right: str, valid: Callable[[float], bool]) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not valid(value):
            raise InvalidInput(f"{_flag(name)} must {right}, not {shown(value)}")

    def _check_names(self, name: str) -> None:
        names = getattr(self, name)
        if not isinstance(names, tuple) or not all(isinstance(item, str) for item in names):
            raise InvalidInput(f"{_flag(name)} must be a list of names, not {shown(names)}")
        if not names and name == "lora_targets" and self.method != "full":
            raise InvalidInput(f"{_flag(name)} is empty; name modules, or 'attention', or 'all-linear'")
        if len(names) > MOST_NAMES:
            raise InvalidInput(f"{_flag(name)} holds {len(names)} names, more than {MOST_NAMES}")
        for item in names:
            if not _MODULE.fullmatch(item):
                raise InvalidInput(f"{_flag(name)} {shown(item)} is no module's name (letters, digits, _ - and .)")

    def with_usual_loss(self, task: str) -> TrainingChoices:
        """The loss to run where nobody named one: in chunks on stack `builtin`, which has them for causal models.

        The same loss and gradients as whole logits, in fewer bytes; heads with adapters need the whole logits.
        """
        chunked = self.stack == "builtin" and task == "causal" and "lm_head" not in self.lora_targets
        return replace(self, loss="chunked" if chunked else "full")

    def with_usual_implementation(self, kind: str) -> TrainingChoices:
        """The optimizer's implementation to run where nobody named one, on a device of this kind.

        On stack `builtin` one fused kernel where torch has it: it holds no copy of the parameters, and writes nothing
        before all memory is there. Stack `peft` keeps the multi-tensor one, and so does fp16: a fused kernel looks for
        overflows of the scaled loss by itself, so that accelerate can't tell which steps were left out.
        """
        known = self.optimizer in ("adamw", "sgd") and kind in ("cuda", "rocm", "cpu")
        fused = known and self.stack == "builtin" and not self.precision.startswith("fp16")
        return replace(self, optimizer_implementation="fused" if fused else "foreach")

    @property
    def effective_batch_size(self) -> int:
        """Sequences per optimizer step over all devices."""
        return self.batch_size * self.gradient_accumulation_steps * self.num_gpus

    @property
    def kbit_prepared(self) -> str:
        """What the run turns into fp32 beside quantised weights: one of `KBIT_PREPARATIONS`."""
        if self.method != "qlora" or self.stack != "peft":
            return "none"
        return self.kbit_preparation or ("none" if self.precision == "bf16-amp" else "stock")

    @property
    def separate_experts(self) -> bool:
        """Whether Mixtral's experts are linear modules of their own: stack `peft` before transformers 5."""
        return self.stack == "peft" and (self.transformers_version or "").startswith("4.")

    def checkpointed_layers(self, num_layers: int) -> int:
        """How many of `num_layers` layers are checkpointed under these choices."""
        if not self.gradient_checkpointing:
            return 0
        return num_layers if self.checkpoint_layers is None else min(self.checkpoint_layers, num_layers)
