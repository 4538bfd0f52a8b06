"""`saematch map`: fit the map from the activations of one model to those of another."""

from __future__ import annotations

import argparse

from saematch.cli.common import DONE, check_output, print_json
from saematch.cli.groups import add_json, add_overwrite
from saematch.cli.parser import as_path
from saematch.cli.terminal import status_line

HELP = "fit the map between the activations of two models, for --map of other commands"
DESCRIPTION = """Fit the orthogonal map (Procrustes) from the hidden states of model A to those of model B on the same
tokens, on the first half of them, and state what it leaves of the variance of the other half. With it, 'saematch match'
and 'saematch layers' compare SAEs of two models (--map FILE), and so does every command for an SAE with ?map=FILE after
its path."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("a", metavar="A", type=as_path, help="hidden states of model A (.npy), (tokens, d_A)")
    parser.add_argument("b", metavar="B", type=as_path, help="hidden states of model B (.npy), of the same tokens")
    parser.add_argument("-o", "--output", metavar="FILE", type=as_path, required=True, help="the map, .safetensors")
    add_overwrite(parser)
    parser.add_argument(
        "--documents",
        metavar="FILE",
        type=as_path,
        help="the document of each token (.npy), so that no document is in both halves (default: halves of tokens)",
    )
    parser.add_argument(
        "--outliers",
        type=float,
        default=10.0,
        metavar="X",
        help="leave out tokens whose norm is above X times the median; 0 keeps all tokens (default: 10)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Fit a map, and write it."""
    from saematch.activations import procrustes
    from saematch.storage.folders import local_path
    from saematch.storage.reading import mapped_array

    check_output(options.output, options.overwrite)
    documents = None if options.documents is None else mapped_array(local_path(options.documents), 1, "iu")
    with status_line(options.json) as show:
        show("fitting the map")
        fitted = procrustes(options.a, options.b, documents=documents, outliers=options.outliers or None)
        fitted.save(options.output, overwrite=options.overwrite)
    record, fit = fitted.record(), fitted.fit
    assert fit is not None
    if options.json:
        print_json({"out": options.output, **record})
        return DONE
    print("{} x {}: {}".format(*record["shape"], fitted.describe()))
    print(f"outliers left out: {fit.left_out:,}; best scale, which is not applied: {fit.scale:.3f}")
    print(f"\nWritten to {options.output}")
    return DONE
