"""What a person's environment tells PyTorch's caching allocator, and what of it a plan counts on."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from planner.contract.choices import TrainingChoices
from planner.contract.sentence import flag

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The name since PyTorch 2.9, and the one before, which is read where the first isn't set."""
EXPANDABLE = "expandable_segments"
COLLECT = "garbage_collection_threshold"
SHARE = "per_process_memory_fraction"
ALL_OF_IT = "0.999999"
"""A share of the card that takes nothing away, but lets PyTorch know what it may hold: without one it never collects
(`allowed_memory_maximum`, CUDACachingAllocator.cpp of 2.10 and newer; `set_fraction` before; read 2026-11).
"""
LOADING = "CUDA_MODULE_LOADING"
"""Whether kernels come to the card when they are first used, as PyTorch asks for unless this says EAGER (CUDA 11.7 and
newer, driver 515 and newer: CUDA programming guide, "Lazy Loading", read 2026-11)."""
NOT_MODELLED = ("max_split_size_mb", "roundup_power2_divisions", "max_non_split_rounding_mb", "large_segment_size_mb")
"""Settings that move what is reserved, by ways that no plan follows (c10/core/AllocatorConfig.h, 2.13)."""


def configure(choices: TrainingChoices, environment: MutableMapping[str, str]) -> None:
    """Tells the allocator what the plan counts on; what the person's own settings say about it stands."""
    wanted: dict[str, str] = {}
    if choices.expandable_segments:
        wanted[EXPANDABLE] = "True"
    if choices.garbage_collection_threshold is not None:
        wanted |= {COLLECT: f"{choices.garbage_collection_threshold:g}", SHARE: ALL_OF_IT}
    name = next((name for name in VARIABLES if environment.get(name)), VARIABLES[0])
    given = read(environment.get(name, ""))
    added = [f"{key}:{value}" for key, value in wanted.items() if key not in given]
    if added:
        environment[name] = ",".join([*filter(None, [environment.get(name, "").strip(",")]), *added])


def read(text: str) -> dict[str, str]:
    """The settings of such a variable; a list in brackets is one value."""
    found: dict[str, str] = {}
    depth, part = 0, ""
    for letter in f"{text},":
        depth += (letter == "[") - (letter == "]")
        if letter != "," or depth > 0:
            part += letter
            continue
        key, _, value = part.partition(":")
        if key.strip():
            found[key.strip()] = value.strip()
        part = ""
    return found


def remarks(choices: TrainingChoices, environment: Mapping[str, str]) -> list[str]:
    """A sentence for each setting of the environment that a plan of these choices does not count on."""
    said = []
    if environment.get(LOADING, "").upper() == "EAGER":
        said.append(
            f"{LOADING} is EAGER: all kernels are loaded at once, a context of 1 GiB and more that no plan counts"
        )
    name = next((name for name in VARIABLES if environment.get(name)), VARIABLES[0])
    given = read(environment.get(name, ""))
    if given.get(EXPANDABLE) == "True" and not choices.expandable_segments:
        said.append(f"{name} lets segments expand here; this plan is of those that don't: {flag(EXPANDABLE)}")
    if COLLECT in given and choices.garbage_collection_threshold is None:
        if given.get(EXPANDABLE) == "True":
            why = "PyTorch collects no segments that expand"
        elif SHARE not in given:
            why = "PyTorch collects only where torch.cuda.set_per_process_memory_fraction was called with less than 1"
        else:
            why = f"this plan counts on nothing of it: {flag(COLLECT)}"
        said.append(f"{name} sets {COLLECT} {given[COLLECT]}, and {why}")
    unknown = [key for key in NOT_MODELLED if key in given]
    if unknown:
        said.append(f"{name} sets {', '.join(unknown)}, which no plan models: reserved bytes will differ")
    if given.get("backend") == "cudaMallocAsync":
        said.append(f"{name} takes CUDA's own pool (cudaMallocAsync), whose reserved bytes no plan models")
    return [f"{one}." for one in said]
