"""Arguments that name activations, or a language model that makes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from saematch.cli.parser import as_path
from saematch.errors import MatchError

if TYPE_CHECKING:
    import torch

    from saematch.activations.stored import ActivationSource
    from saematch.sources import Layers


def add_activations(parser: argparse.ArgumentParser, required: bool = False) -> argparse._ArgumentGroup:
    """Add the arguments that name activations, or a language model, and return their group."""
    # The activations come from files or from a model, not from both.
    group = parser.add_argument_group("activations or a language model")
    either = group.add_mutually_exclusive_group(required=required)
    either.add_argument(
        "--activations", metavar="DIR", type=as_path, help="folder of hidden states, layer_<n>.npy, (tokens, d)"
    )
    either.add_argument("--model", metavar="NAME", help="a causal language model, for its activations and its loss")
    # Options of the one, options of the other, and an option of both.
    group.add_argument(
        "--document-length", type=int, metavar="N", help="for --activations without documents.npy: tokens per document"
    )
    group.add_argument(
        "--texts", metavar="FILE", type=as_path, help="for --model: plain text, or a .jsonl file with one text per line"
    )
    group.add_argument("--tokens", type=int, metavar="N", help="for --model: stop after about N tokens")
    group.add_argument(
        "--context", type=int, default=256, metavar="N", help="for --model: tokens per context (default: %(default)s)"
    )
    group.add_argument(
        "--hook", help="for --model: resid_post or resid_pre (default: what the SAEs say, else resid_post)"
    )
    group.add_argument(
        "--outliers",
        type=float,
        default=10.0,
        metavar="X",
        help="leave out tokens whose norm is above X times the median; 0 keeps all tokens (default: 10)",
    )
    return group


def activations_of(
    options: argparse.Namespace, layers: Callable[[], Layers], device: torch.device
) -> ActivationSource | None:
    """Return the activations that the options of `add_activations` name; None if they name none."""
    from saematch.activations.stored import StoredActivations

    # An option without the other that it belongs to would change nothing.
    for needed, names in (("model", ("texts", "tokens", "hook")), ("activations", ("document_length",))):
        given = [name for name in names if getattr(options, name) is not None]
        if given and getattr(options, needed) is None:
            raise MatchError(f"--{given[0].replace('_', '-')} is of no use without --{needed}")
    if options.activations is not None:
        return StoredActivations(options.activations, options.document_length)
    if options.model is None:
        return None
    if options.texts is None:
        raise MatchError("--model needs --texts, the texts that the model reads")
    from saematch.evaluation.hooks import hooks_of
    from saematch.evaluation.model import LanguageModel
    from saematch.evaluation.texts import Texts

    if find_spec("transformers") is not None:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call] # the status line shows progress
    return LanguageModel(
        options.model,
        Texts.read(options.texts),
        context=options.context,
        tokens=options.tokens,
        hooks=hooks_of(layers()) if options.hook is None else options.hook,
        device=device,
    )
