"""`plan doctor`: what this machine has. Versions are read from package metadata; nothing heavy is imported."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

from planner.contract.errors import TuneplanError
from planner.contract.units import format_bytes

CORE = ("tuneplan", "numpy", "scipy", "pydantic", "rich", "textual", "typer", "nvidia-ml-py", "psutil")
EXTRAS = {
    "train": ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tensorboard"),
    "quant": ("bitsandbytes",),
    "plot": ("matplotlib",),
    "data": ("tokenizers", "pyarrow"),
}


def report() -> dict[str, Any]:
    """Versions (None: not installed), the device that `--gpu auto` means, and free disk space here."""
    from planner import hardware

    device: dict[str, Any]
    try:
        found = hardware.detect()
        device = {
            "profile": found.profile.name,
            "title": found.title,
            "total_bytes": found.total_bytes,
            "used_by_others_bytes": found.used_by_others_bytes,
            "reserve_bytes": found.profile.reserve_bytes,
            "dtypes": list(found.profile.dtypes),
            "note": found.note,
        }
    except TuneplanError as error:
        device = {"error": str(error)}
    return {
        "schema": "tuneplan.doctor/1",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in CORE},
        "extras": {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
        "device": device,
        "free_disk_bytes": shutil.disk_usage(".").free,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def run(*, as_json: bool) -> int:
    """Prints the report."""
    found = report()
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    from planner.report.words import make_console

    console = make_console()
    console.print(f"Python {found['python']} on {found['platform']}")
    console.print(_line("core", found["versions"]))
    for extra, versions in found["extras"].items():
        console.print(_line(extra, versions))
    device = found["device"]
    if "error" in device:
        console.print(f"device: {device['error']}", style="red")
    else:
        console.print(
            f"device: {device['title']}, {format_bytes(device['total_bytes'])}, "
            f"{format_bytes(device['used_by_others_bytes'])} held by others; profile {device['profile']}"
        )
        if device["note"]:
            console.print(device["note"], style="dim")
    console.print(f"free disk here: {format_bytes(found['free_disk_bytes'])}")
    missing = [name for name, version in found["extras"]["train"].items() if version is None]
    if missing:
        print(f"plan: training needs {', '.join(missing)}: pip install 'tuneplan[train]'", file=sys.stderr)
    return 0


def _line(title: str, versions: dict[str, str | None]) -> str:
    return f"{title}: " + ", ".join(f"{name} {version or '–'}" for name, version in versions.items())
