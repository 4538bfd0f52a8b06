"""circuit-tracer: transcoders of one layer each, `layer_{n}.safetensors`, and one `config.yaml` for all of them.

The names are those of SAELens, and both matrices have a row for each feature: `W_enc (F, d)`, `W_dec (F, d)`. The
activation is JumpReLU if there is a threshold, else ReLU, or TopK if the configuration says so. The configuration names
the hooks of all layers, such as "mlp.hook_in" and "hook_mlp_out".
"""

from __future__ import annotations

import re

from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config, Entry, Family, Tensors, rows_are_features, take
from saematch.sources.formats.canonical import StoredWeights, canonical, transposed
from saematch.sources.formats.site import ELSEWHERE, Site

NAMES, THRESHOLD = ("W_enc", "W_dec", "b_enc", "b_dec"), "activation_function.threshold"


def _entry(checkpoint: Checkpoint, stored: Tensors, config: Config) -> Entry:
    # Only texts: a few nested aliases of YAML, written as a text, would fill the memory.
    config = {name: value for name, value in config.items() if isinstance(value, str)}
    kind, function = config.get("model_kind", "transcoder_set"), config.get("activation", "relu").lower()
    if kind != "transcoder_set":
        raise checkpoint.error(f"config.yaml says model_kind {kind[:40]!r}; this file is of a transcoder_set")
    if function not in ("relu", "jump_relu", "jumprelu", "topk"):
        raise checkpoint.error(f"activation {function[:40]!r} is not supported; supported are relu, jumprelu and topk")
    # The tensors, with a threshold if there is one.
    limits = (THRESHOLD,) if THRESHOLD in stored else ()
    W_enc, W_dec, b_enc, b_dec, *threshold = take(checkpoint, stored, *NAMES, *limits, optional=("W_skip",))
    weights = StoredWeights(
        transposed(W_enc),
        b_enc,
        W_dec,
        b_dec,
        activation="jumprelu" if threshold else "topk" if function == "topk" else "relu",
        threshold=threshold[0] if threshold else None,
        k=checkpoint.k(config.get("k")) if function == "topk" and not threshold else None,
        notes=("its skip connection is left out",) if "W_skip" in stored else (),
    )
    # The places of this layer, whose number is in the name of the file or of its folder.
    layers = re.findall(r"layer_(\d{1,4})(?!\d)", f"{checkpoint.location.title}/{checkpoint.name}")
    layer = layers[-1] if layers else None
    reads, writes = (hook_of_layer(config.get(f"feature_{side}_hook"), layer) for side in ("input", "output"))
    site = Site(reads, writes or ELSEWHERE, config.get("model_name"))
    return Entry(canonical(checkpoint, weights, site), reads, None if layer is None else int(layer))


def hook_of_layer(hook: object, layer: str | None) -> str | None:
    """Return the hook of a layer, given the one of all layers that a configuration names; None without either.

    >>> hook_of_layer("mlp.hook_in", "5")
    'blocks.5.mlp.hook_in'
    """
    if not isinstance(hook, str) or layer is None:
        return None
    return hook.replace("{layer}", layer) if "{layer}" in hook else f"blocks.{layer}.{hook}"


CIRCUIT_TRACER = Family(
    name="circuit_tracer",
    title="circuit-tracer: layer_{n}.safetensors, config.yaml",
    suffixes=(".safetensors",),
    weights=r"layer_\d+\.safetensors",
    has=rows_are_features,
    entry=_entry,
    config=("config.yaml", "wandb-config.yaml", "wanb-config.yaml"),
    needs_config=True,
)
