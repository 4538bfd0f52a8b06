"""Tile shapes by chip and by what is multiplied. They decide how quick a pass is, never what it answers."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """What one program looks at, GROUP rows of them at a time, and how it is compiled."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    GROUP: int = 8
    num_warps: int = 8
    num_stages: int = 3

    def arguments(self) -> dict[str, int]:
        """For a launch. Sums with a product may round once: no bound is larger for it."""
        return self._asdict() | {"enable_fp_fusion": True}


# Chosen by the compiler's report (bench/results/aot.md), without register spills. GPU timings are to decide.
TILES = {
    ("sm_80", "bfloat16"): Tile(128, 128, 64, num_stages=3),
    ("sm_80", "float32"): Tile(128, 128, 32, num_stages=3),
    ("sm_80", "ieee"): Tile(128, 128, 16, num_stages=3),
    ("sm_90", "bfloat16"): Tile(128, 128, 64, num_stages=4),
    ("sm_90", "float32"): Tile(128, 128, 32, num_stages=4),
    ("sm_90", "ieee"): Tile(128, 128, 16, num_stages=3),
    ("sm_100", "bfloat16"): Tile(128, 64, 64, num_stages=4),
    ("sm_100", "float32"): Tile(128, 64, 32, num_stages=4),
    ("sm_100", "ieee"): Tile(128, 128, 16, num_stages=3),
}
STORED = Tile(64, 128, 16, num_warps=8, num_stages=1)  # memory is the limit on every chip
CHIPS = ("sm_80", "sm_90", "sm_100")


def tile_for(chip: str, kind: str, lists: bool = False) -> Tile:
    """The tile for a chip and a `Costs.kind`; a pass that `lists` pairs needs registers for their places."""
    tile = STORED if kind == "stored" else TILES[chip, kind]
    return tile._replace(BLOCK_N=64) if lists else tile


def default_tile(device: torch.device, kind: str, lists: bool = False) -> Tile:
    """The tile for a device; a chip that is not in the table gets that of the nearest older one."""
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    return tile_for("sm_100" if major >= 10 else "sm_90" if major == 9 else "sm_80", kind, lists)
