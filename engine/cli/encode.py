"""`saematch encode`: write which features of each SAE are active on which token, for matching by activations."""

from __future__ import annotations

import argparse
import sys

from saematch.cli.activations import activations_of, add_activations
from saematch.cli.common import DONE, print_json
from saematch.cli.groups import add_json, add_overwrite, add_quiet, add_source
from saematch.cli.parser import as_path
from saematch.cli.terminal import status_line, table

HELP = "write the codes of SAEs on many tokens, for 'layers --metric correlation'"
DESCRIPTION = """Encode hidden states by the SAE of each layer, and write which features are active on which token, one
file for each layer. 'saematch layers --metric correlation --activations DIR' matches by these codes. Tokens that are
outliers in some layer, such as attention sinks, are left out. Rerun the same command to resume: finished layers are
skipped."""
_LEGEND = "active: mean number of active features for each token; never active: features that are active on no token"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_source(parser)
    parser.add_argument("-o", "--output", metavar="DIR", type=as_path, required=True, help="the folder of the codes")
    add_overwrite(parser)
    parser.add_argument("--device", default="cpu", help="where the SAEs and the model run (default: %(default)s)")
    add_quiet(parser)
    add_json(parser)
    add_activations(parser, required=True)


def run(options: argparse.Namespace) -> int:
    """Write the codes of all layers."""
    from saematch.activations.encoding import encode_layers
    from saematch.matching.backend import choose_backend
    from saematch.sources import load_layers

    layers = load_layers(options.source)
    device = choose_backend("torch", options.device).device
    with status_line(options.quiet or options.json) as show:
        source = activations_of(options, lambda: layers, device)
        assert source is not None  # the parser requires one
        show("choosing the tokens, and encoding the first layer")
        written = []
        for layer in encode_layers(
            layers,
            source,
            options.output,
            outliers=options.outliers or None,
            overwrite=options.overwrite,
            device=device,
        ):
            written.append(layer)
            show.share(f"{len(written)} of {len(layers)} layers", len(written) / len(layers))
    if options.json:
        print_json({"out": options.output, "layers": [one.as_json() for one in written]})
    elif not options.quiet:
        head = ("layer", "tokens", "left out", "features", "active", "never active", "file")
        rows = []
        for one in written:
            counts = [f"{count:,}" for count in (one.layer, one.tokens, one.left_out, one.F)]
            name = one.path.name if one.is_new else f"{one.path.name} (was there)"
            rows.append([*counts, f"{one.active:.1f}", f"{one.never_active:,}", name])
        print(table(head, rows))
        print(_LEGEND)
        print(f"\nWritten to {options.output}")
        sys.stdout.flush()
    return DONE
