"""Which device a plan is for: by name, or found on this machine (NVML on NVIDIA, sysctl on a Mac, else the CPU).

Finding starts no CUDA context and imports no torch. A card without a profile gets one built from what NVML tells, with
a note of what is only an estimate.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.sentence import named
from planner.contract.spec import Fact, HardwareProfile
from planner.contract.units import GIB, MIB, counted, format_bytes
from planner.devices import apple, profiles
from planner.devices.host import cgroup_limit_bytes, host_memory_bytes

MEMORY_TOLERANCE = 0.06
"""Share by which a card's memory may differ from its profile's before a note says so: ECC and driver vary within it."""

TENSOR_RATE = {(7, 0): 8, (7, 5): 4, (8, 0): 16, (8, 6): 2, (8, 7): 2, (8, 9): 2, (9, 0): 14, (10, 0): 28, (12, 0): 2}
"""Dense fp16 matrix FLOP/s over plain fp32 FLOP/s by compute capability: the lowest ratio among the known cards."""

TF32_RATE = {(8, 0): 8, (9, 0): 7, (10, 0): 13}
"""Dense TF32 over plain fp32; 1 on every other card from compute capability 8 on."""

CPU_PROFILE_CORES = 8
"""Cores that the arithmetic of the `cpu` profile stands for."""

UNKNOWN_CONTEXT_BYTES = round(0.45 * GIB)
"""CUDA context of a card without a profile: middle of the 0.13 to 0.75 GiB that the profiles cite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detected:
    """The device of this machine, with what is really there now."""

    profile: HardwareProfile
    """The matching profile with this machine's real memory in `total_bytes`."""
    title: str
    """The device as the machine names it."""
    total_bytes: int
    """Bytes that a process could address if nobody else held any."""
    used_by_others_bytes: int
    """Bytes that are held now by other processes (and on shared memory by the system)."""
    note: str = ""
    """What of the profile is unknown or differs on this machine; empty when nothing does."""


def find(name: str) -> HardwareProfile:
    """The profile of a device by name or alias; `auto` is this machine's. Raises InvalidInput with near names."""
    if name.strip().lower() == "auto":
        return detect().profile
    stem = profiles.resolve(name)
    if stem is None:
        raise InvalidInput(
            f"unknown GPU {name!r}{_suggestion(name)} (`plan gpus` lists all, `",
            named("gpu"),
            " auto` is this machine)",
        )
    return _this_cpu() if stem == "cpu" else profiles.load(stem)


def near_names(name: str, count: int = 3) -> tuple[str, ...]:
    """Profile names that resemble `name`, the nearest first."""
    written = {profiles.normalise(key): stem for key, stem in profiles.known_names().items()}
    wanted = profiles.normalise(name)
    starts = sorted(key for key in written if wanted and key.startswith(wanted))
    close = get_close_matches(wanted, written, n=4 * count, cutoff=0.65)
    return tuple(dict.fromkeys(written[key] for key in [*starts, *close]))[:count]


def detect() -> Detected:
    """This machine's device: the first visible NVIDIA card, else an Apple GPU, else the CPU."""
    found = _detect_nvidia()
    if found is None and sys.platform == "darwin":
        found = _detect_mac()
    return found or _detect_cpu()


def _suggestion(name: str) -> str:
    near = near_names(name)
    if not near:
        return ""
    return f"; did you mean {near[0]}?" if len(near) == 1 else f"; did you mean {', '.join(near[:-1])} or {near[-1]}?"


# --------------------------------------------------------------------------------------------------------------------
# NVIDIA


def _detect_nvidia() -> Detected | None:
    """The first card that CUDA would see, or None without a driver or card."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = _first_visible(pynvml)
        return None if handle is None else _describe_nvidia(pynvml, handle)
    except pynvml.NVMLError as error:
        raise NotModelled(
            f"the NVIDIA driver does not answer ({error}); name the card with ", named("gpu"), " instead of auto"
        ) from error
    finally:
        pynvml.nvmlShutdown()


def _first_visible(nvml: ModuleType) -> Any | None:
    """Handle of CUDA's device 0: the first in CUDA_VISIBLE_DEVICES, else the first card; None when all are hidden."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        entry = visible.split(",")[0].strip()
        if entry in ("", "-1", "NoDevFiles"):
            return None
        if not entry.isdigit():
            return nvml.nvmlDeviceGetHandleByUUID(entry)
        return nvml.nvmlDeviceGetHandleByIndex(int(entry))
    return nvml.nvmlDeviceGetHandleByIndex(0) if nvml.nvmlDeviceGetCount() else None


