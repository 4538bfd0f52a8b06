"""Texts for a language model, and the contexts that they are cut into."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saematch.errors import MatchError, refusals
from saematch.numeric.rounding import Indices
from saematch.storage.folders import local_path
from saematch.storage.reading import refuse_pointer_at
from saematch.text import well_formed

SHORTEST_CONTEXT = 3  # tokens: the first is left out, and the second must have a next token


class Texts(NamedTuple):
    r"""Documents for a language model.

    Attributes:
        documents: the text of each document.
        digest: a hash of the documents, by which a resumed evaluation recognises them.

    Examples:
        >>> from pathlib import Path
        >>> _ = Path("texts.txt").write_text("The first document.\n\nThe second one.")
        >>> Texts.read("texts.txt").documents
        ['The first document.', 'The second one.']
    """

    documents: list[str]
    digest: str

    def __repr__(self) -> str:
        return f"Texts({len(self.documents)} documents)"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Texts:
        """Read a `.jsonl` file with `{"text": …}` on every line, or plain text with empty lines between documents.

        Raises:
            MatchError: if the file cannot be read, or if it is neither of the two.
        """
        path = local_path(path)
        refuse_pointer_at(path)
        kinds = (OSError, ValueError, KeyError, TypeError, RecursionError)
        expected = 'expected .jsonl with {"text": …} on every line, or plain text with an empty line between documents'
        with refusals("no texts can be read", path, *kinds, remedy=expected):
            content = path.read_text(encoding="utf-8")
            if path.suffix == ".jsonl":
                # Not `splitlines`: a text may contain other characters that end a line, such as U+2028.
                documents = [json.loads(line)["text"] for line in content.split("\n") if line.strip()]
            else:
                documents = re.split(r"\n\s*\n", content)
        if not all(isinstance(document, str) for document in documents):
            raise MatchError(f"{path}: a text is not a string")
        documents = [well_formed(document) for document in documents if document.strip()]
        return cls(documents, hashlib.sha256(json.dumps(documents).encode()).hexdigest())


class Tokenizer(Protocol):
    """The part of a tokenizer of `transformers` that is used here."""

    bos_token_id: int | None

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, list[int]]:
        """Return the token ids of a text as `input_ids`."""


class Context(NamedTuple):
    """The token ids that a model reads at a time, and the number of the document that they are taken from."""

    ids: list[int]
    document: int


class ContextBatch(NamedTuple):
    """Some contexts, padded at their end.

    Attributes:
        ids: token ids, int64 `(n, length)`.
        lengths: the number of tokens of each context, `(n,)`.
        documents: the document of each context, `(n,)`.
    """

    ids: Tensor
    lengths: Indices
    documents: Indices

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Bool `(n, length)`: True for the tokens of the text, except the first token of each context."""
        position = np.arange(self.ids.shape[1])
        return (position >= 1) & (position < self.lengths[:, None])


def cut_into_contexts(tokenizer: Tokenizer, documents: Sequence[str], length: int, tokens: int | None) -> list[Context]:
    """Cut documents into contexts of at most `length` tokens. Documents are numbered from 0 without gaps.

    Every context starts with the BOS token if the tokenizer has one. Pieces with fewer than `SHORTEST_CONTEXT` tokens
    are dropped. With `tokens`, cutting stops after the document that reaches this number of tokens.
    """
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    step = length - len(start)
    contexts: list[Context] = []
    document = 0
    for text in documents:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = [start + ids[position : position + step] for position in range(0, len(ids), step)]
        pieces = [piece for piece in pieces if len(piece) >= SHORTEST_CONTEXT]
        contexts += [Context(piece, document) for piece in pieces]
        document += bool(pieces)
        if tokens is not None and sum(len(context.ids) for context in contexts) >= tokens:
            break
    return contexts


def batches_of(contexts: Sequence[Context], size: int, device: torch.device) -> Iterator[ContextBatch]:
    """Yield contexts in batches of `size`, padded with token 0 to the longest context of the batch."""
    for start in range(0, len(contexts), size):
        batch = contexts[start : start + size]
        lengths = np.array([len(context.ids) for context in batch])
        ids = np.zeros((len(batch), lengths.max()), dtype=np.int64)
        for row, context in zip(ids, batch, strict=True):
            row[: len(context.ids)] = context.ids
        yield ContextBatch(torch.from_numpy(ids).to(device), lengths, np.array([context.document for context in batch]))
