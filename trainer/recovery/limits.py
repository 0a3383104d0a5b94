"""What bounds this process's host memory, without torch: limits of the process, of the system, of its memory cgroup."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.contract.errors import RunFailed

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h
LARGE = 2**20
"""From so many bytes on, a tensor's memory goes back to the system at once."""
WIDE = 16 * 2**30
"""Under a limit of so many bytes and more, address space isn't saved."""


def limits() -> tuple[int, ...]:
    """Bytes of address space and of data that this process may map, as far as they are bounded."""
    try:
        import resource
    except ImportError:  # Windows
        return ()
    found = []
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            found.append(soft)
    return tuple(found)


@functools.cache
def _promises_only_what_it_has() -> bool:
    """Whether the system refuses memory that it couldn't back (vm.overcommit_memory=2)."""
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return False


def limited() -> bool:
    """Whether malloc can fail here before the machine is full."""
    return bool(limits()) or _promises_only_what_it_has()


def has(count: int, beside: int = 0) -> bool:
    """Whether malloc would give `count` bytes now, and the system `beside` new ones as well; nothing stays taken."""
    libc = _libc()
    taken = libc.malloc(max(count, 1)) if libc is not None else None
    if libc is not None and not taken:
        return False
    try:
        # Where malloc can't be asked, from the system: less than what there is, as malloc keeps some of what was freed.
        wanted = beside if libc is not None else beside + count
        mmap.mmap(-1, max(wanted, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError, ValueError, OverflowError):
        return False
    finally:
        if libc is not None:
            libc.free(taken)
    return True


@functools.cache
def _libc() -> Any:
    """The C library with malloc, free and glibc's additions; None where it isn't to be had."""
    try:
        libc = ctypes.CDLL(None)
        libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    except (OSError, AttributeError, TypeError):  # Windows
        return None
    return libc


LIBRARIES = 384 * 2**20
"""Bytes that Python, torch and transformers take before a model is loaded (388 MiB, torch 2.13 on Linux)."""


def prepare() -> None:
    """Before the libraries are loaded: under a narrow limit, address space is saved where it would be wasted.

    Raises RunFailed where the memory cgroup would end the process while it loads them.
    """
    group = cgroup()
    if group is not None and group.limit - group.held < LIBRARIES:
        free, all_of_it = (max(0, count) >> 20 for count in (group.limit - group.held, group.limit))
        raise RunFailed(
            f"out of memory: this process's memory cgroup has {free} of {all_of_it} MiB left, and the libraries take "
            f"{LIBRARIES >> 20} before any model is loaded; give the container more"
        )
    bounds = [*limits(), *([group.limit] if group is not None else [])]
    if min(bounds, default=WIDE) >= WIDE:
        return
    with contextlib.suppress(AttributeError):
        # One arena for all threads: each of its own would take 64 MiB.
        _libc().mallopt(M_ARENA_MAX, 1)
        if limits():
            # By itself malloc soon keeps pieces of up to 32 MiB, and what a tensor leaves between two small ones is of
            # no use to the next larger one: with 145 MiB to spare a step then fitted no longer that fits in 115.
            _libc().mallopt(M_MMAP_THRESHOLD, LARGE)
    # Arrow's own allocator, which training has no use for, begins by reserving a gigabyte.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    # Threads that are made in the middle of the work, and without which it ends.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")


def trim() -> None:
    """Gives the system back what malloc keeps of freed memory; does nothing where malloc isn't glibc's."""
    with contextlib.suppress(AttributeError):
        _libc().malloc_trim(0)


# ---- the memory cgroup ---------------------------------------------------------------------------------------------


ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryGroup:
    """The tightest memory cgroup that this process is in."""

    folder: Path
    limit: int
    """Bytes at which the kernel ends a process of the group with SIGKILL."""
    held: int
    """Bytes that the group holds and can't drop: all but the cache of files."""


def cgroup(root: Path = ROOT, own: Path = OWN) -> MemoryGroup | None:
    """The group with the least room of those that this process is in; None where none has a limit."""
    found = []
    for folder in folders(root, own):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        held = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is None or held is None or limit >= 2**60:  # what v1 says for "no limit"
            continue
        table = _table(folder / "memory.stat")
        prefix = "total_" if "total_inactive_file" in table else ""
        cache = table.get(f"{prefix}inactive_file", 0) + table.get(f"{prefix}active_file", 0)
        found.append(MemoryGroup(folder=folder, limit=limit, held=max(0, held - cache)))
    return min(found, key=lambda group: group.limit - group.held, default=None)


def folders(root: Path = ROOT, own: Path = OWN) -> Iterator[Path]:
    """This process's memory groups, from its own to the outermost that is to be seen."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        folder = top / path.lstrip("/")
        # A container often sees its own group as the outermost, under a path that only its host knows.
        folder = folder if folder.is_dir() else top
        while True:
            yield folder
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _table(file: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    with contextlib.suppress(OSError):
        pairs = (line.split() for line in file.read_text().splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
    return {}


def kills() -> int:
    """How often the kernel has ended a process of this one's own memory group for want of memory, whoever ran short;
    where no group tells, a process of this machine.
    """
    for folder in folders():
        for name in ("memory.events", "memory.oom_control"):
            count = _table(folder / name).get("oom_kill")
            if count is not None:
                return count
    return _table(Path("/proc/vmstat")).get("oom_kill", 0)


MARGIN = 0.03
"""Share of a group's limit that is left to page tables, stacks and what libraries have mapped but not touched yet."""
LEAST_MARGIN = 64 * 2**20


@contextlib.contextmanager
def fenced(processes: int = 1) -> Iterator[int | None]:
    """Within the block this process may map no more data than its memory cgroup has room for, so that a shortage is
    malloc's answer instead of a SIGKILL. Yields those bytes, None where nothing bounds them or the system isn't Linux.

    `processes`: how many share the room.
    """
    group = cgroup()
    mapped = _table_kib(Path("/proc/self/status")).get("VmData")
    if group is None or mapped is None:
        yield None
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    margin = max(LEAST_MARGIN, int(MARGIN * group.limit))
    room = max(LEAST_MARGIN, (group.limit - group.held - margin) // processes)
    bounds = [bound for bound in (*before, mapped + room) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), before[1]))
    try:
        yield room
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _table_kib(file: Path) -> dict[str, int]:
    """Bytes by name from lines such as `VmData:  600 kB`."""
    with contextlib.suppress(OSError):
        parts = (line.replace(":", " ").split() for line in file.read_text().splitlines())
        return {part[0]: int(part[1]) * 1024 for part in parts if len(part) == 3 and part[2] == "kB"}
    return {}
