"""SAEs that are written in the basis of another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from saematch.errors import MatchError
from saematch.numeric.threads import MULTIPLIED, ThreadPool
from saematch.sae.maps import Map
from saematch.sae.spaces import UNKNOWN

if TYPE_CHECKING:
    from saematch.sae.autoencoder import SAE

_TOGETHER = 1024  # features that are mapped by one product


def mapped_sae(sae: SAE, map: Map) -> SAE:
    """Return an SAE in the basis of another model, see `SAE.mapped`.

    Features are always multiplied in the same groups, each by one thread, so that the number of threads does not decide
    how products are rounded: a mapped SAE has the same bits whenever it is read.
    """
    if sae.d != len(map.mean_a):
        raise MatchError(
            f"{sae.source}: activations have width {sae.d}, and the map is {tuple(map.matrix.shape)}; expected "
            f"({sae.d}, d_B)"
        )
    if sae.is_transcoder:
        raise MatchError(
            f"{sae.source}: a transcoder reads and writes different activations, which need a map each; only SAEs can "
            "be mapped"
        )
    device, dtype = sae.W_enc.device, torch.promote_types(sae.W_enc.dtype, torch.float32)
    matrix, inverse, mean_a, mean_b = (
        tensor.to(device) for tensor in (map.matrix, map.inverse, map.mean_a, map.mean_b)
    )
    width = len(mean_b)
    W_enc, b_enc, W_dec, b_dec = (
        torch.empty(shape, dtype=dtype, device=device) for shape in ((width, sae.F), sae.F, (sae.F, width), width)
    )

    def map_features(part: slice) -> None:
        before = sae.W_enc.detach()[:, part].double().contiguous()  # the order in memory decides about rounding, too
        after = inverse @ before
        W_enc[:, part] = after
        b_enc[part] = sae.b_enc.detach()[part].double() + mean_a @ before - mean_b @ after
        W_dec[part] = sae.W_dec.detach()[part].double().contiguous() @ matrix

    def map_bias() -> None:
        b_dec[:] = (sae.b_dec.detach().double() - mean_a) @ matrix + mean_b

    parts = [slice(start, start + _TOGETHER) for start in range(0, sae.F, _TOGETHER)]
    jobs: list[Callable[[], None]] = [map_bias, *(partial(map_features, part) for part in parts)]
    with ThreadPool(W_dec.numel() * sae.d // MULTIPLIED) as pool:
        pool.run(jobs, torch_threads=1)
    return replace(
        sae,
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        source=f"{sae.source}, mapped",
        notes=(*sae.notes, f"written in another basis by a map: {map.describe()}"),
        reads=UNKNOWN,
        writes=UNKNOWN,
    )
