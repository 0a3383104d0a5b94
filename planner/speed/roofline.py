"""Seconds of an optimizer step: each operation takes the longer of its arithmetic and its memory traffic.

time = sum over operations of max(FLOPs / (peak x efficiency), bytes / (bandwidth x efficiency)) (Williams et al. 2009,
doi:10.1145/1498765.1498785), plus a fixed time per kernel, and never less than the host needs to launch the kernels.
The efficiencies are rules with sources, not a fit of this machine: so every prediction carries a wide interval.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.records import SpeedReport
from planner.contract.sentence import joined, named
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.contract.units import DTYPE_BYTES
from planner.speed import own_runs, work
from planner.speed.operation import Operation, compute_dtype

HALF_SPAN = 480.0
"""Tokens of a row at which an attention kernel reaches half of what it does in long rows. FlashAttention-2, forward and
backward under a causal mask with heads of 128, goes from a third of an A100's peak at 512 tokens over a half at 2,048
to three fifths at 16,384 (arXiv:2307.08691, figure 4, read off)."""

HALF_DEPTH = 256.0
"""Summands of each output at which a product's kernel reaches half of its best: every tile fills the pipeline first and
is written out last, which takes as long as this many summands. Rule, with rows of 2,048 to 5,120 wide models in view
(benchmarks/accuracy/throughput.json)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Efficiency:
    """How much of a device's peak a training step gets, and what each kernel costs besides."""

    matmul: float
    attention: float
    bandwidth: float
    kernel_seconds: float
    """Start and drain of one kernel on the device."""
    launch_seconds: float
    """What the host (Python, autograd, driver) spends to launch one kernel; hidden while the device is busier."""
    link_bytes_per_second: float
    """Between devices, one direction."""
    half_span: float = HALF_SPAN
    half_depth: float = HALF_DEPTH


EXPECTED = Efficiency(
    matmul=0.78,
    attention=0.62,
    bandwidth=0.78,
    kernel_seconds=2e-6,
    launch_seconds=14e-6,
    link_bytes_per_second=20e9,
)
"""Middle of the rules below.

matmul: the best shapes reach 0.87 of an A100's dense peak (stas00/ml-engineering, compute/accelerator, Maximum
Achievable Matmul FLOPS, read 2026-11-27; other devices have a fact `sustained_arithmetic` where that table says less);
a training step's long products nine tenths of that, shorter ones see HALF_DEPTH. attention: of long rows, see
HALF_SPAN. bandwidth: rule, long streaming kernels reach 0.8 to 0.9 of the data sheet's figure, short ones less. kernel:
rule, 1 to 4 microseconds on the device. launch: what short steps of 1.8 to 14 billion parameters on an A100 and of 0.1
to 1.7 on a T4 took for each kernel counted here, Python and autograd included (benchmarks/accuracy/throughput.json,
tests/cases/measured_t4.json): 12 to 20 microseconds. link: rule, what PCIe 4.0 x16 moves of its 32 GB/s.
"""

SLOW = Efficiency(
    matmul=0.5,
    attention=0.35,
    bandwidth=0.55,
    kernel_seconds=4e-6,
    launch_seconds=30e-6,
    link_bytes_per_second=8e9,
)
"""Lower end of the interval: power-limited cards, unfavourable shapes, a slow host, PCIe 3.0."""

FAST = Efficiency(
    matmul=0.97,
    attention=0.87,
    bandwidth=0.92,
    kernel_seconds=1e-6,
    launch_seconds=4e-6,
    link_bytes_per_second=200e9,
)
"""Upper end of the interval: the best shapes, clocks above the data sheet's, fused element-wise kernels, NVLink."""

WITHOUT_FLASH = 0.5
"""Share of it that PyTorch's memory-efficient kernel reaches in 16 bit: all that cards before compute capability 8.0
have. The kernels of xformers are at about half of FlashAttention-2 in the same figures."""

