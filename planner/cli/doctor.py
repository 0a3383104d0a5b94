"""`plan doctor`: what this machine has. Versions are read from package metadata; nothing heavy is imported."""

from __future__ import annotations

import platform
import shutil
from importlib import metadata
from typing import TypedDict

from planner.cli.talk import print_json, say
from planner.contract import process
from planner.contract.errors import TuneplanError
from planner.contract.units import format_bytes

CORE = ("tuneplan", "numpy", "scipy", "pydantic", "rich", "textual", "typer", "nvidia-ml-py", "psutil")
EXTRAS = {
    "train": ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tensorboard"),
    "quant": ("bitsandbytes",),
    "plot": ("matplotlib",),
    "gguf": ("gguf",),
    "data": ("tokenizers", "pyarrow"),
}


class _Package(TypedDict):
    """One of our top-level names, as this environment has it."""

    distributions: list[str]
    loaded_from: str | None


class _Device(TypedDict, total=False):
    """The device, or why there is none."""

    profile: str
    title: str
    total_bytes: int
    used_by_others_bytes: int
    reserve_bytes: int
    dtypes: list[str]
    note: str
    error: str


class _Machine(TypedDict):
    """What `--json` prints."""

    schema: str
    python: str
    platform: str
    versions: dict[str, str | None]
    extras: dict[str, dict[str, str | None]]
    packages: dict[str, _Package]
    device: _Device
    free_disk_bytes: int


def report() -> _Machine:
    """Versions (None: not installed), the device that `--gpu auto` means, and free disk space here."""
    from planner.calibration import attach

    device: _Device
    try:
        found = attach.detect()
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
        "packages": _packages(),
        "device": device,
        "free_disk_bytes": shutil.disk_usage(".").free,
    }


def _packages() -> dict[str, _Package]:
    """For each of our top-level names which installed distributions own it, and the file that is loaded instead of ours
    (None: ours).
    """
    owners = metadata.packages_distributions()
    elsewhere = process.others()
    found: dict[str, _Package] = {}
    for name in process.PACKAGES:
        names = sorted({str(owner) for owner in owners.get(name, ())})
        found[name] = {"distributions": names, "loaded_from": elsewhere.get(name)}
    return found


def _clashes(packages: dict[str, _Package]) -> list[str]:
    """One sentence for each name that isn't ours alone."""
    said = []
    for name, found in packages.items():
        strangers = [owner for owner in found["distributions"] if owner.lower() != "tuneplan"]
        if strangers:
            said.append(
                f"the package {name} also belongs to {', '.join(strangers)}: one has overwritten files of the other; "
                f"install tuneplan into an environment of its own"
            )
        if found["loaded_from"] is not None:
            said.append(f"{name} is found at {found['loaded_from']}, which is not tuneplan's; rename or move it")
    return said


def version_line() -> str:
    """Version, Python, system, and what decides a figure: for a bug report. Nothing heavy is imported."""
    from planner import __version__

    names = (*EXTRAS["train"][:4], *EXTRAS["quant"])
    found = [f"{name} {version}" for name in names if (version := _version(name)) is not None]
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"tuneplan {__version__} ({', '.join([system, *found])})"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def run(*, as_json: bool) -> int:
    """Prints the report."""
    found = report()
    if as_json:
        print_json(found)
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
    for clash in _clashes(found["packages"]):
        console.print(clash, style="red")
    console.print(f"free disk here: {format_bytes(found['free_disk_bytes'])}")
    missing = [name for name, version in found["extras"]["train"].items() if version is None]
    if missing:
        say(f"training needs {', '.join(missing)}: pip install 'tuneplan[train]'")
    return 0


def _line(title: str, versions: dict[str, str | None]) -> str:
    return f"{title}: " + ", ".join(f"{name} {version or '–'}" for name, version in versions.items())
