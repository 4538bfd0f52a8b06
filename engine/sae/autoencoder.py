"""One sparse autoencoder in canonical form: `f = activation(x W_enc + b_enc)`, `x_hat = f W_dec + b_dec`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saematch.errors import MatchError
from saematch.numeric.arrays import checked_last, dense_array, dense_tensor, refuse_meta
from saematch.numeric.numbers import checked_count
from saematch.options import Activation, FoldName, SaeFormat, names
from saematch.sae.saving import save
from saematch.storage.folders import local_path

_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
Scale = FoldName | Tensor | np.ndarray | Sequence[float]


@dataclass(frozen=True, eq=False)
class SAE:
    """A sparse autoencoder with `F` features on activations of width `d`, in raw activation units.

    Attributes:
        W_enc: `(d, F)` encoder, one feature a column.
        b_enc: `(F,)` encoder bias.
        W_dec: `(F, d)` decoder, one feature a row.
        b_dec: `(d,)` decoder bias; added to every reconstruction, never folded and never matched.
        activation: `"jumprelu"` (z where z > threshold, else 0), `"relu"`, or `"topk"` (the k largest of relu(z)).
        threshold: `(F,)`, with `"jumprelu"`.
        k: with `"topk"`.
        source: where it was read from, for messages.
        notes: what was changed to bring it into this form, and what to know before it is compared.

    Raises:
        MatchError: if the shapes do not fit each other, or the activation lacks its parameter.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    activation: Activation = "relu"
    threshold: Tensor | None = None
    k: int | None = None
    source: str = "SAE"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _TENSORS:
            value = getattr(self, name)
            if not (isinstance(value, Tensor) or (name == "threshold" and value is None)):
                raise MatchError(f"{self.source}: {name} is a {type(value).__name__}, expected a torch tensor")
            if value is not None:
                object.__setattr__(self, name, dense_tensor(value, f"{self.source}: {name}"))
        if self.b_enc.ndim != 1 or self.b_dec.ndim != 1:
            raise MatchError(f"{self.source}: b_enc and b_dec must be vectors, got {_shapes(self)}")
        F, d = len(self.b_enc), len(self.b_dec)
        if not F or not d:
            raise MatchError(f"{self.source}: {F} features on activations of width {d}: there is nothing in it")
        expected = {"W_enc": (d, F), "b_enc": (F,), "W_dec": (F, d), "b_dec": (d,), "threshold": (F,)}
        for name, tensor in self.tensors().items():
            if tuple(tensor.shape) != expected[name]:
                turned = tuple(tensor.shape) == expected[name][::-1]
                raise MatchError(
                    f"{self.source}: {name} is {tuple(tensor.shape)}, expected {expected[name]} from b_enc ({F},) and "
                    f"b_dec ({d},)" + (f"; it looks transposed: {name}.T fits" if turned else "")
                )
            if not tensor.is_floating_point():
                raise MatchError(f"{self.source}: {name} is {tensor.dtype}, expected a floating-point tensor")
            if tensor.dtype.itemsize < 2:
                raise MatchError(
                    f"{self.source}: {name} is {tensor.dtype}, which is for storage; convert it (.float())"
                )
        if self.activation not in names(Activation):
            raise MatchError(
                f"{self.source}: activation {self.activation!r} is not known; known: {_list(names(Activation))}"
            )
        if (self.activation == "jumprelu") != (self.threshold is not None):
            raise MatchError(f'{self.source}: a threshold comes with activation="jumprelu", and only with it')
        if self.activation == "topk":
            wrong = f'{self.source}: activation="topk" needs k between 1 and {F}, got {self.k!r:.40}'
            object.__setattr__(self, "k", checked_count(self.k, 1, wrong, F))

    @property
    def F(self) -> int:
        """Number of features."""
        return len(self.b_enc)

    @property
    def d(self) -> int:
        """Width of the activations."""
        return len(self.b_dec)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        values = {name: getattr(self, name) for name in _TENSORS}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, target: torch.dtype | torch.device | str) -> SAE:
        """The same SAE in another precision or on another device."""
        moved: dict[str, Any] = {name: tensor.to(target) for name, tensor in self.tensors().items()}
        return replace(self, **moved)

    def encode(self, x: Tensor) -> Tensor:
        """Codes `(…, F)` of activations `x (…, d)`, in the SAE's own precision."""
        self._refuse_meta()
        x = checked_last(x, self.d, f"{self.source}: activations")
        z = x.to(self.W_enc) @ self.W_enc + self.b_enc
        if self.threshold is not None:
            return torch.where(z > self.threshold, z, torch.zeros_like(z))
        z = torch.relu(z)
        if self.activation == "relu":
            return z
        assert self.k is not None
        kept = torch.topk(z, self.k, dim=-1)
        return torch.zeros_like(z).scatter_(-1, kept.indices, kept.values)

    def decode(self, f: Tensor) -> Tensor:
        """Reconstructions `(…, d)` of codes `f (…, F)`."""
        self._refuse_meta()
        f = checked_last(f, self.F, f"{self.source}: codes")
        return f.to(self.W_dec) @ self.W_dec + self.b_dec

    def fold(self, scale: Scale = "threshold") -> SAE:
        """Move a scale per feature from the code into the weights: encoder, bias and threshold / s, decoder * s.

        With s = threshold every feature fires at 1, in units of its own threshold (SAE Match, arXiv 2410.07656). The
        reconstruction of a JumpReLU or ReLU SAE is unchanged and its codes are divided by s. A TopK SAE may choose
        other features after a fold: its scale decides who is largest.

        Args:
            scale: `"threshold"`; `"decoder_norm"`, s = 1 / |W_dec[i]|, which makes decoder rows unit; `"none"`, s = 1;
                or a vector `(F,)` of your own.

        Raises:
            MatchError: if the SAE has no threshold to fold, or s is not finite and positive.
        """
        s = self.scale(scale)
        return replace(
            self,
            W_enc=self.W_enc / s,
            b_enc=self.b_enc / s,
            W_dec=self.W_dec * s[:, None],
            threshold=None if self.threshold is None else self.threshold / s,
        )

    def save(
        self,
        path: str | os.PathLike[str],
        format: SaeFormat = "saelens",
        *,
        hook: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write it into a folder, for other tools to read: it is for raw activations, and its encoder sees x itself.

        Args:
            path: the folder, which is made.
            format: `"saelens"` (`sae_weights.safetensors`, `cfg.json`) or `"gemma_scope"` (`params.npz`; no TopK).
            hook: where in the model it reads, for SAELens' configuration.
            overwrite: replace weights that are there.

        Raises:
            MatchError: if the format is not known or cannot hold it, or the folder cannot be written.
        """
        self._refuse_meta()
        save(local_path(path), format, self.tensors(), self.activation, self.k, hook, overwrite)

    def check_finite(self) -> SAE:
        """The SAE itself. Raises `MatchError` if a tensor holds NaN or infinity, with their count and the first."""
        self._refuse_meta()
        for name, tensor in self.tensors().items():
            finite = torch.isfinite(tensor)
            if not finite.all():
                bad = ~finite
                first = tuple(int(index) for index in bad.nonzero()[0])
                raise MatchError(
                    f"{self.source}: {name} holds {int(bad.sum())} values that are NaN or infinite, the first at index "
                    f"{first}; the file is damaged or was trained to divergence"
                )
        return self

    def scale(self, scale: Scale, dtype: torch.dtype | None = None) -> Tensor:
        """The vector `(F,)` that `fold` uses, in the SAE's precision or another. Raises `MatchError` as `fold` does."""
        self._refuse_meta()
        dtype, device = dtype or self.W_enc.dtype, self.W_enc.device
        if not isinstance(scale, str):
            neither = f"neither one of {_list(names(FoldName))} nor a vector"
            if not isinstance(scale, Tensor):
                array = dense_array(scale, f"fold {scale!r:.100}, {neither}:", "(F,)")
                if array.dtype.kind not in "fiu":
                    raise MatchError(f"fold {scale!r:.100} is {neither}: it holds {array.dtype}")
                scale = torch.from_numpy(array.astype(np.float64))
            refuse_meta(scale, "the fold's scale")
            s = dense_tensor(scale, "the fold's scale")
            if s.is_complex() or s.dtype == torch.bool:
                raise MatchError(f"the fold's scale is {s.dtype}, expected real numbers")
            s = s.to(dtype=dtype, device=device)
            if s.shape != (self.F,):
                raise MatchError(f"{self.source}: the fold's scale has shape {tuple(s.shape)}, expected ({self.F},)")
            return self._positive(s, "the scale", "every entry must be finite and positive")
        self.check_fold(scale)
        if scale == "none":
            return torch.ones(self.F, dtype=dtype, device=device)
        remedy = 'choose fold="none" or a scale of your own'
        if scale == "decoder_norm":
            norm: Tensor = torch.linalg.vector_norm(self.W_dec, dim=1, dtype=dtype)
            return self._positive(norm, "the decoder norm", remedy).reciprocal()
        assert self.threshold is not None
        remedy = 'choose fold="decoder_norm", fold="none" or a scale of your own'
        return self._positive(self.threshold.to(dtype), "the threshold", remedy)

    def check_fold(self, name: str) -> None:
        """Raise `MatchError` for a fold that no values could make possible."""
        if name not in names(FoldName):
            raise MatchError(
                f"fold {name!r} is not known: choose one of {_list(names(FoldName))}, or give a vector ({self.F},)"
            )
        if name == "threshold" and self.threshold is None:
            raise MatchError(
                f'{self.source}: fold="threshold" needs a JumpReLU threshold, and this SAE is {self.activation}; '
                'choose fold="decoder_norm", fold="none" or a scale of your own'
            )

    def _refuse_meta(self) -> None:
        """Raise `MatchError` for an SAE of shapes alone, as the header of a file describes it."""
        for name, tensor in self.tensors().items():
            refuse_meta(tensor, f"{self.source}: {name}")

    def _positive(self, s: Tensor, what: str, remedy: str) -> Tensor:
        bad = ~(torch.isfinite(s) & (s > 0))
        if bad.any():
            first = int(bad.nonzero()[0])
            raise MatchError(
                f"{self.source}: {what} is not finite and positive for {int(bad.sum())} of {self.F} features, the "
                f"first of them feature {first} ({float(s[first]):g}); {remedy}"
            )
        return s


def _shapes(sae: SAE) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sae.tensors().items())


def _list(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
