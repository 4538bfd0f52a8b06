"""What runs the passes, chosen openly, and what is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from typing import Any

import torch

from saematch.errors import MatchError
from saematch.numeric.threads import threads
from saematch.options import BackendName, PrecisionName, names
from saematch.resources import available_memory, processors

_TRUE = ("1", "true", "yes", "on", "y")  # as Triton reads its environment
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


@dataclass(frozen=True)
class Backend:
    """What runs the passes, where, how rows are multiplied there, and why this was chosen."""

    name: str
    device: torch.device
    precision: str
    reason: str


def choose_backend(
    name: BackendName = "auto", device: str | torch.device | None = None, precision: PrecisionName = "ieee"
) -> Backend:
    """Triton's kernels on a GPU and torch everywhere else, unless one of them is asked for.

    Raises:
        MatchError: for a device that is not there, or a backend that cannot run on it: none stands in for another.
    """
    if name not in names(BackendName):
        raise MatchError(f"backend is {name!r}; choose one of {', '.join(names(BackendName))}")
    chosen, why_there = choose_device(device)
    obstacle = _why_not_triton(chosen)
    if name == "triton" and obstacle:
        raise MatchError(f'backend "triton" cannot run: {obstacle}')
    if name == "triton" or (name == "auto" and not obstacle and chosen.type == "cuda"):
        from saematch.kernels.precision import precision_named

        return Backend("triton", chosen, precision_named(precision).name, why_there)
    if precision != "ieee":
        wanted = f"precision {precision!r} needs Triton's kernels, torch computes in ieee float32"
        raise MatchError(wanted + (f"; {obstacle}" if obstacle else ""))
    return Backend("torch", chosen, precision, f"{why_there}; {obstacle}" if name == "auto" and obstacle else why_there)


def _why_not_triton(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET", "").lower() not in _TRUE:
        return f"Triton's kernels need a CUDA GPU, and the device is {device}"
    return None


def free_memory(device: torch.device) -> int:
    """Bytes of the device's memory that this process can take; of the CPU's, see `available_memory`."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()


def versions() -> dict[str, str | None]:
    """Version of Python and of each package that matters; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def machine() -> dict[str, Any]:
    """What the figures of a run depend on: cores, threads and bytes of memory are those that this process may use."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": sys.platform,
        "processor": platform.machine(),
        "cores": processors(),
        "threads": threads(),
        "memory": available_memory(),
        "gpus": gpus,
    }
