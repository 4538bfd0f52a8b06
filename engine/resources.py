"""The memory and the processors that this process may use: the smallest of all limits that the system sets.

Batch systems and containers set limits that the machine as a whole does not show: control groups (cgroups of both
versions, each of whose parents may be tighter), `ulimit`, and processor affinity. Every function takes the root of the
file tree that contains `/proc` and the cgroups.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
import resource
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from saematch.errors import NotEnoughMemory

# One tile of products, which is still in the cache of a CPU when it is searched.
BLOCK_BYTES = 2**23
_ROOT = Path("/")
_KB = 1024


def available_memory(root: Path = _ROOT) -> int:
    """Return the bytes that this process can still allocate without swapping.

    They are the minimum of what the machine, every cgroup of the process, and `ulimit -v` and `-d` leave, or half of
    the machine's memory if the system reports none of these.

    >>> available_memory() > 0
    True
    """
    left = [*_of_machine(root), *_of_cgroups(root), *_of_process(root)]
    return max(0, min(left, default=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2))


def processors(root: Path = _ROOT) -> int:
    """Return the number of processors that this process may use.

    It is the minimum of its processor affinity and the quotas of its cgroups, rounded up.

    >>> processors() >= 1
    True
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *_quotas(root)]))


def _of_machine(root: Path) -> Iterator[int]:
    meminfo = _table(root / "proc/meminfo")
    if "MemAvailable" in meminfo:
        yield meminfo["MemAvailable"] * _KB
    if _number(root / "proc/sys/vm/overcommit_memory") == 2 and "CommitLimit" in meminfo:
        yield (meminfo["CommitLimit"] - meminfo.get("Committed_AS", 0)) * _KB


def _of_cgroups(root: Path) -> Iterator[int]:
    """Yield the limit of each cgroup less its use. Cached files do not count as used, as for the machine."""
    for folder in _cgroups(root, "memory"):
        stat = _table(folder / "memory.stat")
        names = (
            ("total_inactive_file", "total_active_file")
            if "total_inactive_file" in stat
            else ("inactive_file", "active_file", "slab_reclaimable")
        )
        cached = sum(stat.get(name, 0) for name in names)
        for limit, usage in (
            ("memory.max", "memory.current"),
            ("memory.high", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            most, used = _number(folder / limit), _number(folder / usage)
            if most is not None:
                yield most - max(0, (used or 0) - cached)


def _of_process(root: Path) -> Iterator[int]:
    """Yield `ulimit -v` and `ulimit -d`, less the memory that the process has mapped."""
    status = _table(root / "proc/self/status")
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            yield most - status.get(used, 0) * _KB


def refuse_little_room(least: int) -> None:
    """Raise `NotEnoughMemory` if `ulimit -v` or `-d` leaves fewer bytes than `least`."""
    left = min(_of_process(_ROOT), default=least)
    if left < least:
        raise NotEnoughMemory(f"not enough memory for the compiled loops: {max(0, left):,} bytes are left of {least:,}")


@cache
def _quotas(root: Path) -> tuple[int, ...]:
    """Return the processors that each cgroup with a quota grants, rounded up. The quotas are read once."""
    granted = []
    for folder in _cgroups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")  # version 2: "150000 100000" or "max 100000"
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")  # -1 means no quota
        if quota.isdecimal() and period.isdecimal() and int(period):
            granted.append(math.ceil(int(quota) / int(period)))
    return tuple(granted)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of all cgroups that may limit this process by `controller`, from the innermost outwards.

    A container sees its own cgroup as the root of a mount, whatever name `/proc/self/cgroup` gives it.
    """
    # The path of this process in the tree of each controller.
    own: dict[str, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        own |= dict.fromkeys(names.split(","), path)  # version 2 has no names of controllers
    # The mounts of these trees, and in each mount the folders from the process's own cgroup up to the root.
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, *_, options = after.split(" ") if after else ("", "")
        name = "" if kind == "cgroup2" else controller if controller in options.split(",") else None
        if not kind.startswith("cgroup") or name is None or name not in own:
            continue
        inner, mounted = (_unescaped(field) for field in before.split(" ")[3:5])
        below = posixpath.relpath(own[name], posixpath.normpath(inner))
        folder = root / mounted.lstrip("/")
        levels = () if below.startswith("..") or below == "." else Path(below).parts
        for depth in range(len(levels), -1, -1):
            yield folder.joinpath(*levels[:depth])


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def _text(path: Path) -> str:
    """Return the content of a system file, or an empty text if the file is missing or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    """Return the number in a system file, or None if there is none, as in "max"."""
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _table(path: Path) -> dict[str, int]:
    """Return the numbers of lines such as `MemAvailable:  123 kB` or `inactive_file 123` by name."""
    lines = re.findall(r"^(\w+):?\s+(\d+)", _text(path), re.MULTILINE)
    return {name: int(number) for name, number in lines}
