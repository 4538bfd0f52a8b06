"""What a file format of SAEs has to say: how it is recognised, and what canonical form its tensors have.

A new family is one file with a `Family`, and its entry in `families.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saematch.errors import MatchError, refusals
from saematch.options import Activation
from saematch.sae.autoencoder import SAE
from saematch.sources.checkpoint import Checkpoint
from saematch.sources.formats.site import check_site

Tensors = Mapping[str, Any]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """An SAE in canonical form, and what else its files say.

    Attributes:
        sae: with tensors that have shape and precision but no data, where only headers were read.
        hook: where in the model it reads, as its configuration names it.
        layer: the layer that the files themselves name.
        l0: mean number of active features.
    """

    sae: SAE
    hook: str | None = None
    layer: int | None = None
    l0: float | None = None


@dataclass(frozen=True)
class Family:
    """A file format. Its functions are a module's, so that a family can be sent to another process.

    Attributes:
        name: for messages, records and `?family=`.
        title: for people: who publishes it, and how its files are called.
        suffixes: of the file with the weights.
        weights: names under which that file is published, as a regular expression.
        config: names of its configuration, relative to the weights; the first that is there counts.
        needs_config: whether weights without a configuration cannot be read.
        has: whether a file that holds these is of this family, by something that no other family has.
        entry: canonical form of the tensors, with or without data, given the configuration; it may raise `MatchError`.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    weights: str
    has: Callable[[Tensors], bool]
    entry: Callable[[Checkpoint, Tensors, Config], Entry]
    config: tuple[str, ...] = ()
    needs_config: bool = False

    def configured(self, at: Checkpoint) -> str | None:
        """The name of its configuration in the place of the weights. Raises `MatchError` where one is missing."""
        name = at.beside(*self.config)
        if name is None and self.needs_config:
            raise MatchError(
                f"{at.shown}: its {self.config[0]} is not there, which says how these weights are to be read: put it "
                f"there, as in {self.title}; without one, save them with their activation: "
                "saematch.SAE(W_enc, b_enc, W_dec, b_dec, …).save(folder)"
            )
        return name

    def of(self, at: Checkpoint, found: Tensors) -> Entry:
        """`entry`, with the configuration that lies beside the weights. Raises `MatchError`."""
        config = at.config(self.configured(at))
        # Values of an untrusted configuration may be anything, and of any size.
        with refusals(f"not as {self.name} has it; a value is of another kind", at.shown):
            return self.entry(at, found, config)


def take(at: Checkpoint, found: Tensors, *expected: str, optional: tuple[str, ...] = ()) -> list[Tensor]:
    """The tensors of these names. Raises `MatchError` if one is missing, or one is there that the format lacks."""
    missing = [name for name in expected if not isinstance(found.get(name), Tensor)]
    extra = [name for name in found if isinstance(found[name], Tensor) and name not in {*expected, *optional}]
    if missing or extra:
        wrong = [f"lacks {', '.join(sorted(missing))}"] * bool(missing)
        wrong += [f"holds {', '.join(sorted(extra))}, which this format does not know"] * bool(extra)
        raise MatchError(f"{at.shown}: {' and '.join(wrong)}; expected {', '.join(sorted(expected))}")
    for name in expected:
        if not found[name].is_floating_point():
            stored = str(found[name].dtype).removeprefix("torch.")
            raise MatchError(
                f"{at.shown}: {name} is stored as {stored}; expected float16, bfloat16, float32 or float64"
            )
    return [found[name] for name in expected]


def computed(compute: Callable[..., Tensor], first: Tensor, *others: Tensor) -> Tensor:
    """`compute` of the tensors in float64, in the shape of the first; without data, if the first has none.

    Torch imports its compiler, which takes seconds, to compute with tensors that have no data.
    """
    if first.is_meta:
        return torch.empty(first.shape, dtype=torch.float64, device="meta")
    return compute(first.double(), *(other.double() for other in others))


def refuse_unless_ones(at: Checkpoint, name: str, factors: Any, why: str) -> None:
    """Raise `MatchError` for factors that would change the weights, where nothing says that they are applied."""
    if isinstance(factors, Tensor) and not factors.is_meta and not bool((factors == 1).all()):
        raise MatchError(f"{at.shown}: {name} is not 1, and {why}")


def turned(matrix: Tensor) -> Tensor:
    """A matrix that is stored the other way round; what is none stays, and is refused by its shape."""
    return matrix.mT if matrix.ndim == 2 else matrix


def norm_scale(at: Checkpoint, config: Config, norm: Any, b_dec: Tensor) -> Any:
    """The scale sqrt(d) / norm of weights for activations whose mean norm was made sqrt(d). Raises `MatchError`."""
    d = config.get("d_model")
    if type(d) is not int or b_dec.ndim != 1 or d != len(b_dec):
        raise MatchError(f"{at.shown}: d_model is {str(d)[:20]}, and b_dec has the shape {tuple(b_dec.shape)}")
    if isinstance(norm, Tensor) and norm.is_meta and norm.ndim == 0:
        return norm
    if isinstance(norm, Tensor) and norm.ndim == 0:
        norm = float(norm)
    if not isinstance(norm, int | float) or not 0 < norm < math.inf:
        raise MatchError(f"{at.shown}: the mean norm of its activations is {str(norm)[:20]}; it must be positive")
    return math.sqrt(d) / float(norm)


