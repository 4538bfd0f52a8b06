"""Products of all rows of one side with all rows of the other side, made by torch on the CPU or on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from typing_extensions import override

from saematch.cost.passes import Tile, TilePasses
from saematch.cost.sides import Side, over_pairs
from saematch.numeric.loops import centred_products
from saematch.numeric.rounding import UNIT_32, Floats, Indices, gamma

_FPMATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")  # how oneDNN may round float32, by its two names


class TorchProducts(TilePasses):
    """M_ij = -2 <x'_i, y'_j>, tile by tile: a product on `device`, searched on the CPU.

    `sides` are the source and the target; x' and y' are their centred and scaled rows.
    """

    def __init__(self, sides: tuple[Side, Side], device: torch.device, memory: int, tile: tuple[int, int]) -> None:
        super().__init__((len(sides[0].rows), len(sides[1].rows)), memory)
        self.device = device
        self._sides, self._tile = sides, tile
        # The factor of M goes into one of the working copies: their product is M itself.
        self._x, self._y = sides[0].working_copy(-2.0).to(device), sides[1].working_copy(1.0).to(device)

    @staticmethod
    def relative_error(width: int) -> float:
        """Return a bound for the error of float32 products and of their sum with a price, relative to |x'_i| |y'_j|."""
        return gamma(width + 8, UNIT_32)

    def exact(self, rows: Indices, columns: Indices) -> Floats:
        """Return <x_i - a, y_j - b> of the listed pairs in float64, with the centres a and b."""
        x, y = self._sides
        (products,) = over_pairs(centred_products, x.rows, y.rows, rows, columns, x.centre, y.centre)
        return products

    def block(self, rows: Indices, columns: Indices) -> Floats:
        """Return <x'_i, y'_j> of all pairs of the listed rows and columns in float64."""
        x, y = self._sides
        product = x.float64(rows).to(self.device) @ y.float64(columns).to(self.device).T
        return product.cpu().numpy()

    @override
    def make_tiles(self, rows: Indices, keep: bool) -> Iterator[Tile]:
        buffer = np.empty((0, 0), dtype=np.float32)
        for top in range(0, len(rows), self._tile[0]):
            places = slice(top, min(top + self._tile[0], len(rows)))
            x = self._x[torch.from_numpy(rows[places])]
            for left in range(0, self.shape[1], self._tile[1]):
                columns = slice(left, min(left + self._tile[1], self.shape[1]))
                size = (places.stop - top, columns.stop - left)
                # Memory that is new to a process is slow: one buffer serves all tiles that are not kept.
                if keep or buffer.shape != size:
                    buffer = np.empty(size, dtype=np.float32)
                float32_product(x, self._y[columns], torch.from_numpy(buffer))
                yield Tile(places, columns, buffer)


def float32_product(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> None:
    """Compute out = x @ y.T in IEEE float32, whatever precision the host program asked torch for.

    Where torch would compute in less than float32, the product is made in float64.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        if not _float32_is_ieee(x.device.type):
            out.copy_(x.double() @ y.double().T)
        elif x.device == out.device:
            torch.mm(x, y.T, out=out)
        else:
            out.copy_(x @ y.T)


def _float32_is_ieee(device: str) -> bool:
    """Return whether torch computes float32 products in float32, by its settings and, on a CPU, by those of oneDNN."""
    strict = all(os.environ.get(name, "STRICT").upper() == "STRICT" for name in _FPMATH)
    if device == "cpu" and not strict:
        return False
    backend: Any = torch.backends.cuda if device == "cuda" else torch.backends.mkldnn
    levels = (backend.matmul, backend, torch.backends)  # a level that says "none" leaves the choice to the next one
    return all(getattr(level, "fp32_precision", "none") in ("none", "ieee") for level in levels)
