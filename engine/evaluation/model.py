"""A causal language model run on texts: its hidden states, and its loss where those after one layer are replaced."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from saematch.errors import MatchError, refusals
from saematch.evaluation.activations import Source
from saematch.numeric.numbers import checked_count
from saematch.numeric.rounding import Floats, Indices
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE
from saematch.storage.folders import local_path, well_formed
from saematch.storage.reading import refuse_pointer_at

CONTEXT, BATCH = 256, 8  # tokens in a context, and contexts at a time
_LOSS_TOLERANCE = 1e-4  # nats; float32 sums of the same numbers in another order differ by far less


class Texts(NamedTuple):
    """Documents and a short mark of them."""

    documents: list[str]
    mark: str

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Texts:
        """`.jsonl` with a `"text"` a line, or plain text in which empty lines part documents.

        Raises `MatchError` where there is nothing to read.
        """
        path = local_path(path)
        refuse_pointer_at(path)
        kinds = (OSError, ValueError, KeyError, TypeError, RecursionError)
        expected = 'expected .jsonl with {"text": …} a line, or plain text with an empty line between documents'
        with refusals("no texts can be read", path, *kinds, remedy=expected):
            content = path.read_text(encoding="utf-8")
            if path.suffix == ".jsonl":  # whose lines may hold other marks of an end of line in their texts
                documents = [json.loads(line)["text"] for line in content.split("\n") if line.strip()]
            else:
                documents = re.split(r"\n\s*\n", content)
        if not all(isinstance(document, str) for document in documents):
            raise MatchError(f"{path}: a text is no string")
        documents = [well_formed(document) for document in documents if document.strip()]
        return cls(documents, hashlib.sha256(json.dumps(documents).encode()).hexdigest())


class _Contexts(NamedTuple):
    """Some contexts, padded at their end: token ids `(n, length)`, lengths `(n,)`, documents `(n,)`."""

    ids: Tensor
    lengths: Indices
    documents: Indices

    @property
    def inside(self) -> NDArray[np.bool_]:
        """`(n, length)`: tokens of the text, without the first of each context."""
        at = np.arange(self.ids.shape[1])
        return (at >= 1) & (at < self.lengths[:, None])


class LanguageModel(Source):
    """A causal language model that `transformers` loads, run on some texts.

    The first token of each context (BOS where the tokenizer has one) is left out of every measurement, and keeps its
    hidden state when others are replaced.

    Args:
        name: a folder, or what the hub calls it.
        texts: see `Texts.read`.
        context: tokens in a context; longer documents are cut into several.
        tokens: stop after the document that reaches so many.
        hooks: layer -> where the SAE reads: "resid_post" (after the block, unless given), "resid_pre", or the name of
            a hook as SAELens writes it. One for all, or from the SAEs' own files.

    Raises:
        MatchError: if transformers is not installed, the model cannot be loaded, or hidden states of its blocks cannot
            be replaced.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        texts: Texts,
        *,
        context: int = CONTEXT,
        batch: int = BATCH,
        tokens: int | None = None,
        hooks: Mapping[int, str | None] | str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise MatchError("--model needs the package transformers: pip install 'saematch[model]'") from error
        name = os.path.expanduser(name)
        wrong = f"context {context!r:.40} and batch {batch!r:.40}: give at least 3 tokens and one context"
        context, batch = checked_count(context, 3, wrong), checked_count(batch, 1, wrong)
        if tokens is not None:
            tokens = checked_count(tokens, 1, f"tokens is {tokens!r:.40}; give how many to read at least, from 1 on")
        with refusals("no causal language model can be loaded", name):  # the many kinds of models raise anything
            tokenizer = AutoTokenizer.from_pretrained(name)
            with torch.device("cpu"):  # whatever the host program's default is
                model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        self.name, self.device, self.width = name, torch.device(device), int(model.config.get_text_config().hidden_size)
        self._model = model.eval().requires_grad_(False).to(self.device)
        self._blocks = _blocks(self._model, int(model.config.get_text_config().num_hidden_layers), name)
        self._hooks, self._texts, self._batch = hooks, texts, batch
        self._contexts = _cut(tokenizer, texts.documents, context, tokens)
        if not self._contexts:
            raise MatchError("the texts hold no document of three tokens or more")
        self._check_replacing()
        _, lengths, documents = zip(*self._contexts, strict=True)
        self.documents = np.repeat(documents, np.array(lengths) - 1).astype(np.int64)
        self._order = (context, batch, tokens)

    def __str__(self) -> str:
        return self.name

    @override
    def record(self) -> dict[str, Any]:
        hooks = self._hooks if isinstance(self._hooks, str | None) else sorted(self._hooks.items())
        return {"model": self.name, "texts": self._texts.mark, "order": self._order, "hooks": hooks}

    @override
    def check(self, layer: int, sae: SAE) -> None:
        self._block(layer)
        if sae.d != self.width:
            raise MatchError(f"{self.name}: its hidden states have width {self.width}, {sae.source} reads {sae.d}")

    @override
    def batches(self, layers: Sequence[int]) -> Iterator[list[Tensor]]:
        for contexts in self._batches():
            inside = torch.from_numpy(contexts.inside)
            found = self._hidden(contexts, layers)
            for layer, x in zip(layers, found, strict=True):
                if not x[inside].isfinite().all():
                    raise MatchError(f"{self.name}: hidden states after layer {layer} are NaN or infinite")
            yield [x[inside] for x in found]

    def losses(
        self, layers: Pair, kept: NDArray[np.bool_], replacements: Callable[[Tensor, Tensor], Iterator[Tensor]]
    ) -> Iterator[tuple[Indices, NDArray[np.bool_], Floats, Iterator[Floats]]]:
        """Next-token losses of every batch: clean, and with hidden states after the second layer replaced.

        Args:
            layers: whose hidden states `replacements` is called with, `(n, d)` each: of the tokens that are kept.
            kept: bool `(tokens,)`, in the order of `batches`; others keep their hidden states.

        Yields:
            For each batch: the document of every context; `(contexts, length)` the kept tokens that have a next one;
            the clean loss of each token, `(contexts, length)`; and that with each replacement.
        """
        at = 0
        for contexts in self._batches():
            inside = contexts.inside
            chosen = inside.copy()
            chosen[inside] = kept[at : at + inside.sum()]
            at += int(inside.sum())
            mask = torch.from_numpy(chosen).to(self.device)
            x, y = self._hidden(contexts, layers)
            counted = chosen & (np.arange(chosen.shape[1]) < contexts.lengths[:, None] - 1)
            clean = self._loss(contexts, layers[1], y)

            def replaced(contexts=contexts, y=y, x=x, mask=mask) -> Iterator[Floats]:  # type: ignore[no-untyped-def]
                for stand_in in replacements(x[mask], y[mask]):
                    hidden = y.clone()
                    hidden[mask] = stand_in.to(hidden)
                    yield self._loss(contexts, layers[1], hidden)

            yield contexts.documents, counted, clean, replaced()

    @torch.inference_mode()
    def _hidden(self, contexts: _Contexts, layers: Sequence[int]) -> list[Tensor]:
        """Hidden states `(n, length, d)` after each layer."""
        found: dict[int, Tensor] = {}
        with ExitStack() as held:
            for layer in set(layers):
                block = self._blocks[self._block(layer)]
                keep = lambda _, __, out, layer=layer: found.__setitem__(layer, _hidden_of(out).clone())  # noqa: E731
                held.callback(block.register_forward_hook(keep).remove)
            with self.device:  # for what the model itself makes
                self._model.base_model(contexts.ids, use_cache=False)
        return [found[layer].float() for layer in layers]

    @torch.inference_mode()
    def _loss(self, contexts: _Contexts, layer: int, hidden: Tensor) -> Floats:
        """Of predicting the next token at each place `(n, length)`, 0 at the last, with these hidden states."""
        with self._replaced(self._block(layer), hidden):
            logits = self._logits(contexts.ids)
        loss = nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), contexts.ids[:, 1:].flatten(), reduction="none"
        )
        out = np.zeros(contexts.ids.shape)
        out[:, :-1] = loss.view(len(contexts.ids), -1).double().cpu().numpy()
        return out

    def _logits(self, ids: Tensor) -> Tensor:
        with self.device:
            logits: Tensor = self._model(ids, use_cache=False).logits
        return logits

    @contextmanager
    def _replaced(self, last: int, hidden: Tensor) -> Iterator[None]:
        """Blocks up to `last` are left out: what they return does not matter where it is replaced as a whole."""

        def skip(returned: Tensor | None) -> Callable[..., Any]:
            def forward(*arguments: Any, **named: Any) -> Any:
                given = arguments[0] if arguments else named["hidden_states"]
                out = given if returned is None else returned
                return (out,) if self._returns_tuple else out

            return forward

        with ExitStack() as held:
            for number, block in enumerate(self._blocks[: last + 1]):
                block.forward = skip(hidden if number == last else None)
                held.callback(block.__dict__.pop, "forward")
            yield

    def _check_replacing(self) -> None:
        """Raise `MatchError` unless hidden states put in the place of the same ones leave the loss as it is."""
        middle = len(self._blocks) // 2
        returned: list[tuple[bool, Tensor]] = []
        keep = lambda _, __, out: returned.append((isinstance(out, tuple), _hidden_of(out).clone()))  # noqa: E731
        handle = self._blocks[middle].register_forward_hook(keep)
        contexts = next(self._batches())

        def loss() -> Tensor:
            logits = self._logits(contexts.ids)
            return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), contexts.ids[:, 1:].flatten())

        with torch.inference_mode():
            expected = loss()
            handle.remove()
            self._returns_tuple, hidden = returned[0]
            with self._replaced(middle, hidden):
                again = loss()
        if not abs(float(again - expected)) <= _LOSS_TOLERANCE:
            raise MatchError(
                f"{self.name}: its blocks pass on more than hidden states, so that these cannot be replaced (loss "
                f"{float(expected):.4f}, {float(again):.4f} with the same hidden states put back)"
            )

    def _block(self, layer: int) -> int:
        """The block whose output the SAE of a layer reads. Raises `MatchError`."""
        hook = self._hooks if isinstance(self._hooks, str | None) else self._hooks.get(layer)
        block = hook_block(hook, layer)
        if not 0 <= block < len(self._blocks):
            raise MatchError(f"{self.name} has {len(self._blocks)} blocks; layer {layer} is none of them")
        return block

    def _batches(self) -> Iterator[_Contexts]:
        for start in range(0, len(self._contexts), self._batch):
            some = self._contexts[start : start + self._batch]
            ids = np.zeros((len(some), max(length for _, length, _ in some)), dtype=np.int64)
            for row, (tokens, length, _) in zip(ids, some, strict=True):
                row[:length] = tokens
            lengths, documents = (np.array(column) for column in list(zip(*some, strict=True))[1:])
            yield _Contexts(torch.from_numpy(ids).to(self.device), lengths, documents)


