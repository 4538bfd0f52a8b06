"""Arrays that may be larger than the memory, which are then in a temporary file."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from saematch.errors import NotEnoughMemory, reason_of
from saematch.resources import available_memory

_SHARE = 2  # of the available memory, one part in this many may be taken by arrays


def bytes_in_memory() -> int:
    """Return the most bytes that `scratch_arrays` take in memory: half of what is available."""
    return available_memory() // _SHARE


def scratch_arrays(size: int, numbers: Sequence[DTypeLike], most: int | None = None) -> list[NDArray[Any]]:
    """Return arrays of `size` entries without values, one of each type of numbers.

    They are in memory if they take at most `most` bytes together, by default `bytes_in_memory`. Otherwise they are in
    a file without a name in the folder of the environment variable `TMPDIR`, or in `/var/tmp`, which vanishes with
    them. `/tmp` is often in memory itself.

    Raises:
        NotEnoughMemory: if there is no room in that folder.

    Examples:
        >>> from saematch.numeric.scratch import scratch_arrays
        >>> columns, values = scratch_arrays(1000, ["int32", "float64"], most=0)
        >>> columns.dtype, values.shape
        (dtype('int32'), (1000,))
    """
    lengths = [size * np.dtype(number).itemsize for number in numbers]
    if not size or sum(lengths) <= (bytes_in_memory() if most is None else most):
        return [np.empty(size, dtype=number) for number in numbers]
    folder = _folder()
    arrays = []
    for number, length in zip(numbers, lengths, strict=True):
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                if hasattr(os, "posix_fallocate"):  # or a full disk would end the process later; macOS has none
                    os.posix_fallocate(file.fileno(), 0, length)
                else:
                    file.truncate(length)
                arrays.append(np.frombuffer(mmap.mmap(file.fileno(), length), dtype=number))
        except OSError as error:
            raise NotEnoughMemory(
                f"not enough memory for {sum(lengths):,} bytes, and no room for a temporary file of this size in "
                f"{folder} ({reason_of(error)}): set TMPDIR to a folder on a disk with more room"
            ) from error
    return arrays


def _folder() -> str:
    usual = Path("/var/tmp")
    return os.environ.get("TMPDIR") or (str(usual) if os.access(usual, os.W_OK) else tempfile.gettempdir())