def _describe_nvidia(nvml: ModuleType, handle: object) -> Detected:
    title = nvml.nvmlDeviceGetName(handle)
    title = title.decode() if isinstance(title, bytes) else str(title)
    total, used = _nvml_memory(nvml, handle)
    stem = profiles.resolve(f"{title} {round(total / GIB)}GB") or profiles.resolve(title)
    if stem is None:
        return _unknown_nvidia(nvml, handle, title, total, used)
    profile = profiles.load(stem)
    notes = []
    if abs(total - profile.total_bytes) > MEMORY_TOLERANCE * profile.total_bytes:
        notes.append(
            f"this card has {format_bytes(total)}, the profile {stem} {format_bytes(profile.total_bytes)}: memory is "
            "taken from the card, speed from the profile (another variant, or a MIG slice, may be slower)"
        )
    return Detected(
        profile=replace(profile, total_bytes=total),
        title=title,
        total_bytes=total,
        used_by_others_bytes=used,
        note="; ".join(notes),
    )


def _nvml_memory(nvml: ModuleType, handle: object) -> tuple[int, int]:
    """Total that CUDA can hand out and bytes in use, in bytes.

    The second form of NVML's memory info separates what the driver keeps for itself (several hundred MiB): total -
    reserved is what CUDA reports as the card's total. The first form, on old drivers, counts it as total and as used.
    What is held is taken from the free bytes, because drivers differ in whether `used` includes the reserved ones
    (docs.nvidia.com/deploy, nvmlMemory_v2_t of R525 and R590).
    """
    try:
        info = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        total = int(info.total - info.reserved)
    except (nvml.NVMLError, AttributeError, TypeError):
        info = nvml.nvmlDeviceGetMemoryInfo(handle)
        total = int(info.total)
    return total, max(0, total - int(info.free))


def _unknown_nvidia(nvml: ModuleType, handle: object, title: str, total: int, used: int) -> Detected:
    """A profile from NVML alone: clocks times units, with the lowest rates of the card's compute capability."""
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    cores = nvml.nvmlDeviceGetNumGpuCores(handle)
    clock = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6
    memory_clock = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6
    bus_bits = nvml.nvmlDeviceGetMemoryBusWidth(handle)
    fp32 = 2.0 * cores * clock
    flops = {"fp32": fp32, "fp16": fp32 * TENSOR_RATE.get((major, minor), 1)}
    dtypes: tuple[str, ...] = ("fp32", "fp16")
    if major >= 8:
        flops |= {"bf16": flops["fp16"], "tf32": fp32 * TF32_RATE.get((major, minor), 1)}
        dtypes = ("fp32", "bf16", "fp16")
    source = "NVML on this machine"
    facts = {
        "total_memory": Fact(value=total, unit="B", source=source, date="now"),
        "bandwidth": Fact(
            value=2 * memory_clock * bus_bits / 8 / 1e9,
            unit="GB/s",
            source=f"{source}: 2 x clock x bus width",
            date="now",
        ),
        "context": Fact(
            value=UNKNOWN_CONTEXT_BYTES,
            unit="B",
            source="estimate: middle of the known cards' 0.13 to 0.75 GiB",
            date="now",
        ),
    }
    for dtype, rate in flops.items():
        facts[f"flops_{dtype}"] = Fact(
            value=rate / 1e12,
            unit="TFLOP/s",
            source=f"{source}: cores x 2 x clock, times the lowest matrix rate known for its compute capability",
            date="now",
        )
    profile = HardwareProfile(
        name=profiles.normalise(title),
        title=title,
        kind="cuda",
        total_bytes=total,
        context_bytes=UNKNOWN_CONTEXT_BYTES,
        reserve_bytes=768 * MIB,
        bandwidth_bytes_per_second=profiles.amount(facts["bandwidth"]),
        flops_per_second=flops,
        dtypes=dtypes,
        compute_capability=(major, minor),
        cublas_workspace_bytes=32 * MIB if major >= 9 else 8519680,
        facts=facts,
    )
    note = (
        f"no profile for {title}: memory and clocks come from NVML, matrix speed is a lower bound, "
        "the CUDA context an estimate"
    )
    return Detected(profile=profile, title=title, total_bytes=total, used_by_others_bytes=used, note=note)


# --------------------------------------------------------------------------------------------------------------------
# Apple


