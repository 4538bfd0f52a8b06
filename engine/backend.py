"""What runs the passes, chosen openly, and what is installed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import torch

from saematch.errors import MatchError

PACKAGES = ("saematch", "torch", "numpy", "lapx", "numba", "safetensors", "triton")


def choose_device(device: str | torch.device | None) -> tuple[torch.device, str]:
    """The device of the passes and the reason: the one asked for, else a CUDA GPU if torch sees one, else the CPU.

    Raises:
        MatchError: for a device that is not there, or that has no float64.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda"), "torch sees a GPU"
        return torch.device("cpu"), "torch sees no GPU" + ("" if torch.version.cuda else " (this torch is a CPU build)")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise MatchError(f"device {device!r} is not known to torch") from error
    if chosen.type not in ("cpu", "cuda"):
        raise MatchError(
            f"device {device!r}: the passes run on cpu or cuda; {chosen.type} has no float64 to prove with"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise MatchError(f"device {device!r}: torch sees {torch.cuda.device_count()} GPUs")
    return chosen, "asked for"


def free_memory() -> int:
    """Bytes of main memory that can be taken without swapping; half of all memory where the system does not say."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def versions() -> dict[str, str | None]:
    """Version of Python and of each package that matters; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def machine() -> dict[str, str | int | list[str]]:
    """What the figures of a run depend on."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": sys.platform,
        "processor": platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }
