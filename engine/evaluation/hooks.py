"""The places in a language model that SAEs read."""

from __future__ import annotations

import re

from saematch.errors import MatchError
from saematch.options import Hook, names
from saematch.sources import Layers

_WHOLE_BLOCK = r"([A-Za-z_]+\.)*(layers|h)\.\d+(\.output)?"  # the name of a block in the model itself
_AFTER_BLOCK = rf"(blocks\.\d+\.)?(hook_)?resid_post|resid_post_layer_\d+|{_WHOLE_BLOCK}"
_BEFORE_BLOCK = r"(blocks\.\d+\.)?(hook_)?resid_pre"


def hooks_of(layers: Layers) -> dict[int, str | None]:
    """Return the hook that the SAE of each layer reads, as far as the SAE's files name it."""
    return {layer: handle.describe().hook for layer, handle in layers.handles.items()}


def hook_block(hook: str | None, layer: int) -> int:
    """Return the number of the block whose output is read at a hook of a layer; without a hook, after the block.

    Raises:
        MatchError: if the hook is not on the residual stream.

    Examples:
        >>> hook_block("blocks.4.hook_resid_pre", 4)
        3
    """
    name = hook or "resid_post"
    if re.fullmatch(_AFTER_BLOCK, name):
        return layer
    if re.fullmatch(_BEFORE_BLOCK, name):
        return layer - 1
    raise MatchError(
        f"hook {name!r} is not on the residual stream, and hidden states can only be replaced between blocks; give "
        f"one of {', '.join(names(Hook))}"
    )
