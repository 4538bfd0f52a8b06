"""The library and the device of the passes, and the versions of what is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from saematch.cost.products import int8_obstacle
from saematch.errors import MatchError
from saematch.numeric.threads import threads
from saematch.options import BackendName, PrecisionName, names
from saematch.resources import available_memory, processors

_TRUE = ("1", "true", "yes", "on", "y")  # the values that Triton takes for true in its environment
_SHARE = 0.75  # of the memory that is free: others get the rest
_PASS_BYTES = 4 * 2**30  # of products and lists on a GPU, for each search
PACKAGES = ("saematch", "torch", "numpy", "lapx", "numba", "safetensors", "triton")


def choose_device(device: str | torch.device | None) -> tuple[torch.device, str]:
    """Return the device of the passes, and the reason for it.

    This is the requested `device`, or else a CUDA GPU if torch sees one, or else the CPU.

    Raises:
        MatchError: for a device that does not exist, or that has no float64.
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
    """The choice of what runs the passes.

    Attributes:
        name: the library, "triton" or "torch".
        device: the device on which it runs.
        precision: the numbers in which passes multiply rows there, "int8" or "float32".
        reason: why this library and device were chosen, and why not int8.
    """

    name: str
    device: torch.device
    precision: Literal["int8", "float32"]
    reason: str


def choose_backend(
    name: BackendName = "auto", device: str | torch.device | None = None, precision: PrecisionName = "auto"
) -> Backend:
    """Choose Triton's kernels on a GPU and torch everywhere else, and int8 where its products are exact and fast.

    What the caller names is never replaced by anything else.

    >>> choose_backend("torch", "cpu", "float32").name
    'torch'

    Raises:
        MatchError: for a device that does not exist, and for a backend or a precision that cannot run on it.
    """
    for option, value, allowed in (("backend", name, BackendName), ("precision", precision, PrecisionName)):
        if value not in names(allowed):
            raise MatchError(f"{option} is {value!r}; choose one of {', '.join(names(allowed))}")
    # Triton, if it is requested, or if it can run on the chosen GPU.
    chosen, reason = choose_device(device)
    obstacle = _why_not_triton(chosen)
    if name == "triton" and obstacle:
        raise MatchError(f'backend "triton" cannot run: {obstacle}')
    library = "triton" if name == "triton" or (name == "auto" and not obstacle and chosen.type == "cuda") else "torch"
    if name == "auto" and obstacle:
        reason = f"{reason}; {obstacle}"
    # Integers, if they are requested, or if they are fast there.
    obstacle = _why_not_int8(library, chosen)
    if precision == "int8" and obstacle:
        raise MatchError(f'precision "int8" cannot run: {obstacle}; choose "float32" or "auto"')
    if precision == "auto" and obstacle:
        reason = f"{reason}; float32 instead of int8, because {obstacle}"
    return Backend(library, chosen, "float32" if obstacle or precision == "float32" else "int8", reason)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _why_not_triton(device: torch.device) -> str | None:
    """Return why Triton's kernels cannot run on a device; None if they can."""
    if not _has_triton():
        return "triton is not installed"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET", "").lower() not in _TRUE:
        return f"Triton's kernels need a CUDA GPU, and the device is {device}"
    return None


def _why_not_int8(library: str, device: torch.device) -> str | None:
    """Return why a library does not multiply int8 rows exactly and fast on a device; None if it does."""
    if library == "triton":
        return None
    return "int8 products on a GPU need Triton's kernels" if device.type == "cuda" else int8_obstacle()


def searches_at_once(most: int, bytes_needed: Callable[[int], float], device: torch.device, processes: int = 1) -> int:
    """Return how many searches, from 1 to `most`, should run at the same time in each of some processes.

    These are as many as three quarters of the free memory are enough for, and on a GPU three quarters of its memory.

    Args:
        most: the most searches.
        bytes_needed: the memory that a number of searches in one process needs.
        device: the device of the passes.
        processes: the number of processes, each of which has a GPU of its own.
    """
    room, room_on_gpu = _SHARE * available_memory() / processes, math.inf
    if device.type == "cuda":
        room_on_gpu = _SHARE * torch.cuda.get_device_properties(device).total_memory

    def fits(number: int) -> bool:
        needed = bytes_needed(number)
        return needed <= room and needed + number * _PASS_BYTES <= room_on_gpu

    return next(filter(fits, range(most, 1, -1)), 1)


def versions() -> dict[str, str | None]:
    """Return the version of Python and of each package that matters; None for a package that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def machine() -> dict[str, Any]:
    """Describe the machine, for the figures of a run: cores, threads and bytes of memory that this process may use."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": sys.platform,
        "processor": platform.machine(),
        "cores": processors(),
        "threads": threads(),
        "memory": available_memory(),
        "gpus": gpus,
    }
