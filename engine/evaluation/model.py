"""A causal language model that reads texts: its hidden states, and its loss if some of them are replaced."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from saematch.activations.stored import ActivationSource
from saematch.errors import MatchError, refusals
from saematch.evaluation.blocks import Blocks
from saematch.evaluation.hooks import hook_block
from saematch.evaluation.texts import SHORTEST_CONTEXT, ContextBatch, Texts, Tokenizer, batches_of, cut_into_contexts
from saematch.numeric.numbers import checked_count
from saematch.numeric.rounding import Floats, Indices
from saematch.runs.plan import Pair
from saematch.sae.autoencoder import SAE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTEXT_LENGTH = 256  # tokens
CONTEXTS_PER_BATCH = 8

# Called with the hidden states `(n, d)` of both layers of a pair: replacements for those of the second layer.
Replacements = Callable[[Tensor, Tensor], Iterator[Tensor]]


class ModelRecord(TypedDict):
    """The identity of the hidden states of a language model."""

    model: str
    texts: str
    order: tuple[int, int, int | None]
    hooks: str | list[tuple[int, str | None]] | None


class BatchLosses(NamedTuple):
    """Next-token losses of a batch of contexts, in nats.

    Attributes:
        documents: the document of each context, `(n,)`.
        counted: bool `(n, length)`: True for selected tokens that have a next token.
        clean: the loss at each token, `(n, length)`; 0 at the last position.
        replaced: for each replacement, the loss at each token, `(n, length)`.
    """

    documents: Indices
    counted: NDArray[np.bool_]
    clean: Floats
    replaced: Iterator[Floats]


@dataclass(frozen=True)
class StatesBatch:
    """The hidden states of the selected tokens of a batch of contexts, in two layers.

    Attributes:
        x: hidden states of the first layer, `(n, d)`.
        y: hidden states of the second layer, `(n, d)`.
        positions: the context and the place of each token, `(n, 2)`.
        run: a function that runs the model from the first layer to the second: it takes the numbers of some contexts
            `(c,)` and hidden states `(c, length, d)` of the first layer, and returns those of the second.
        hidden: hidden states of all tokens in the first layer, `(contexts, length, d)`.
    """

    x: Tensor
    y: Tensor
    positions: Tensor
    run: Callable[[Tensor, Tensor], Tensor]
    hidden: Tensor

    def after(self, tokens: Tensor, states: Tensor) -> Tensor:
        """Return the hidden states of some tokens in the second layer if they are replaced in the first one.

        Args:
            tokens: the numbers of the tokens among the selected ones, `(k,)`, one or more.
            states: their new hidden states in the first layer, `(k, d)`.
        """
        of_tokens = self.positions[tokens]
        contexts, rows = torch.unique(of_tokens[:, 0], return_inverse=True)
        places = (rows, of_tokens[:, 1])
        hidden = self.hidden[contexts]
        hidden[places] = states.to(hidden)
        return self.run(contexts, hidden)[places]


class LanguageModel(ActivationSource):
    """A causal language model that `transformers` loads, and the texts that it reads.

    The first token of each context (BOS if the tokenizer has one) is left out of every measurement, and keeps its
    hidden state when others are replaced.

    Args:
        name: a folder, or the name of the model on the Hugging Face hub.
        texts: the texts, see `Texts.read`.
        context: tokens in a context; longer documents are cut into several contexts.
        batch: contexts that the model reads at a time.
        tokens: stop after the document that reaches this number of tokens.
        hooks: the place that an SAE reads: `"resid_post"` (after the block, the default), `"resid_pre"`, or the name
            of a hook on the residual stream as SAELens writes it. Give one hook for all layers, or a mapping of
            layers to hooks.
        device: the device of the model.

    Raises:
        MatchError: if transformers is not installed, if the model cannot be loaded, if the hidden states of its blocks
            cannot be replaced, or if an argument is not valid.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        texts: Texts,
        *,
        context: int = CONTEXT_LENGTH,
        batch: int = CONTEXTS_PER_BATCH,
        tokens: int | None = None,
        hooks: Mapping[int, str | None] | str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name, self.device = os.path.expanduser(name), torch.device(device)
        wrong = (
            f"context {context!r:.40} and batch {batch!r:.40}: give at least {SHORTEST_CONTEXT} tokens and one context"
        )
        context, batch = checked_count(context, SHORTEST_CONTEXT, wrong), checked_count(batch, 1, wrong)
        if tokens is not None:
            wrong = f"tokens is {tokens!r:.40}; give the least number of tokens to read, 1 or more"
            tokens = checked_count(tokens, 1, wrong)
        tokenizer, model = _load(self.name)
        self._blocks = Blocks(model.train(False).requires_grad_(False).to(self.device), self.name)
        self._hooks, self._texts, self._batch = hooks, texts, batch
        self._contexts = cut_into_contexts(tokenizer, texts.documents, context, tokens)
        if not self._contexts:
            raise MatchError(f"the texts have no document of {SHORTEST_CONTEXT} tokens or more")
        first = next(self._batches()).ids
        seconds = self._blocks.check_replacing(first)
        # About how long a pass from the middle block on over all texts takes.
        self.pass_seconds = seconds * sum(len(one.ids) for one in self._contexts) / first.numel()
        counts = [len(one.ids) - 1 for one in self._contexts]
        self.documents = np.repeat([one.document for one in self._contexts], counts).astype(np.int64)
        self._order = (context, batch, tokens)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {len(self._contexts)} contexts, {len(self.documents)} tokens)"

    @override
    def record(self) -> ModelRecord:
        hooks = self._hooks if isinstance(self._hooks, str | None) else sorted(self._hooks.items())
        return {"model": self.name, "texts": self._texts.digest, "order": self._order, "hooks": hooks}

    @override
    def check(self, layer: int, sae: SAE) -> None:
        self._block(layer)
        if sae.d != self._blocks.width:
            raise MatchError(
                f"{self.name}: its hidden states have width {self._blocks.width}, {sae.source} reads {sae.d}"
            )

    @override
    def batches(self, layers: Sequence[int]) -> Iterator[list[Tensor]]:
        for contexts in self._batches():
            inside = torch.from_numpy(contexts.inside)
            states = self._hidden_states(contexts, layers)
            for layer, x in zip(layers, states, strict=True):
                if not x[inside].isfinite().all():
                    raise MatchError(f"{self.name}: hidden states after layer {layer} are NaN or infinite")
            yield [x[inside] for x in states]

    def losses(
        self, layers: Pair, selected: NDArray[np.bool_], replacements: Replacements, skip: int = 0
    ) -> Iterator[BatchLosses]:
        """Yield the next-token losses of every batch: clean, and with hidden states after the second layer replaced.

        Args:
            layers: the pair of layers whose hidden states are given to `replacements`, those of selected tokens only.
            selected: bool `(tokens,)`, in the order of `batches`. All other tokens keep their hidden states.
            replacements: a function that yields replacements for the hidden states of the second layer, `(n, d)` each.
            skip: the number of batches at the beginning that are left out.
        """
        for contexts, chosen in islice(self._chosen(selected), skip, None):
            x, y = self._hidden_states(contexts, layers)
            has_next = np.arange(chosen.shape[1]) < contexts.lengths[:, None] - 1
            clean = self._loss(contexts, layers[1], y)
            mask = torch.from_numpy(chosen).to(self.device)
            replaced = self._losses_replaced(contexts, layers[1], y, mask, replacements(x[mask], y[mask]))
            yield BatchLosses(contexts.documents, chosen & has_next, clean, replaced)

    def states(self, layers: Pair, selected: NDArray[np.bool_]) -> Iterator[StatesBatch]:
        """Yield the hidden states of both layers of a pair for every batch that has selected tokens.

        Args:
            layers: the pair of layers; the first must be read in an earlier block, see `blocks_between`.
            selected: bool `(tokens,)`, in the order of `batches`.
        """
        first, last = map(self._block, layers)
        for contexts, chosen in self._chosen(selected):
            if not chosen.any():
                continue
            x, y = self._hidden_states(contexts, layers)
            mask, ids = torch.from_numpy(chosen).to(self.device), contexts.ids

            def run(rows: Tensor, hidden: Tensor, ids: Tensor = ids) -> Tensor:
                return self._blocks.run_between(ids[rows], first, hidden, last).float()

            yield StatesBatch(x[mask], y[mask], mask.nonzero(), run, x)

    def blocks_between(self, layers: Pair) -> int:
        """Return the number of blocks from the place that the first SAE of a pair reads to that of the second."""
        first, last = map(self._block, layers)
        return last - first

    def part(self, documents: NDArray[np.bool_]) -> LanguageModel:
        """Return the same model with some of its documents, bool `(documents,)`, which are numbered anew."""
        part, numbers = copy.copy(self), np.cumsum(documents) - 1
        part._contexts = [
            one._replace(document=int(numbers[one.document])) for one in self._contexts if documents[one.document]
        ]
        part.documents = numbers[self.documents[documents[self.documents]]]
        return part

    def _chosen(self, selected: NDArray[np.bool_]) -> Iterator[tuple[ContextBatch, NDArray[np.bool_]]]:
        """Yield every batch of contexts, and bool `(n, length)`: True for its selected tokens."""
        first = 0
        for contexts in self._batches():
            chosen = contexts.inside
            count = int(chosen.sum())
            chosen[chosen] = selected[first : first + count]
            first += count
            yield contexts, chosen

    def _losses_replaced(
        self, contexts: ContextBatch, layer: int, hidden: Tensor, mask: Tensor, replacements: Iterator[Tensor]
    ) -> Iterator[Floats]:
        for replacement in replacements:
            replaced = hidden.clone()
            replaced[mask] = replacement.to(replaced)
            yield self._loss(contexts, layer, replaced)

    def _hidden_states(self, contexts: ContextBatch, layers: Sequence[int]) -> list[Tensor]:
        """Return the hidden states `(n, length, d)` that the SAE of each layer reads, in float32."""
        blocks = [self._block(layer) for layer in layers]
        states = self._blocks.hidden_states(contexts.ids, blocks)
        return [states[block].float() for block in blocks]

    def _loss(self, contexts: ContextBatch, layer: int, hidden: Tensor) -> Floats:
        """Return the next-token loss at each position `(n, length)`, with the given hidden states; 0 at the last."""
        losses = np.zeros(contexts.ids.shape)
        losses[:, :-1] = self._blocks.token_losses(contexts.ids, self._block(layer), hidden).double().cpu().numpy()
        return losses

    def _block(self, layer: int) -> int:
        """Return the block whose output the SAE of a layer reads. Raises `MatchError` if there is no such block."""
        hook = self._hooks if isinstance(self._hooks, str | None) else self._hooks.get(layer)
        block = hook_block(hook, layer)
        if not 0 <= block < len(self._blocks):
            raise MatchError(f"{self.name} has {len(self._blocks)} blocks, and none of them belongs to layer {layer}")
        return block

    def _batches(self) -> Iterator[ContextBatch]:
        return batches_of(self._contexts, self._batch, self.device)


def _load(name: str) -> tuple[Tokenizer, PreTrainedModel]:
    """Load a model in float32 and its tokenizer. Raises `MatchError` if either cannot be loaded."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MatchError("a language model needs the package transformers: pip install 'saematch[model]'") from error
    # Models of different kinds raise exceptions of different kinds.
    with refusals("no causal language model can be loaded", name):
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(name)
        with torch.device("cpu"):  # the default device of the calling program may be another one
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    return tokenizer, model
