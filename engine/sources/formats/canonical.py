"""The conversion of stored weights to canonical form, for raw activations.

An SAE in canonical form computes the codes `f = activation(x W_enc + b_enc)` and the reconstruction
`x_hat = f W_dec + b_dec` of raw activations `x`. Files hold weights of the same function in other parametrisations.
`StoredWeights` says in which one, and `canonical` removes the differences one step at a time.

Every step is computed, and its result kept, in float64: rounding it to float32 would change the problem that is solved
and proved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.options import Activation
from saematch.sae.autoencoder import SAE
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.base import Config
from saematch.sources.formats.site import Site, spaces_of

NormUse = Literal["gate", "code"]
ActivationScale = float | Tensor  # a tensor without data where only headers were read


class ActivationScales(NamedTuple):
    """The weights are for activations `x * input`, and reconstruct activations `x_hat * output`."""

    input: ActivationScale
    output: ActivationScale


@dataclass(frozen=True)
class StoredWeights:
    """The weights of an SAE as its files hold them, in canonical orientation, and the parametrisation they use.

    Attributes:
        W_enc: `(d, F)`.
        b_enc: `(F,)`.
        W_dec: `(F, d)`.
        b_dec: `(d,)`.
        activation: the activation of the SAE, as in `SAE`.
        threshold: `(F,)`, for JumpReLU.
        k: for TopK.
        subtracts_b_dec: whether the encoder sees `x - b_dec` in place of `x`.
        scales: the scales of the activations that the weights are for; None for raw activations.
        norm_use: what the norms of the decoder rows, as they are stored, multiply. "gate": only the values that the
            gate compares, with the threshold or with each other to find the k largest. "code": the codes themselves,
            and each decoder row is divided by its norm. None: nothing.
        norms: `(F,)`, what takes the place of the norms of the decoder rows, if a feature has other decoder rows too.
        notes: what a user should know about the weights.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    activation: Activation = "relu"
    threshold: Tensor | None = None
    k: int | None = None
    subtracts_b_dec: bool = False
    scales: ActivationScales | None = None
    norm_use: NormUse | None = None
    norms: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def fit(self) -> bool:
        """Whether the shapes of the encoder, the decoder and the biases fit each other."""
        if self.b_enc.ndim != 1 or self.b_dec.ndim != 1:
            return False
        return self.W_enc.shape == self.W_dec.shape[::-1] == (len(self.b_dec), len(self.b_enc))


def canonical(checkpoint: Checkpoint, weights: StoredWeights, site: Site | None = None) -> SAE:
    """Convert stored weights to an SAE in canonical form, for raw activations.

    Args:
        checkpoint: the file of the weights; its options may say the scale.
        weights: the weights and their parametrisation.
        site: the places in the model that the SAE reads and writes.

    Raises:
        MatchError: if the weights cannot be compared with those of another layer and `?allow=` does not permit to read
            them, or if they do not fit each other.
    """
    # A feature of a crosscoder has a row for every layer.
    if weights.W_enc.ndim == 3 or weights.W_dec.ndim == 3:
        raise checkpoint.error(
            "a cross-layer transcoder or a crosscoder: a feature reads or writes several layers, and does not have one "
            "encoder row and one decoder row"
        )
    site = site or Site()
    spaces = spaces_of(checkpoint, site)
    weights = replace(weights, notes=weights.notes + spaces.notes)
    if spaces.reads != spaces.writes and weights.b_dec.ndim == 1 and weights.W_enc.shape[:1] != weights.b_dec.shape:
        raise checkpoint.error(
            f"a transcoder that reads activations of width {len(weights.W_enc)} and writes activations of width "
            f"{len(weights.b_dec)}; only transcoders of one width are read"
        )
    # The options of the address take precedence over the files.
    scale = checkpoint.scale()
    if scale is not None:
        weights = replace(weights, scales=ActivationScales(scale, scale))
    if "k" in checkpoint.options and weights.activation != "topk":
        raise checkpoint.error(f"?k= is for TopK SAEs, and this SAE is {weights.activation}")
    # Weights of other shapes are refused by `SAE`, whose message compares the shapes.
    if weights.fit:
        for step in (_fold_subtraction, _scale_to_raw, _fold_norms):
            weights = step(weights)
    threshold = weights.threshold
    if threshold is not None and weights.activation == "jumprelu" and not threshold.is_meta:
        # No family's JumpReLU lets codes below zero pass: with a threshold that was never set (-1), it is a ReLU.
        threshold = threshold.clamp(min=0)
    tensors = weights.W_enc, weights.b_enc, weights.W_dec, weights.b_dec
    return SAE(
        *tensors,
        weights.activation,
        threshold,
        weights.k,
        checkpoint.shown,
        weights.notes,
        reads=spaces.reads,
        writes=spaces.writes,
    )


