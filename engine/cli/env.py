"""`saematch env`: print versions, devices, and the backend of the passes."""

from __future__ import annotations

import argparse

from saematch.cli.common import DONE, print_json
from saematch.cli.groups import add_json
from saematch.cli.terminal import table
from saematch.text import size

HELP = "print versions, devices, and the backend that passes over all pairs would run on"
DESCRIPTION = """Print the versions of the packages that matter, the processors, memory and GPUs that this process may
use, and the backend that passes over all pairs of features would run on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print versions, devices, and the backend that would be chosen."""
    from saematch.matching.backend import choose_backend, machine, versions

    backend, about = choose_backend(), machine()
    if options.json:
        chosen = {"backend": backend.name, "device": str(backend.device), "precision": backend.precision}
        print_json({"versions": versions(), "machine": about, **chosen, "reason": backend.reason})
        return DONE
    print(table(("package", "version"), [[name, version or "not installed"] for name, version in versions().items()]))
    print()
    shown = {**about, "memory": size(about["memory"]), "gpus": ", ".join(about["gpus"]) or "none"}
    print(table(("machine", ""), [[name, str(value)] for name, value in shown.items()]))
    where = f"{backend.device} through {backend.name}, in {backend.precision}"
    print(f"\nPasses over all pairs run on {where}: {backend.reason}.")
    return DONE
