"""Dictionaries that are not SAEs with one encoder and one decoder row for each feature, by the names of their tensors.

They are refused by a sentence that says what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from saematch.sources.checkpoint import Checkpoint
from saematch.storage.reading import Unusable

_BY_DECODER = "compare it by the rows of its dictionary: saematch.assign(D_a, D_b)"
# What a file is, and why it is not read, by its tensors.
_KNOWN: tuple[tuple[Callable[[set[str]], bool], str], ...] = (
    (
        lambda names: {"D", "b"} <= names and any(name.startswith("attn_layers.") for name in names),
        "a temporal SAE (arXiv 2511.01836): its codes are of what attention over earlier tokens does not predict, "
        f"so that no encoder row says when a feature fires; {_BY_DECODER}",
    ),
    (
        lambda names: {"W_Q", "W_K", "W_V", "W_O"} <= names,
        "a Lorsa of llamascopium (low-rank sparse attention): each feature is a head of attention, whose code is a sum "
        f"over earlier tokens, so that no encoder row says when a feature fires; {_BY_DECODER}",
    ),
    (
        lambda names: "W_E" in names and any(name.startswith("U_matrices.") for name in names),
        "a MOLT of llamascopium (mixture of linear transforms): each feature writes by a matrix of its own, and has no "
        "decoder row; compare it by its encoder alone: saematch.assign(W_E_a.T, W_E_b.T)",
    ),
    (
        lambda names: "dictionary.multiplier" in names,
        "a dictionary of overcomplete: neither the activation of its encoder nor the normalisation of its dictionary "
        "is in the file. Load it with overcomplete; if its activation is ReLU, TopK or JumpReLU, save its weights as "
        "an SAE: saematch.SAE(W_enc, b_enc, W_dec, b_dec, …).save(folder)",
    ),
)


def refuse_known(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Raise `Unusable` for a file whose tensors are those of a known dictionary of another kind."""
    found = set(names)
    for has, what in _KNOWN:
        if has(found):
            raise Unusable(f"{checkpoint.shown}: {what}")


ARCHITECTURES = {
    "temporal": _KNOWN[0][1],
    "matching_pursuit": "matching pursuit: its codes come from a search that subtracts one feature after the other, "
    f"and it has no encoder; {_BY_DECODER}",
    "groupmax": "groupmax: in each of k groups of features, the largest one is active, which no activation here does; "
    f"{_BY_DECODER}",
}
