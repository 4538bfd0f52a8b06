"""Gemma Scope: `params.npz` with a JumpReLU SAE on raw activations; everything else is in the path.

`W_enc (d, F)`, `W_dec (F, d)`, `b_enc (F,)`, `b_dec (d,)`, `threshold (F,)`: already canonical.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from saematch.sae import SAE
from saematch.sources.family import Description, Family
from saematch.sources.files import expect_keys, headers, names, tensors

KEYS = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}


def _recognises(path: Path) -> bool:
    return path.suffix == ".npz" and (path.name == "params.npz" or bool(KEYS & names(path)))


def _describe(path: Path) -> Description:
    l0 = re.findall(r"average_l0_(\d+(?:\.\d+)?)", path.as_posix())
    return Description(_sae(path, headers(path)), float(l0[-1]) if l0 else None)


def _read(path: Path) -> SAE:
    return _sae(path, tensors(path)).check_finite()


def _sae(path: Path, found: dict[str, Tensor]) -> SAE:
    expect_keys(path, found, KEYS)
    weights: dict[str, Any] = dict(found)
    return SAE(**weights, activation="jumprelu", source=str(path))


def _files(path: Path) -> list[Path]:
    return [path]


def _layer(_: Path) -> None:
    return None


GEMMA_SCOPE = Family(
    name="gemma_scope",
    recognises=_recognises,
    files=_files,
    layer=_layer,
    describe=_describe,
    read=_read,
)