def hook_block(hook: str | None, layer: int) -> int:
    """The block whose output is read at a hook of a layer: of a residual stream. Raises `MatchError` for others."""
    name = hook or "resid_post"
    block = r"([A-Za-z_]+\.)*(layers|h)\.\d+(\.output)?"
    if re.fullmatch(rf"(blocks\.\d+\.)?(hook_)?resid_post|resid_post_layer_\d+|{block}", name):
        return layer
    if re.fullmatch(r"(blocks\.\d+\.)?(hook_)?resid_pre", name):
        return layer - 1
    raise MatchError(
        f"hook {name!r} is not a residual stream: hidden states are replaced after whole blocks (resid_post, resid_pre)"
    )


def _cut(tokenizer: Any, documents: Sequence[str], context: int, most: int | None) -> list[tuple[list[int], int, int]]:
    """Token ids, length and document of every context, documents numbered without gaps."""
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    step = context - len(start)
    found: list[tuple[list[int], int, int]] = []
    document = 0
    for text in documents:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = [start + ids[at : at + step] for at in range(0, len(ids), step)]
        pieces = [piece for piece in pieces if len(piece) >= 3]
        found += [(piece, len(piece), document) for piece in pieces]
        document += bool(pieces)
        if most is not None and sum(length for _, length, _ in found) >= most:
            break
    return found


def _blocks(model: nn.Module, layers: int, name: str) -> nn.ModuleList:
    """The list of the model's blocks: the one that is as long as the model is deep."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return module
    raise MatchError(f"{name}: no list of {layers} blocks is to be found in it")


def _hidden_of(out: Any) -> Tensor:
    hidden = out[0] if isinstance(out, tuple) else out
    assert isinstance(hidden, Tensor)
    return hidden