def canonical(
    at: Checkpoint,
    *,
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    activation: Activation = "relu",
    threshold: Tensor | None = None,
    k: Any = None,
    subtracts: bool = False,
    scales: tuple[Any, Any] | None = None,
    norm: str = "",
    hook: str | None = None,
    writes: str | None = None,
    model: Any = None,
    notes: tuple[str, ...] = (),
) -> SAE:
    """An SAE in raw activation units from tensors in canonical orientation. Raises `MatchError`.

    What is changed is computed, and kept, in float64: rounding it would change the problem that is solved and proved.

    Args:
        subtracts: the encoder sees x - b_dec.
        scales: (c_in, c_out), the weights are for activations times c_in, and write activations times c_out.
        norm: "gate", the gate (threshold or choice of the k largest) sees codes times the norm of their decoder row as
            it is stored; "code", so does the decoder, whose rows are then divided by it.
        hook: what it reads.
        writes: what it reconstructs, where that is something else.
        model: the name of the model that it is for.
    """
    if W_enc.ndim == 3 or W_dec.ndim == 3:
        raise MatchError(
            f"{at.shown}: a cross-layer transcoder or a crosscoder: a feature reads or writes several layers, and has "
            "no one encoder and decoder row"
        )
    notes += check_site(at, hook, writes, model)
    asked = at.scale()
    scales = scales if asked is None else (asked, asked)
    if "k" in at.options and activation != "topk":
        raise MatchError(f"{at.shown}: ?k= is for TopK SAEs, and this one is {activation}")
    if b_enc.ndim == b_dec.ndim == 1 and W_enc.shape == W_dec.shape[::-1] == (len(b_dec), len(b_enc)):
        if subtracts:
            b_enc = computed(lambda b, c, W: b - c @ W, b_enc, b_dec, W_enc)
            notes += ("b_dec is subtracted from the input: folded into b_enc",)
        c_in, c_out = (1.0, 1.0) if scales is None else scales
        if scales is not None:
            W_enc = computed(lambda W: W * c_in, W_enc)
            W_dec, b_dec = computed(lambda W: W / c_out, W_dec), computed(lambda b: b / c_out, b_dec)
            notes += ("weights are for normalised activations: scaled to raw ones",)
        if norm:
            size = computed(lambda _, W: W.norm(dim=1).clamp(min=1e-30), b_enc, W_dec)
        if norm == "code" or (norm == "gate" and activation == "topk"):
            W_enc, b_enc = computed(lambda W: W * size, W_enc), computed(lambda b: b * size, b_enc)
            W_dec = computed(lambda W: W / size[:, None], W_dec)
            if threshold is not None and scales is not None:
                threshold = computed(lambda t: t / c_out, threshold)
            notes += ("the gate sees code x decoder norm: codes are in units of that norm",)
        elif norm == "gate" and threshold is not None:
            threshold = computed(lambda t: t / (size * c_out), threshold)
            notes += ("the threshold is compared with code x decoder norm: divided by it",)
    if threshold is not None and activation == "jumprelu" and not threshold.is_meta:
        # No family's JumpReLU lets codes below zero pass; one that was never set (-1) is a ReLU.
        threshold = threshold.clamp(min=0)
    return SAE(W_enc, b_enc, W_dec, b_dec, activation, threshold, k, at.shown, notes)


def gated_as_jumprelu(W_enc: Tensor, b_gate: Tensor, b_mag: Tensor, r_mag: Tensor) -> dict[str, Any]:
    """A gated encoder as the JumpReLU that it is (arXiv 2404.16014): both gates see the same projection.

    z = exp(r_mag) x W_enc + b_mag passes where x W_enc + b_gate > 0, that is where z > b_mag - exp(r_mag) b_gate.
    """
    if not b_gate.shape == b_mag.shape == r_mag.shape or b_mag.ndim != 1:
        shapes = [tuple(each.shape) for each in (b_gate, b_mag, r_mag)]
        raise MatchError(f"a gated SAE whose gate and magnitude have biases and factors of the shapes {shapes}")
    grow = computed(torch.exp, r_mag)
    threshold = computed(lambda b, c: b - grow * c, b_mag, b_gate)
    note = "gated: the same as JumpReLU with W_enc exp(r_mag), b_mag, and threshold b_mag - exp(r_mag) b_gate"
    return {
        "W_enc": computed(lambda W: W * grow, W_enc),
        "b_enc": b_mag,
        "activation": "jumprelu",
        "threshold": threshold,
        "notes": (note,),
    }


def everywhere(threshold: Tensor, like: Tensor) -> Tensor:
    """One threshold for all features, or one for each."""
    threshold = threshold.to(like.device)
    return threshold.expand(like.shape).contiguous() if threshold.ndim == 0 else threshold