def _sysctl(key: str) -> str:
    """One value of macOS's sysctl, empty when the key is unknown."""
    try:
        answer = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()


def _detect_mac() -> Detected | None:
    """The Apple GPU by the chip's name and the RAM, or None on a Mac with another processor."""
    chip = _sysctl("machdep.cpu.brand_string")
    memory_text = _sysctl("hw.memsize")
    if not chip.startswith("Apple ") or not memory_text.isdigit():
        return None
    limit_text = _sysctl("iogpu.wired_limit_mb")
    limit = int(limit_text) * MIB if limit_text.isdigit() else 0
    return mac_from_facts(chip, int(memory_text), limit, apple.live())


def mac_from_facts(
    chip: str, memory_bytes: int, wired_limit_bytes: int = 0, metal: tuple[int, int] | None = None
) -> Detected | None:
    """The Apple GPU for a chip as sysctl names it (`Apple M3 Pro`), its RAM in bytes and a GPU limit that was set (0:
    none); `metal`: working set and largest buffer as the system says (`apple.live`).

    None when the chip is no M-series one.
    """
    size = round(memory_bytes / GIB)
    title = f"{chip}, {size} GB"
    stem = profiles.resolve(f"{chip} {size}GB")
    note = ""
    if stem is None:
        stem = _nearest_mac(chip)
        if stem is None:
            return None
        note = f"no profile for {title}: speed is that of {profiles.load(stem).title}, memory is this machine's"
    profile = profiles.load(stem)
    total, largest = apple.working_set(memory_bytes)[0], 0
    if wired_limit_bytes:
        total = min(wired_limit_bytes, memory_bytes)
        note = f"{note}; " * bool(note) + f"the GPU limit was set to {format_bytes(total)} (iogpu.wired_limit_mb)"
    if metal is not None:  # what the system says now goes before any table
        total, largest = min(metal[0], memory_bytes), metal[1]
    reserved = round(profiles.amount(profile.facts["system_reserve"]))
    total, reserve = apple.split(memory_bytes, total, reserved)
    used = max(0, total - _available_bytes())
    return Detected(
        profile=replace(
            profile,
            total_bytes=total,
            reserve_bytes=reserve,
            largest_buffer_bytes=largest or apple.largest_buffer(total),
        ),
        title=title,
        total_bytes=total,
        used_by_others_bytes=used,
        note=note,
    )


def _nearest_mac(chip: str) -> str | None:
    """A profile of the same chip with other RAM, else of the newest known chip of its tier; None if no M chip."""
    words = chip.removeprefix("Apple ").split()
    if not words or words[0][:1] != "M" or not words[0][1:].isdigit():
        return None
    tier = f" {words[1]}" if len(words) > 1 else ""
    for generation in range(min(int(words[0][1:]), 4), 0, -1):
        stem = profiles.resolve(f"M{generation}{tier}")
        if stem is not None:
            return stem
    return None


# --------------------------------------------------------------------------------------------------------------------
# CPU


def _available_bytes() -> int:
    """Bytes that a new process could take now without swapping, within the container's limit."""
    import psutil

    available = int(psutil.virtual_memory().available)
    limit = cgroup_limit_bytes()
    if limit is None:
        return available
    held = cgroup_limit_bytes(("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")) or 0
    return min(available, max(0, limit - held))


def _usable_cores() -> int:
    """Physical cores that this process may run on."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, min(cores, len(affinity(0)))) if affinity else max(1, cores)


def _has_bf16_units() -> bool:
    """Whether the processor names bf16 instructions; False where it can't be asked."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _this_cpu() -> HardwareProfile:
    """The `cpu` profile with this machine's memory, its eight cores scaled to the number that is here."""
    profile = profiles.load("cpu")
    share = _usable_cores() / CPU_PROFILE_CORES
    flops = {dtype: rate * share for dtype, rate in profile.flops_per_second.items()}
    if _has_bf16_units():
        flops["bf16"] = flops["fp32"]
    return replace(profile, total_bytes=host_memory_bytes(), flops_per_second=flops)


def _detect_cpu() -> Detected:
    profile = _this_cpu()
    total = profile.total_bytes
    return Detected(
        profile=profile,
        title=f"CPU with {counted(_usable_cores(), 'core')}",
        total_bytes=total,
        used_by_others_bytes=max(0, total - _available_bytes()),
        note="no GPU found; the CPU's speed is a modest estimate, not a measurement (`plan calibrate` measures it)",
    )