OVERLAP = 4.0
"""Exponent by which the device's time and the launches' add up: parts of a step wait for the host though the whole does
not, and the other way round. The longer one alone would be infinity, one after the other 1."""

UNPACKING = 0.34
"""Share of what a streaming kernel reaches that bitsandbytes' 4-bit kernel does. LitGPT's resource tables (tutorials/
resource-tables.md, A100 40GB, 2023-10) differ by 9, 35, 79 and 191 ms a step between bf16 and nf4 for 1.3, 3.4, 6.7 and
12.8 billion weights, unpacked twice: 130 to 290 billion weights a second, 2.5 bytes each, of 1,555 GB/s."""

EXCHANGED = {"ddp": 2.0, "zero2": 3.0, "zero3": 1.0, "fsdp": 1.0}
"""Bytes exchanged at a reduction in sizes of the gradients (Rajbhandari et al. 2020, arXiv:1910.02054, sec. 7): an
all-reduce is two; ZeRO-2 as the trainer sets it all-reduces and then gathers what every rank updated."""
GATHERED = 2.0
"""Where weights are divided: how often a micro-batch gathers all of them, frozen ones too (forward and backward)."""


CPU_LAUNCH = 8.0 / 14.0
"""What launching takes where there is no driver in between."""


def sustained(efficiency: Efficiency, hardware: HardwareProfile) -> Efficiency:
    """The efficiencies on this device, whose power or clocks may not hold its data sheet's figures."""
    arithmetic, bandwidth = (
        float(fact.value) if (fact := hardware.facts.get(f"sustained_{name}")) is not None else 1.0
        for name in ("arithmetic", "bandwidth")
    )
    return replace(
        efficiency,
        matmul=efficiency.matmul * arithmetic,
        attention=efficiency.attention * arithmetic,
        bandwidth=efficiency.bandwidth * bandwidth,
        launch_seconds=efficiency.launch_seconds * (CPU_LAUNCH if hardware.kind == "cpu" else 1.0),
    )


def calibrated(efficiency: Efficiency, hardware: HardwareProfile) -> Efficiency:
    """The efficiencies as steps measured on this machine corrected them; the device's own without a calibration."""
    efficiency = sustained(efficiency, hardware)
    found = hardware.calibration
    if found is None or not found.applied or not found.speed:
        return efficiency
    arithmetic = found.speed.get("arithmetic", 1.0)
    bandwidth = found.speed.get("bandwidth", 1.0)
    launch = found.speed.get("launch", 1.0)
    return replace(
        efficiency,
        matmul=efficiency.matmul * arithmetic,
        attention=efficiency.attention * arithmetic,
        bandwidth=efficiency.bandwidth * bandwidth,
        kernel_seconds=efficiency.kernel_seconds * launch,
        launch_seconds=efficiency.launch_seconds * launch,
    )


def require_dtype(hardware: HardwareProfile, choices: TrainingChoices) -> None:
    """Raise NotModelled where the device has no arithmetic for `--precision` and would emulate it."""
    dtype = compute_dtype(choices)
    if dtype not in hardware.dtypes:
        usable = joined(", ", (named("precision") + f" {name}" for name in hardware.dtypes if name != dtype))
        raise NotModelled(f"{hardware.title} has no {dtype} arithmetic (emulated, speed unknown); use ", usable)


