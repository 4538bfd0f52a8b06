"""The argument parser of the program, and converters from the text of an argument to its value."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from typing_extensions import override

from saematch.cli.common import BAD_INPUT
from saematch.errors import MatchError
from saematch.storage.folders import local_path
from saematch.text import printable


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that reports a usage error on one line, and that raises if help cannot be written."""

    @override
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")

    @override
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # By default, the program and not the command would refuse what is unknown, and name its own help.
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    @override
    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse ignores an OSError when it writes help. On stdout, the caller must learn of the error.
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)


def converter(convert: Callable[[str], Any], example: str) -> Callable[[str], Any]:
    """Return `convert` with an error message that shows an example of the text that `convert` accepts."""

    def checked(text: str) -> Any:
        try:
            return convert(text)
        except MatchError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        except (ValueError, KeyError, OverflowError) as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not like {example}") from error

    return checked


def _weights(text: str) -> dict[str, float]:
    items = [item.partition("=") for item in text.split(",")]
    return {part.strip(): float(weight) for part, _, weight in items}


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    return int(number), int(count)


def _path(text: str) -> str:
    # A shell does not expand the `~` of `--labels=~/x`; local_path does. The URL of a store stays as it is.
    return text if "://" in text else str(local_path(text))


as_parts = converter(lambda text: tuple(text.split(",")), "encoder,decoder")
as_weights = converter(_weights, "encoder=1,decoder=2")
as_names = converter(lambda text: text.split(","), "seed_1,seed_2")
as_shard = converter(_shard, "2/8")
as_path = converter(_path, "a path")
