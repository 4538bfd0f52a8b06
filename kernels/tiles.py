"""Tile shapes by chip and by operand. They decide how fast a pass is, never its answer."""

from __future__ import annotations

from typing import NamedTuple

import torch


class TileShape(NamedTuple):
    """The tile that one program works on, how many rows of tiles run together, and options of the compiler.

    Examples:
        >>> from saematch import kernels
        >>> kernels.TileShape(64, 128, 32).block_arguments()["BLOCK_N"]
        128
    """

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    GROUP: int = 8
    num_warps: int = 8
    num_stages: int = 3

    def counts(self, rows: int, columns: int) -> tuple[int, int]:
        """Return how many tiles cover a matrix, along its rows and along its columns."""
        return -(-rows // self.BLOCK_M), -(-columns // self.BLOCK_N)

    def arguments(self) -> dict[str, int]:
        """Return the arguments of a launch that multiplies rows.

        Sums with a product may be rounded once instead of twice: no error bound grows by that.
        """
        return self._asdict() | {"enable_fp_fusion": True}

    def block_arguments(self) -> dict[str, int]:
        """Return the arguments of a launch that reads a block of products, and has no dimension K."""
        return {name: value for name, value in self.arguments().items() if name != "BLOCK_K"}


# Chosen by the compiler's report (bench/results/aot.md): no register spills, and two blocks on a multiprocessor of
# sm_90, since Triton waits for each of its integer products. GPU timings are to decide.
TILES = {
    ("sm_80", "int8"): TileShape(128, 128, 64, num_stages=4),
    ("sm_80", "float32"): TileShape(128, 128, 16),
    ("sm_90", "int8"): TileShape(128, 128, 128),
    ("sm_90", "float32"): TileShape(128, 128, 16),
    ("sm_100", "int8"): TileShape(128, 128, 128, num_warps=4),
    ("sm_100", "float32"): TileShape(128, 128, 8),
}
# Reading a block is limited by memory on every chip. A pass that lists pairs needs registers for their places.
READING = TileShape(64, 128, 16, num_stages=1)
LISTING = TileShape(64, 64, 16, num_stages=1)
CHIPS = ("sm_80", "sm_90", "sm_100")


def default_tile(device: torch.device, operand: str) -> TileShape:
    """Return the tile for products of `operand`, "int8" or "float32", on a device.

    A chip that is not in the table gets the tile of the nearest older one.
    """
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    return TILES["sm_100" if major >= 10 else "sm_90" if major == 9 else "sm_80", operand]
