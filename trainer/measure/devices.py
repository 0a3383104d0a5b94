"""The device a run uses and what it says about its memory, against the real APIs of cuda, mps and cpu."""

from __future__ import annotations

import errno
import platform
from typing import Any

import psutil
import torch

from planner.contract.edge import message_of
from planner.contract.errors import InvalidInput, NotModelled
from trainer.recovery import limits

OUT_OF_MEMORY_TEXTS = (
    "out of memory",  # CUDA, HIP, MPS, and cudaErrorMemoryAllocation that comes as a plain CUDA error
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS finds no room for its handle
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't allocate memory",  # DefaultCPUAllocator on Linux
    "not enough memory: you tried to allocate",  # and on Windows
    "std::bad_alloc",
    "Cannot allocate memory",  # the C library's words, wherever a library passes them on
    "unable to mmap",  # torch, for a file of weights
    "can't start new thread",  # Python: a stack didn't fit
    "ThreadPoolBuildError",  # tokenizers: likewise
    "memory allocation of",  # Rust
    "kIOGPUCommandBufferCallbackErrorOutOfMemory",
    "Invalid buffer size",  # Metal: one tensor larger than the largest buffer
    # On a MIG slice the caching allocator asks NVML for its report of the overflow, which may be refused there; what
    # arrives is that refusal (c10/cuda/CUDACachingAllocator.cpp).
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED",
)

LIMITED_TEXTS = (
    "could not create a primitive",  # oneDNN finds no room for a kernel's code
    "failed to map segment from shared object",  # the loader
    "resource temporarily unavailable",  # no thread could be made
)
"""Texts that mean it too, in a process whose memory is limited."""


def choose(name: str = "auto") -> torch.device:
    """`auto` takes cuda (also ROCm), then mps, then cpu; a named device that isn't there is refused."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(
            "--device cuda: this PyTorch sees no CUDA device; `python -m trainer doctor` says what it sees"
        )
    if name == "mps" and not torch.backends.mps.is_available():
        raise InvalidInput(
            "--device mps: this PyTorch has no Metal device; `python -m trainer doctor` says what it sees"
        )
    if name not in ("cuda", "mps", "cpu"):
        raise InvalidInput(f"--device {name!r} is unknown; choose auto, cuda, mps or cpu")
    return torch.device(name)


def check_precision(device: torch.device, precision: str, method: str, adapter_dtype: str) -> None:
    """Refuses precisions that the device or the optimizer can't carry, with the way out."""
    if precision.startswith("fp16") and device.type == "cpu":
        raise NotModelled(f"--precision {precision} needs a GPU: on cpu use bf16 or fp32")
    if precision == "fp16" and (method == "full" or adapter_dtype == "bf16"):
        raise NotModelled("--precision fp16 can't scale the loss of weights trained in half precision; use fp16-mixed")
    if precision.startswith("bf16") and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise NotModelled(
            f"--precision {precision}: {torch.cuda.get_device_name()} has no bf16; use fp16-mixed or fp32"
        )


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def allocated_peak_bytes(device: torch.device) -> int | None:
    """Bytes of live tensors: peak since the last reset on cuda, current on mps; the cpu keeps no such count."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.current_allocated_memory())
    return None


def device_bytes(device: torch.device) -> int:
    """Bytes the process holds on the device as the device's own tools show them; on cpu its resident memory."""
    if device.type == "cuda":
        used = nvml_process_bytes(device)
        return used if used is not None else int(torch.cuda.memory_reserved(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    return int(psutil.Process().memory_info().rss)


def nvml_process_bytes(device: torch.device) -> int | None:
    """This process's bytes by NVML, None where the driver doesn't tell (containers, ROCm, Windows)."""
    import os

    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid == os.getpid() and process.usedGpuMemory:
                    return int(process.usedGpuMemory)
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # any NVML failure only means that the driver doesn't tell
        return None
    return None


def reset_peaks(device: torch.device) -> None:
    """Starts a new peak where the device counts peaks."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, on whichever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = message_of(error).lower()
    if limits.limited() and any(part in text for part in LIMITED_TEXTS):
        return True
    # Of another kind than these, an error only quotes such words: a data file that holds them, say. Rust's panic
    # reaches Python as a BaseException.
    foreign = type(error).__name__ in ("PanicException", "SafetensorError")
    known = foreign or isinstance(error, (RuntimeError, ImportError, OSError))
    return known and any(part.lower() in text for part in OUT_OF_MEMORY_TEXTS)


def describe(device: torch.device) -> dict[str, Any]:
    """kind, title, total_bytes and driver of a device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "kind": "rocm" if torch.version.hip else "cuda",
            "title": properties.name,
            "total_bytes": int(properties.total_memory),
            "driver": torch.version.hip or torch.version.cuda or "",
            "compute_capability": [properties.major, properties.minor],
        }
    if device.type == "mps":
        return {
            "kind": "mps",
            "title": f"Apple {platform.processor() or platform.machine()}",
            "total_bytes": int(torch.mps.recommended_max_memory()),
            "driver": platform.mac_ver()[0],
        }
    return {
        "kind": "cpu",
        "title": platform.processor() or platform.machine(),
        "total_bytes": int(psutil.virtual_memory().total),
        "driver": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str]:
    """Versions of what a step's memory and speed depend on."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in (
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "datasets",
        "tokenizers",
        "safetensors",
        "bitsandbytes",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    from planner import __version__

    found["tuneplan"] = __version__
    return found


def check_count(device: torch.device, count: int) -> None:
    """Refuses to start more processes than there are devices; a cpu takes any number."""
    if count == 1 or device.type == "cpu":
        return
    if device.type == "mps":
        raise NotModelled("--num-gpus above 1: Metal has one device and no process group; plan for one device")
    there = torch.cuda.device_count()
    if count > there:
        raise InvalidInput(f"--num-gpus {count}: this machine has {there} CUDA device{'s' * (there != 1)}")
