"""Two of the three orthogonal frozen inputs of every plan: model and hardware; `choices` has the third.

`ModelSpec` says what is trained, `HardwareProfile` what it runs on, `TrainingChoices` how. None knows of another.
Byte fields end in `_bytes`; rates say their unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from planner.contract import architectures
from planner.contract.architecture import Architecture
from planner.contract.own_runs import OwnRun

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


HeadTask = Literal["causal", "masked", "seq2seq", "classification"]
"""What a network's head is for: its architecture's own task, or labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """Dimensions and structure of one network, as its config.json fixes them; holds no training choice."""

    id: str
    """Catalogue name, hub id or path, as the user will recognise it."""
    architecture: str
    """`model_type` of the config: llama, mistral, qwen2, phi, gpt2, bert, t5, ..."""
    task: HeadTask = "causal"
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

    def summary(self) -> dict[str, object]:
        """What a report says of it."""
        content: dict[str, object] = {"applied": self.applied}
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
    largest_buffer_bytes: int | None = None
    """Bytes of the largest single tensor that the device can hold whatever is free (Metal); None: no such limit."""
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What a person should know before using this device: missing dtypes, builds without its kernels, swap limits."""
    facts: dict[str, Fact] = field(default_factory=dict, repr=False)
    """Every fact with unit, source and date, by its key in the TOML."""
    calibration: Calibration | None = None
    """What was learned on this machine; None for the profile as it is shipped."""
    own_runs: tuple[OwnRun, ...] = ()
    """This machine's newest training runs, which correct predictions without a calibration."""

    @property
    def budget_bytes(self) -> int:
        """Device bytes a run may use when nobody else holds any: total minus the default reserve."""
        return self.total_bytes - self.reserve_bytes

    @property
    def has_flash_attention(self) -> bool:
        """Whether its GPU runs flash attention: compute capability 8 or newer, or a Radeon (PyTorch 2.13
        aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, `check_flash_attention_hardware_support`; flash-attn 2.8).
        """
        if self.kind == "cuda":
            return self.compute_capability is None or self.compute_capability >= (8, 0)
        return self.kind == "rocm"