def step_seconds(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    batch_size: ArrayLike,
    length: ArrayLike,
    checkpointed_layers: ArrayLike,
    *,
    accumulation: ArrayLike | None = None,
    efficiency: Efficiency | None = None,
) -> NDArray[np.float64]:
    """Seconds of one optimizer step, all micro-batches included.

    The arrays broadcast to one shape: sequences per micro-batch, tokens per sequence, layers checkpointed, and
    micro-batches per step (default: `choices.gradient_accumulation_steps`). Without an `efficiency` of the caller's it
    is the expected one, corrected by what ran on this machine. Raises NotModelled for a dtype that the device emulates.
    """
    require_dtype(hardware, choices)
    corrects = efficiency is None
    if efficiency is None:
        efficiency = calibrated(EXPECTED, hardware)
    if accumulation is None:
        accumulation = choices.gradient_accumulation_steps
    batch, tokens, checkpointed, micro_batches = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (batch_size, length, checkpointed_layers, accumulation))
    )
    repeated = np.minimum(checkpointed / max(model.total_layers, 1), 1.0)
    device = np.zeros(batch.shape)
    kernels = np.zeros(batch.shape)
    fused = hardware.kind != "mps"  # PyTorch's MPS attention keeps the scores in training
    for operation in work.operations(model, choices, batch, tokens, fused_attention=fused):
        once = _seconds(operation, hardware, efficiency) * operation.copies
        again = repeated if operation.in_layer else 0.0
        device += once * (1.0 + operation.backward + again)
        kernels += operation.copies * _kernels(operation) + operation.copies * operation.kernels * again
    change = work.update(model, choices)
    rate = hardware.bandwidth_bytes_per_second * efficiency.bandwidth
    device += kernels * efficiency.kernel_seconds + change.accumulate_bytes / rate
    if choices.checkpoint_offload:
        device += _offload_seconds(model, choices, batch * tokens, checkpointed, efficiency)
    launches = kernels * efficiency.launch_seconds
    # A CPU has nobody to launch to: the same thread does both, one after the other.
    busy = device + launches if hardware.kind == "cpu" else (device**OVERLAP + launches**OVERLAP) ** (1 / OVERLAP)
    # The next unit's weights are fetched while this one runs.
    micro_batch = np.maximum(busy, _gather_seconds(model, choices, change, efficiency))
    finish = change.step_bytes / rate + change.kernels * efficiency.launch_seconds
    # Divided gradients of all weights are reduced at every micro-batch, all others once a step.
    reductions = micro_batches if choices.method == "full" and choices.strategy != "ddp" else 1.0
    seconds = micro_batches * micro_batch + finish + reductions * _exchange_seconds(choices, change, efficiency)
    return seconds * own_runs.factor(hardware, choices, seconds) if corrects else seconds


def predict(
    model: ModelSpec,
    hardware: HardwareProfile,
    choices: TrainingChoices,
    *,
    tokens_per_epoch: int | None = None,
) -> SpeedReport:
    """Speed of one configuration. Tokens are positions of the batch (padding included), over all devices.

    Raises NotModelled for a dtype that the device emulates.
    """
    checkpointed = choices.checkpointed_layers(model.total_layers)
    positions = choices.effective_batch_size * choices.max_length

    def seconds(efficiency: Efficiency | None) -> float:
        return float(
            step_seconds(
                model, hardware, choices, choices.batch_size, choices.max_length, checkpointed, efficiency=efficiency
            )
        )

    by_rule, expected = rule_seconds(model, hardware, choices), seconds(None)
    rate = positions / expected
    corrected = expected / by_rule
    slowest = seconds(sustained(SLOW, hardware)) * max(corrected, 1.0)
    fastest = seconds(sustained(FAST, hardware)) * min(corrected, 1.0)
    spread = own_runs.spread(hardware, choices, by_rule)
    found = hardware.calibration
    if spread is None and found is not None and found.applied:
        spread = found.speed.get("spread")
    if spread is not None:
        # Measured here: twice the deviation of the steps' times from what is predicted covers 95 of 100.
        factor = float(np.exp(2 * spread))
        slowest, fastest = expected * factor, expected / factor
    return SpeedReport(
        tokens_per_second=rate,
        step_seconds=expected,
        epoch_seconds=None if tokens_per_epoch is None else tokens_per_epoch / rate,
        model_flops_utilization=_utilization(model, hardware, choices, rate),
        interval_tokens_per_second=(positions / slowest, positions / fastest),
    )


def rule_seconds(model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices) -> float:
    """Seconds of one optimizer step before this machine's own runs correct them."""
    layers = choices.checkpointed_layers(model.total_layers)
    sizes = (choices.batch_size, choices.max_length, layers)
    return float(step_seconds(model, hardware, choices, *sizes, efficiency=calibrated(EXPECTED, hardware)))


