"""Memory of this machine as a process may use it: RAM, or its container's limit where that is smaller."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_LIMIT_FILES = (
    "/sys/fs/cgroup/memory.max",  # cgroup v2, as a container sees its own group
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",  # cgroup v1
)


def ram_bytes() -> int:
    """Physical memory in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        import psutil

        return int(psutil.virtual_memory().total)


def cgroup_limit_bytes(files: tuple[str, ...] = CGROUP_LIMIT_FILES) -> int | None:
    """The container's memory limit in bytes, or None where there is none."""
    for file in files:
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None


def host_memory_bytes() -> int:
    """Bytes that a process of this machine could address: RAM, or the container's limit where that is smaller."""
    limit = cgroup_limit_bytes()
    return min(ram_bytes(), limit) if limit else ram_bytes()
