"""Packs what a GPU machine without a network may lack, as wheels; `gpu.py --wheels DIR` takes what it has to.

    python benchmarks/gpu_wheels.py --out DIR [--python 3.12] [--platform manylinux_2_28_x86_64] [--with NAME …]

Versions are those of constraints.txt. torch and transformers, and what they bring, are taken to be there; whatever a
wheel asks for beside that must be packed too, and is named where it isn't. Nothing is installed: a wheel is an archive,
which is unpacked into a folder of its own on the path.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKED = (
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "PyYAML", "psutil"),
    *("peft", "accelerate", "bitsandbytes", "trl", "datasets", "pyarrow", "dill", "multiprocess", "xxhash", "pandas"),
    *("python-dateutil", "six", "pytz", "tzdata", "platformdirs", "nvidia-ml-py", "jinja2", "MarkupSafe"),
)
THERE = {
    *("torch", "transformers", "numpy", "packaging", "safetensors", "tokenizers", "huggingface-hub", "regex", "tqdm"),
    *("requests", "httpx", "filelock", "fsspec", "setuptools", "sympy", "networkx", "triton", "typer", "aiohttp"),
}
"""What torch 2.11 and transformers 5.17 bring along, with what huggingface-hub and fsspec[http] do."""


def plain(name: str) -> str:
    """A distribution's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pack(out: Path, python: str, platforms: list[str], names: list[str]) -> list[str]:
    """Downloads the wheels, without what they depend on; names those that there is none of."""
    out.mkdir(parents=True, exist_ok=True)
    options = ["--only-binary=:all:", "--no-deps", "--python-version", python, "--implementation", "cp", "-d", str(out)]
    for platform in platforms:
        options += ["--platform", platform]
    failed = []
    for name in names:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *options]
        for constraints in (["-c", str(ROOT / "constraints.txt")], []):
            done = subprocess.run([*command, *constraints, name], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
        else:
            failed.append(f"{name}: {done.stderr.strip().splitlines()[-1:]}")
    return failed


def name_of(wheel: Path) -> str:
    """The distribution in a wheel's file name."""
    return plain(wheel.name.split("-")[0])


def wanted_by(wheel: Path) -> set[str]:
    """What a wheel asks for without extras; markers on other systems and older Pythons are passed over."""
    with zipfile.ZipFile(wheel) as archive:
        entry = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = HeaderParser().parsestr(archive.read(entry).decode("utf-8", "replace"))
    found = set()
    for line in told.get_all("Requires-Dist") or []:
        requirement, _, marker = line.partition(";")
        elsewhere = re.search(r"extra\s*==|python_version\s*<|python_full_version\s*<|win32|Windows|emscripten", marker)
        match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
        if match and not elsewhere:
            found.add(plain(match[1]))
    return found


def lacking(folder: Path) -> list[str]:
    """`X wants Y`, for all that is neither packed nor there."""
    wheels = sorted(folder.glob("*.whl"))
    have = {name_of(wheel) for wheel in wheels} | {plain(name) for name in THERE}
    return [f"{name_of(wheel)} wants {other}" for wheel in wheels for other in sorted(wanted_by(wheel) - have)]


def unpack_missing(folder: Path, site: Path) -> list[str]:
    """Unpacks the wheels of what this Python doesn't have into `site`; their names."""
    taken = []
    site.mkdir(parents=True, exist_ok=True)
    for wheel in sorted(folder.glob("*.whl")):
        name = name_of(wheel)
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
            taken.append(name)
    return taken


def main() -> int:
    """Packs, then says what is there and what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--python", default="3.12")
    platforms = ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64"]
    platforms += ["manylinux_2_17_x86_64", "manylinux2014_x86_64"]
    parser.add_argument("--platform", nargs="+", default=platforms)
    parser.add_argument("--with", nargs="+", default=[], dest="more", help="further packages")
    parser.add_argument("--without", nargs="+", default=[], help="packages to leave out")
    given = parser.parse_args()
    left_out = {plain(name) for name in given.without}
    names = [name for name in (*PACKED, *given.more) if plain(name) not in left_out]
    failed = pack(given.out, given.python, given.platform, names)
    wheels = sorted(given.out.glob("*.whl"))
    for wheel in wheels:
        print(f"{wheel.stat().st_size / 2**20:8.1f} MiB  {wheel.name}")
    print(f"{sum(wheel.stat().st_size for wheel in wheels) / 2**20:8.1f} MiB  in {len(wheels)} wheels")
    for line in (*failed, *lacking(given.out)):
        print(f"gpu_wheels: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