def _fold_subtraction(weights: StoredWeights) -> StoredWeights:
    """Let the encoder see x instead of x - b_dec: (x - b_dec) W_enc + b_enc = x W_enc + (b_enc - b_dec W_enc)."""
    if not weights.subtracts_b_dec:
        return weights
    b_enc = in_float64(lambda b, c, W: b - c @ W, weights.b_enc, weights.b_dec, weights.W_enc)
    return replace(
        weights, b_enc=b_enc, notes=(*weights.notes, "b_dec is subtracted from the input: folded into b_enc")
    )


def _scale_to_raw(weights: StoredWeights) -> StoredWeights:
    """Let the weights read and write raw activations instead of activations times c_in and c_out.

    The encoder: (c_in x) W_enc = x (c_in W_enc).
    The decoder: x_hat = (f W_dec + b_dec) / c_out = f (W_dec / c_out) + b_dec / c_out.
    """
    if weights.scales is None:
        return weights
    c_in, c_out = weights.scales
    return replace(
        weights,
        W_enc=in_float64(lambda W: W * c_in, weights.W_enc),
        W_dec=in_float64(lambda W: W / c_out, weights.W_dec),
        b_dec=in_float64(lambda b: b / c_out, weights.b_dec),
        notes=(*weights.notes, "weights are for normalised activations: scaled to raw ones"),
    )


def _fold_norms(weights: StoredWeights) -> StoredWeights:
    """Take the norms of the decoder rows out of the gate or the codes. Call after `_scale_to_raw`.

    With the row norms n of the scaled decoder, the stored norms are c_out n. Let z = x W_enc + b_enc.

    A JumpReLU gate that compares z (c_out n) with a threshold t compares z with t / (c_out n).

    A TopK gate that orders features by z (c_out n) orders them by z n too. In units of n, the codes are z n: the
    encoder is multiplied by n and the decoder divided by it, which leaves the reconstruction as it is.

    Codes that are multiplied by c_out n, with decoder rows divided by it, are codes z n in units of c_out: encoder and
    decoder change in the same way, and the threshold is divided by c_out.
    """
    if weights.norm_use is None:
        return weights
    c_out = 1.0 if weights.scales is None else weights.scales.output
    if weights.norms is None:
        n = in_float64(lambda _, W: W.norm(dim=1).clamp(min=1e-30), weights.b_enc, weights.W_dec)
    else:
        n = in_float64(lambda stored: stored.clamp(min=1e-30) / c_out, weights.norms)
    threshold = weights.threshold
    # A gate with a threshold: only the threshold changes.
    if weights.norm_use == "gate" and weights.activation != "topk":
        if threshold is None:
            return weights
        note = "the threshold is compared with code x decoder norm: divided by it"
        limit = in_float64(lambda t: t / (n * c_out), threshold)
        return replace(weights, threshold=limit, notes=(*weights.notes, note))
    # All others: the codes are in units of n.
    if threshold is not None and weights.scales is not None:
        threshold = in_float64(lambda t: t / c_out, threshold)
    return replace(
        weights,
        W_enc=in_float64(lambda W: W * n, weights.W_enc),
        b_enc=in_float64(lambda b: b * n, weights.b_enc),
        W_dec=in_float64(lambda W: W / n[:, None], weights.W_dec),
        threshold=threshold,
        notes=(*weights.notes, "the gate sees code x decoder norm: codes are in units of that norm"),
    )


