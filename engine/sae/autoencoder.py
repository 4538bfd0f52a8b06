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
from saematch.sae.mapped import mapped_sae
from saematch.sae.maps import Map, MapLike
from saematch.sae.saving import save_sae
from saematch.sae.spaces import UNKNOWN, Space
from saematch.storage.folders import local_path
from saematch.text import html_table

_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
Scale = FoldName | Tensor | np.ndarray | Sequence[float]


@dataclass(frozen=True, eq=False, repr=False)
class SAE:
    """A sparse autoencoder with `F` features for activations of width `d`, in the units of raw activations.

    Attributes:
        W_enc: `(d, F)` encoder; each column is a feature.
        b_enc: `(F,)` encoder bias.
        W_dec: `(F, d)` decoder; each row is a feature.
        b_dec: `(d,)` decoder bias. It is added to every reconstruction, and is neither folded nor matched.
        activation: `"jumprelu"` (z where z > threshold, else 0), `"relu"`, or `"topk"` (the k largest of relu(z)).
        threshold: `(F,)`, for `"jumprelu"`.
        k: the number of active features, for `"topk"`.
        source: the file of the SAE, for messages.
        notes: the changes that brought the SAE into this form, and what to know before it is compared.
        reads: the activations that the encoder sees, as far as files say which they are.
        writes: the activations that the decoder reconstructs. A transcoder writes others than it reads.

    Raises:
        MatchError: if the shapes do not fit each other, or the activation lacks its parameter.

    Examples:
        >>> import torch
        >>> import saematch as sm
        >>> sm.SAE(torch.eye(4), torch.zeros(4), torch.eye(4), torch.zeros(4), activation="topk", k=2).F
        4
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
    reads: Space = UNKNOWN
    writes: Space = UNKNOWN

    def __post_init__(self) -> None:
        for name in _TENSORS:
            value = getattr(self, name)
            if not (isinstance(value, Tensor) or (name == "threshold" and value is None)):
                raise self._error(f"{name} is a {type(value).__name__}, expected a torch tensor")
            if value is not None:
                self._set(name, dense_tensor(value, f"{self.source}: {name}"))
        for name in ("reads", "writes"):
            if not isinstance(getattr(self, name), Space):
                raise self._error(f"{name} is a {type(getattr(self, name)).__name__}, expected a saematch.Space")
        self._check_shapes()
        self._check_activation()

    def __repr__(self) -> str:
        k = f", k={self.k}" if self.k is not None else ""
        return f"SAE(F={self.F}, d={self.d}, activation={self.activation!r}{k}, source={self.source!r})"

    def _repr_html_(self) -> str:
        rows = [[name, " x ".join(map(str, tensor.shape)), tensor.dtype] for name, tensor in self.tensors().items()]
        return html_table("; ".join([repr(self), *self.notes]), ["tensor", "shape", "type"], rows)

    def _set(self, name: str, value: Any) -> None:
        """Set an attribute while the SAE is made; it is frozen afterwards."""
        object.__setattr__(self, name, value)

    def _check_shapes(self) -> None:
        """Raise `MatchError` unless all shapes fit those of the biases, and all tensors are of floats."""
        if self.b_enc.ndim != 1 or self.b_dec.ndim != 1:
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.tensors().items())
            raise self._error(f"b_enc and b_dec must be vectors, got {shapes}")
        F, d = self.F, self.d
        if not F or not d:
            raise self._error(f"{F} features for activations of width {d}: the SAE is empty")
        expected = {"W_enc": (d, F), "b_enc": (F,), "W_dec": (F, d), "b_dec": (d,), "threshold": (F,)}
        for name, tensor in self.tensors().items():
            shape = tuple(tensor.shape)
            if shape != expected[name]:
                hint = f"; it looks transposed: {name}.T fits" if shape == expected[name][::-1] else ""
                raise self._error(
                    f"{name} is {shape}, expected {expected[name]} from b_enc ({F},) and b_dec ({d},){hint}"
                )
            if not tensor.is_floating_point():
                raise self._error(f"{name} is {tensor.dtype}, expected a floating-point tensor")
            if tensor.dtype.itemsize < 2:
                raise self._error(f"{name} is {tensor.dtype}, which is for storage; convert it (.float())")

    def _check_activation(self) -> None:
        """Raise `MatchError` unless the activation is known and has its parameter."""
        if self.activation not in names(Activation):
            raise self._error(f"activation {self.activation!r} is not known; known: {_quoted(names(Activation))}")
        if (self.activation == "jumprelu") != (self.threshold is not None):
            raise self._error('a threshold comes with activation="jumprelu", and only with it')
        if self.activation == "topk":
            wrong = f'{self.source}: activation="topk" needs k between 1 and {self.F}, got {self.k!r:.40}'
            self._set("k", checked_count(self.k, 1, wrong, self.F))

    @property
    def F(self) -> int:
        """Number of features."""
        return len(self.b_enc)

    @property
    def d(self) -> int:
        """Width of the activations."""
        return len(self.b_dec)

    @property
    def is_transcoder(self) -> bool:
        """Whether the decoder reconstructs other activations than the encoder sees."""
        return self.reads.place != self.writes.place

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the SAE by name; `threshold` only if there is one."""
        values = {name: getattr(self, name) for name in _TENSORS}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, target: torch.dtype | torch.device | str) -> SAE:
        """Return the same SAE in another number type or on another device."""
        moved: dict[str, Any] = {name: tensor.to(target) for name, tensor in self.tensors().items()}
        return replace(self, **moved)

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes `(…, F)` of activations `x (…, d)`, in the number type of the SAE.

        Examples:
            >>> import torch
            >>> import saematch as sm
            >>> sae = sm.load_layers("sample")[8]
            >>> sae.encode(torch.zeros(2, sae.d)).shape
            torch.Size([2, 1024])
        """
        self._refuse_meta()
        x = checked_last(x, self.d, f"{self.source}: activations")
        z = x.to(self.W_enc) @ self.W_enc + self.b_enc
        if self.threshold is not None:
            return torch.where(z > self.threshold, z, torch.zeros_like(z))
        z = torch.relu(z)
        if self.activation == "relu":
            return z
        assert self.k is not None
        largest = torch.topk(z, self.k, dim=-1)
        return torch.zeros_like(z).scatter_(-1, largest.indices, largest.values)

    def decode(self, f: Tensor) -> Tensor:
        """Return the reconstructions `(…, d)` of codes `f (…, F)`.

        Examples:
            >>> import torch
            >>> import saematch as sm
            >>> sae = sm.load_layers("sample")[8]
            >>> torch.equal(sae.decode(torch.zeros(1, sae.F))[0], sae.b_dec)
            True
        """
        self._refuse_meta()
        f = checked_last(f, self.F, f"{self.source}: codes")
        return f.to(self.W_dec) @ self.W_dec + self.b_dec

    def fold(self, scale: Scale = "threshold") -> SAE:
        """Move a scale s per feature from the codes into the weights: encoder, bias and threshold / s, decoder * s.

        With s = threshold, every feature starts to fire at 1, in units of its own threshold (SAE Match, arXiv
        2410.07656). The reconstruction of a JumpReLU or ReLU SAE is unchanged, and its codes are divided by s. A TopK
        SAE may choose other features after a fold, because the scale decides which features are the largest.

        Args:
            scale: `"threshold"`; `"decoder_norm"`, s = 1 / |W_dec[i]|, which gives decoder rows unit norm; `"none"`,
                s = 1; or a vector `(F,)` of finite and positive numbers.

        Raises:
            MatchError: if the SAE has no threshold to fold, or s is not finite and positive.

        Examples:
            >>> import torch
            >>> import saematch as sm
            >>> sae = sm.load_layers("sample")[8]
            >>> folded = sae.fold("threshold")
            >>> x = torch.ones(1, sae.d)
            >>> torch.allclose(folded.encode(x), sae.encode(x) / sae.threshold)
            True
            >>> torch.allclose(folded.decode(folded.encode(x)), sae.decode(sae.encode(x)), atol=1e-3)
            True
        """
        s = self.scale(scale)
        return replace(
            self,
            W_enc=self.W_enc / s,
            b_enc=self.b_enc / s,
            W_dec=self.W_dec * s[:, None],
            threshold=None if self.threshold is None else self.threshold / s,
        )

    def mapped(self, map: MapLike) -> SAE:
        """Write the SAE in the basis of another model, whose activations are h_B ~ (h - mean_a) M + mean_b.

        Decoder rows become W_dec M, and encoder columns M^+ W_enc, where M^+ is the pseudo-inverse of M, its transpose
        if M is orthogonal; the biases move by the means. The mapped SAE has the same codes on mapped activations as
        this SAE has on its own, and its reconstructions are the mapped ones. If d > d_B, what M sends to 0 is lost: the
        codes are those of this SAE on the activations without it. If d < d_B, the mapped SAE does not see activations
        outside the rows of M. It is computed in float64, and rounded to the number type of the SAE, float32 or wider.

        Args:
            map: a `Map`, a matrix `(d, d_B)` for M, or a file of either.

        Raises:
            MatchError: for a map that is not for the width of this SAE, and for a transcoder, whose encoder and decoder
                need different maps.

        Examples:
            >>> import torch
            >>> import saematch as sm
            >>> sae = sm.load_layers("sample")[8].to(torch.float64)
            >>> turn = sm.Map(torch.linalg.qr(torch.randn(sae.d, sae.d, dtype=torch.float64)).Q)
            >>> x = torch.randn(4, sae.d, dtype=torch.float64)
            >>> torch.allclose(sae.mapped(turn).encode(turn.apply(x)), sae.encode(x))
            True
        """
        return mapped_sae(self, Map.of(map))

    def save(
        self,
        path: str | os.PathLike[str],
        format: SaeFormat = "saelens",
        *,
        hook: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the SAE into a folder, for other tools to read.

        The written SAE is for raw activations, and its encoder sees x itself.

        Args:
            path: the folder, which is made if need be.
            format: `"saelens"` (`sae_weights.safetensors` and `cfg.json`) or `"gemma_scope"` (`params.npz`; no TopK).
            hook: the place in the model that the SAE reads, for SAELens' configuration; that of `reads` by default.
            overwrite: whether to replace weights that the folder has already.

        Raises:
            MatchError: if the format is not known or cannot hold the SAE, or the folder cannot be written.

        Examples:
            >>> import saematch as sm
            >>> sae = sm.load_layers("sample")[8]
            >>> sae.save("saes/layer_8", hook="blocks.8.hook_resid_post")
            >>> sm.load("saes/layer_8").F
            1024
        """
        self._refuse_meta()
        save_sae(self, local_path(path), format, hook, overwrite)

    def check_finite(self) -> SAE:
        """Return the SAE itself.

        Raises:
            MatchError: if a tensor holds NaN or infinity; the message has their number and the index of the first.
        """
        self._refuse_meta()
        for name, tensor in self.tensors().items():
            # A sum is NaN or infinite if one of its terms is. It is a faster first look than one at every entry.
            bad = None if torch.isfinite(tensor.detach().sum()) else ~torch.isfinite(tensor)
            if bad is not None and bad.any():
                first = tuple(int(index) for index in bad.nonzero()[0])
                raise self._error(
                    f"{name} holds {int(bad.sum())} values that are NaN or infinite, the first at index {first}; the "
                    "file is damaged or was trained to divergence"
                )
        return self

    def scale(self, scale: Scale, dtype: torch.dtype | None = None) -> Tensor:
        """Return the vector s `(F,)` of `fold`, in the number type of the SAE or in `dtype`.

        Raises:
            MatchError: as `fold` does.
        """
        self._refuse_meta()
        dtype = dtype or self.W_enc.dtype
        if not isinstance(scale, str):
            return self._given_scale(scale, dtype)
        self.check_fold(scale)
        if scale == "none":
            return torch.ones(self.F, dtype=dtype, device=self.W_enc.device)
        if scale == "decoder_norm":
            norm: Tensor = torch.linalg.vector_norm(self.W_dec, dim=1, dtype=dtype)
            remedy = 'choose fold="none" or a scale of your own'
            return self._positive(norm, "the decoder norm", remedy).reciprocal()
        assert self.threshold is not None
        remedy = 'choose fold="decoder_norm", fold="none" or a scale of your own'
        return self._positive(self.threshold.to(dtype), "the threshold", remedy)

    def check_fold(self, name: str) -> None:
        """Raise `MatchError` for the name of a fold that this SAE cannot have, whatever the values of its weights."""
        if name not in names(FoldName):
            choices = _quoted(names(FoldName))
            raise MatchError(f"fold {name!r} is not known: choose one of {choices}, or give a vector ({self.F},)")
        if name == "threshold" and self.threshold is None:
            raise self._error(
                f'fold="threshold" needs a JumpReLU threshold, and this SAE is {self.activation}; choose '
                'fold="decoder_norm", fold="none" or a scale of your own'
            )

    def _given_scale(self, scale: Tensor | np.ndarray | Sequence[float], dtype: torch.dtype) -> Tensor:
        """Return a caller's vector of scales, checked, on the device of the SAE. Raises `MatchError`."""
        if not isinstance(scale, Tensor):
            array = dense_array(scale, "the fold's scale", "(F,)")
            if array.dtype.kind not in "fiu":
                neither = f"neither one of {_quoted(names(FoldName))} nor a vector"
                raise MatchError(f"fold {scale!r:.100} is {neither}: it holds {array.dtype}")
            scale = torch.from_numpy(array.astype(np.float64))
        refuse_meta(scale, "the fold's scale")
        s = dense_tensor(scale, "the fold's scale")
        if s.is_complex() or s.dtype == torch.bool:
            raise MatchError(f"the fold's scale is {s.dtype}, expected real numbers")
        s = s.to(dtype=dtype, device=self.W_enc.device)
        if s.shape != (self.F,):
            raise self._error(f"the fold's scale has shape {tuple(s.shape)}, expected ({self.F},)")
        return self._positive(s, "the scale", "every entry must be finite and positive")

    def _positive(self, s: Tensor, what: str, remedy: str) -> Tensor:
        """Return a vector of scales. Raises `MatchError` for entries that are not finite and positive."""
        bad = ~(torch.isfinite(s) & (s > 0))
        if bad.any():
            first = int(bad.nonzero()[0])
            raise self._error(
                f"{what} is not finite and positive for {int(bad.sum())} of {self.F} features, the first of them "
                f"feature {first} ({float(s[first]):g}); {remedy}"
            )
        return s

    def _refuse_meta(self) -> None:
        """Raise `MatchError` for an SAE without values, as the headers of a file describe it."""
        for name, tensor in self.tensors().items():
            refuse_meta(tensor, f"{self.source}: {name}")

    def _error(self, wrong: str) -> MatchError:
        return MatchError(f"{self.source}: {wrong}")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