def model_flops(model: ModelSpec, choices: TrainingChoices, length: int) -> float:
    """FLOPs per token that training needs, recomputation left out.

    Full fine-tuning: 6N + 12*L*H*Q*T as PaLM has it (arXiv:2204.02311, appendix B). With a frozen base the weight
    gradients fall away: 4N + 12*L*H*Q*T; the adapters' own share (below 1 %) is left out.
    """
    forward = float(work.model_flops_per_token(model, np.asarray(float(length))))
    attention = 4.0 * model.num_heads * model.head_dim * (model.num_layers + 2 * model.num_decoder_layers) * length
    products = forward - attention
    return (3.0 if choices.method == "full" else 2.0) * products + 3.0 * attention


def _utilization(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices, tokens_per_second: float
) -> float:
    """Model FLOPs utilization: needed FLOP/s over the devices' dense peak at the dtype of the products."""
    peak = hardware.flops_per_second[compute_dtype(choices)] * choices.num_gpus
    return tokens_per_second * model_flops(model, choices, choices.max_length) / peak


def _seconds(operation: Operation, hardware: HardwareProfile, efficiency: Efficiency) -> NDArray[np.float64]:
    """Device seconds of one forward pass of one copy."""
    moved = operation.bytes / (hardware.bandwidth_bytes_per_second * efficiency.bandwidth)
    if operation.engine == "dequantize":
        return moved / UNPACKING
    if operation.engine == "vector":
        return np.asarray(moved)
    best, half = efficiency.matmul, efficiency.half_depth
    if operation.engine == "attention":
        best, half = efficiency.attention, efficiency.half_span
        if operation.dtype != "fp32" and (hardware.compute_capability or (8, 0)) < (8, 0):
            best *= WITHOUT_FLASH
    share = best * operation.span / (operation.span + half) if np.any(operation.span) else best
    peak = hardware.flops_per_second.get(operation.dtype, hardware.flops_per_second["fp32"])
    return np.asarray(np.maximum(operation.flops / (peak * share), moved))


def _kernels(operation: Operation) -> float:
    """Kernels that forward and backward of one copy launch."""
    backward = min(operation.backward, 2.0) if operation.backward_kernels is None else operation.backward_kernels
    return operation.kernels * (1.0 + backward)


def _exchange_seconds(choices: TrainingChoices, change: work.UpdateWork, efficiency: Efficiency) -> float:
    """Seconds that several devices spend on one reduction of the gradients, not overlapped."""
    devices = choices.num_gpus
    if devices == 1:
        return 0.0
    volume = EXCHANGED[choices.strategy] * change.gradient_bytes * (devices - 1) / devices
    return volume / efficiency.link_bytes_per_second


def _gather_seconds(
    model: ModelSpec, choices: TrainingChoices, change: work.UpdateWork, efficiency: Efficiency
) -> float:
    """Seconds that one micro-batch's weights take over the link where no device holds them whole."""
    devices = choices.num_gpus
    if devices == 1 or choices.strategy not in ("fsdp", "zero3"):
        return 0.0
    size = work.stored_bytes(choices)
    adapters = 0.0 if choices.method == "full" else change.gradient_bytes
    volume = GATHERED * (float(model.parameters) * size + adapters) * (devices - 1) / devices
    return volume / efficiency.link_bytes_per_second


def _offload_seconds(
    model: ModelSpec,
    choices: TrainingChoices,
    tokens: NDArray[np.float64],
    checkpointed: NDArray[np.float64],
    efficiency: Efficiency,
) -> NDArray[np.float64]:
    """Seconds of moving the checkpointed layers' inputs to host memory and back over the device's link."""
    size = DTYPE_BYTES[compute_dtype(choices)]
    return 2.0 * tokens * checkpointed * model.hidden_size * size / min(efficiency.link_bytes_per_second, 25e9)
