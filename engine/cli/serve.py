"""`saematch serve`: serve the page of a run on a local address."""

from __future__ import annotations

import argparse
import webbrowser

from saematch.cli.common import DONE
from saematch.cli.groups import add_inputs, add_margins, add_page, add_run, contents_of
from saematch.errors import MatchError

HELP = "serve the page of a run on a local address, for runs that are too large for one file"
DESCRIPTION = """Serve the page of a run on a local address until Ctrl-C. The page asks for data as it needs them, so
that runs of any size can be browsed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_run(parser)
    add_inputs(parser)
    add_margins(parser)
    parser.add_argument(
        "--weights", action="store_true", help="also show cosines and costs by part, which needs the SAEs of the run"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="name or address to serve on (default: %(default)s); for any address that other machines can reach, the "
        "page is only served to who has the token in the address that is printed",
    )
    parser.add_argument("--port", type=int, default=0, help="port to serve on (default: any free port)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser of this machine")
    add_page(parser)


def run(options: argparse.Namespace) -> int:
    """Serve the page of a run until Ctrl-C."""
    from saematch.report import Server

    try:
        server = Server(contents_of(options, options.weights or options.margins), options.host, options.port)
    except (OSError, OverflowError, UnicodeError) as error:
        where = f"--host {options.host} --port {options.port}"
        raise MatchError(f"{where}: cannot be served ({error}); choose another host or port") from error
    with server:
        print(f"{server.address}\nCtrl-C ends the server.", flush=True)
        if options.open:
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return DONE
