"""1L-Sparse-Autoencoder (Nanda), and SAEs of attention that are trained with it: `{name}.pt` and `{name}_cfg.json`.

A ReLU SAE with `W_enc (d, F)`, `W_dec (F, d)`, `b_enc` and `b_dec`; the encoder sees x - b_dec. Only the configuration
tells such a file from any other file with these names.
"""

from __future__ import annotations

import re

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, take
from saematch.sources.formats.canonical import StoredWeights, canonical
from saematch.sources.formats.site import Site

_NAMES = ("W_enc", "W_dec", "b_enc", "b_dec")


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    W_enc, W_dec, b_enc, b_dec = take(checkpoint, stored, *_NAMES)
    hook = config.get("act_name")
    if not isinstance(hook, str):
        raise checkpoint.error("its configuration has no act_name, the name of the hook that the SAE reads")
    for name, vector in (("act_size", b_dec), ("dict_size", b_enc)):
        if name in config and config[name] != vector.numel():
            raise checkpoint.error(f"its configuration says {name} = {str(config[name])[:20]}, its bias {len(vector)}")
    weights = StoredWeights(W_enc, b_enc, W_dec, b_dec, subtracts_b_dec=True)
    layer = re.search(r"\bblocks\.(\d{1,4})\.", hook)
    sae = canonical(checkpoint, weights, Site(hook, model=config.get("model_name")))
    return Entry(sae, hook, int(layer[1]) if layer else None)


def _has(stored: Tensors) -> bool:
    return set(_NAMES) <= stored.keys() and "threshold" not in stored


NANDA = Family(
    name="nanda",
    title="1L-Sparse-Autoencoder: {name}.pt, {name}_cfg.json",
    suffixes=(".pt", ".pth"),
    weights=r".+_v\d+\.pt",
    has=_has,
    entry=_entry,
    config=("{stem}_cfg.json",),
    needs_config=True,
    told_by_config=True,
)
