"""The memory and the processors that this process may use: the least of all limits that the system sets.

Batch systems and containers set limits that the machine as a whole does not show: control groups (cgroups, both
versions, each of whose parents may be tighter), `ulimit`, processor affinity. Every function takes the root of the file
tree in which `/proc` and the cgroups lie.
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

_ROOT = Path("/")
_KB = 1024


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that this process can still take without swapping.

    They are the least of what the machine, every cgroup of the process and `ulimit -v` and `-d` leave; half of the
    machine's memory where the system says none of these.

    >>> available_memory() > 0
    True
    """
    left = [*_of_machine(root), *_of_cgroups(root), *_of_process(root)]
    return max(0, min(left, default=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2))


def processors(root: Path = _ROOT) -> int:
    """How many processors this process may use: the least of its affinity and the quotas of its cgroups, rounded up.

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
    """The limit of each cgroup less its use. As for the machine, files that are only cached do not count as used."""
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
    """`ulimit -v` and `ulimit -d` less what is mapped."""
    status = _table(root / "proc/self/status")
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            yield most - status.get(used, 0) * _KB


def refuse_little_room(least: int) -> None:
    """Raise `NotEnoughMemory` where `ulimit -v` or `-d` leaves fewer bytes than `least`."""
    room = min(_of_process(_ROOT), default=least)
    if room < least:
        raise NotEnoughMemory(f"not enough memory for the compiled loops: {max(0, room):,} bytes are left of {least:,}")


@cache
def _quotas(root: Path) -> tuple[int, ...]:
    """Processors that each cgroup with a quota grants, rounded up. They are read once."""
    granted = []
    for folder in _cgroups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")  # version 2: "150000 100000" or "max 100000"
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")  # -1 is none
        if quota.isdecimal() and period.isdecimal() and int(period):
            granted.append(math.ceil(int(quota) / int(period)))
    return tuple(granted)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of all cgroups of this process that may limit it by `controller`, from the innermost outwards.

    A container sees its own cgroup as the root of a mount, whatever `/proc/self/cgroup` calls it.
    """
    own: dict[str, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        own |= dict.fromkeys(names.split(","), path)  # version 2 has no names
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, *_, options = after.split(" ") if after else ("", "")
        of = "" if kind == "cgroup2" else controller if controller in options.split(",") else None
        if not kind.startswith("cgroup") or of is None or of not in own:
            continue
        inner, mounted = (_unescaped(field) for field in before.split(" ")[3:5])
        below = posixpath.relpath(own[of], posixpath.normpath(inner))
        folder = root / mounted.lstrip("/")
        levels = () if below.startswith("..") or below == "." else Path(below).parts
        for depth in range(len(levels), -1, -1):
            yield folder.joinpath(*levels[:depth])


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _text(path: Path) -> str:
    """The content of a file of the system; empty where there is none, or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    """The number in a file of the system; None for none, and for "max"."""
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _table(path: Path) -> dict[str, int]:
    """Lines such as `MemAvailable:  123 kB` or `inactive_file 123`, by name."""
    found = re.findall(r"^(\w+):?\s+(\d+)", _text(path), re.MULTILINE)
    return {name: int(number) for name, number in found}