def gated_as_jumprelu(
    W_enc: Tensor, b_gate: Tensor, b_mag: Tensor, r_mag: Tensor, W_dec: Tensor, b_dec: Tensor
) -> StoredWeights:
    """Write a gated SAE (arXiv 2404.16014) as the JumpReLU SAE with the same codes.

    The gate opens where x W_enc + b_gate > 0, and the code is then z = exp(r_mag) x W_enc + b_mag: both see the same
    projection. So the gate opens where z > b_mag - exp(r_mag) b_gate, which is the threshold.
    """
    if not b_gate.shape == b_mag.shape == r_mag.shape or b_mag.ndim != 1:
        shapes = [tuple(vector.shape) for vector in (b_gate, b_mag, r_mag)]
        raise MatchError(f"a gated SAE whose gate and magnitude have biases and factors of the shapes {shapes}")
    factor = in_float64(torch.exp, r_mag)
    return StoredWeights(
        W_enc=in_float64(lambda W: W * factor, W_enc),
        b_enc=b_mag,
        W_dec=W_dec,
        b_dec=b_dec,
        activation="jumprelu",
        threshold=in_float64(lambda b, c: b - factor * c, b_mag, b_gate),
        notes=("gated: the same as JumpReLU with W_enc exp(r_mag), b_mag, and threshold b_mag - exp(r_mag) b_gate",),
    )


def in_float64(compute: Callable[..., Tensor], first: Tensor, *others: Tensor) -> Tensor:
    """Return `compute` of the tensors in float64; the result has the shape of the first tensor.

    If the first tensor has no data, neither has the result, and `compute` is not called: to compute with tensors
    without data, torch would import its compiler, which takes seconds.
    """
    if first.is_meta:
        return torch.empty(first.shape, dtype=torch.float64, device="meta")
    return compute(first.double(), *(other.double() for other in others))


def transposed(matrix: Tensor) -> Tensor:
    """Transpose a matrix. A tensor that is not a matrix is returned unchanged; `SAE` refuses its shape later."""
    return matrix.mT if matrix.ndim == 2 else matrix


def per_feature(threshold: Tensor, like: Tensor) -> Tensor:
    """Repeat a single threshold for all features, in the shape of `like`. A vector of thresholds stays as it is."""
    threshold = threshold.to(like.device)
    return threshold.expand(like.shape).contiguous() if threshold.ndim == 0 else threshold


def norm_scale(checkpoint: Checkpoint, config: Config, norm: Any, b_dec: Tensor) -> ActivationScale:
    """Return the scale sqrt(d) / norm of weights for activations that were scaled to a mean norm of sqrt(d).

    Raises `MatchError` if the norm is not positive, or the configuration has another d than the weights.
    """
    d = config.get("d_model")
    if type(d) is not int or b_dec.ndim != 1 or d != len(b_dec):
        raise checkpoint.error(f"d_model is {str(d)[:20]}, and b_dec has the shape {tuple(b_dec.shape)}")
    if isinstance(norm, Tensor) and norm.is_meta and norm.ndim == 0:
        return norm
    if isinstance(norm, Tensor) and norm.ndim == 0:
        norm = float(norm)
    if not isinstance(norm, int | float) or not 0 < norm < math.inf:
        raise checkpoint.error(f"the mean norm of its activations is {str(norm)[:20]}; it must be positive")
    return math.sqrt(d) / float(norm)
