"""The spaces of activations that an SAE reads and writes, and the parts of two SAEs that may be compared."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from saematch.errors import MatchError
from saematch.options import Part

if TYPE_CHECKING:
    from saematch.sae.autoencoder import SAE

Barrier = Literal["attention", "layer_norm", "neurons"]
WHY: dict[Barrier, str] = {
    "attention": "the heads of attention have another basis in every layer",
    "layer_norm": "activations after a layer norm are no linear map of the residual stream",
    "neurons": "every layer has neurons of its own",
}


class Space(NamedTuple):
    """The activations that an SAE reads or writes.

    Attributes:
        place: the name of the place in the model, such as "blocks.5.hook_resid_post"; None if it is not known.
        barrier: the reason why weights for these activations can only be compared with those for the same place:
            "attention" and "neurons" have another basis in every layer, and "layer_norm" is no linear map of the
            residual stream. None if the basis is that of the residual stream, which all layers share.

    Examples:
        >>> import saematch as sm
        >>> sm.Space("model.layers.8.self_attn.o_proj.input", "attention").barrier
        'attention'
    """

    place: str | None = None
    barrier: Barrier | None = None

    def is_comparable(self, other: Space) -> bool:
        """Whether weights for these activations can be compared with those for others.

        The name of a place counts as the same place if it names a layer.

        >>> Space("blocks.5.hook_resid_post").is_comparable(Space("blocks.6.hook_mlp_out"))
        True
        >>> Space("blocks.5.attn.hook_z", "attention").is_comparable(Space("blocks.6.attn.hook_z", "attention"))
        False
        """
        if self.barrier is None and other.barrier is None:
            return True
        return self == other and bool(re.search(r"\d", self.place or ""))


_ALONE = 'compare the {part}s alone, with parts="{part}"; '
UNKNOWN = Space()  # of an SAE whose files do not say what it reads


def check_spaces(a: SAE, b: SAE, parts: Collection[Part], advice: str = _ALONE) -> None:
    """Raise `MatchError` unless the given parts of two SAEs live in comparable spaces.

    Encoder and bias live in the space that an SAE reads, and the decoder in the one that it writes.

    Args:
        a: an SAE.
        b: another SAE.
        parts: the parts that are compared.
        advice: what to do if only one part can be compared, with `{part}` for it.
    """
    reads, writes = a.reads.is_comparable(b.reads), a.writes.is_comparable(b.writes)
    if not reads and {"encoder", "bias"} & set(parts):
        remedy = advice.format(part="decoder") if writes else ""
        raise _refusal((a.source, b.source), (a.reads, b.reads), "reads", "encoders and biases", remedy)
    if not writes and "decoder" in parts:
        remedy = advice.format(part="encoder") if reads else ""
        raise _refusal((a.source, b.source), (a.writes, b.writes), "writes", "decoders", remedy)


def _refusal(sources: Sequence[str], spaces: Sequence[Space], verb: str, parts: str, remedy: str) -> MatchError:
    said = ", and ".join(f"{source} {verb} {space.place}" for source, space in zip(sources, spaces, strict=True))
    barriers = sorted({space.barrier for space in spaces if space.barrier})
    return MatchError(
        f"{said}: {', and '.join(WHY[barrier] for barrier in barriers)}, so their {parts} cannot be compared; {remedy}"
        f"to compare them nevertheless, write ?allow={','.join(barriers)} after the path of each"
    )
