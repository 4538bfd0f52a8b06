"""Copies of weights to a GPU, through pinned memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BUFFER_BYTES = 2**25


def upload(values: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on the device.

    A GPU reads pinned memory, which the operating system does not move, several times faster than other memory. Pinning
    takes long, so that the array itself is not pinned: it is copied through two buffers that are. While the GPU reads
    one of them, the processor fills the other one.
    """
    source = torch.from_numpy(np.require(values, requirements=("C", "W")))
    if device.type != "cuda" or source.nbytes <= _BUFFER_BYTES:
        return source.to(device)
    target = torch.empty(source.shape, dtype=source.dtype, device=device)
    with torch.cuda.device(device):
        copy_in_parts(source, target, _BUFFER_BYTES // source.itemsize)
    return target


def copy_in_parts(source: Tensor, target: Tensor, size: int) -> None:
    """Copy a tensor on the CPU to one of the same shape and type, through two buffers of `size` entries.

    If the target is on a GPU, that must be the current one, and the buffers are pinned.
    """
    on_gpu = target.is_cuda
    given, filled = source.view(-1), target.view(-1)
    buffers = torch.empty((2, size), dtype=source.dtype, device="cpu", pin_memory=on_gpu)
    was_read = [torch.cuda.Event() for _ in buffers] if on_gpu else []  # type: ignore[no-untyped-call]
    for n, start in enumerate(range(0, len(given), size)):
        part = given[start : start + size]
        buffer = buffers[n % 2, : len(part)]
        if on_gpu:
            was_read[n % 2].synchronize()  # the GPU has read what the buffer held before
        buffer.copy_(part)
        filled[start : start + size].copy_(buffer, non_blocking=True)
        if on_gpu:
            was_read[n % 2].record()
    if on_gpu:
        torch.cuda.current_stream().synchronize()
