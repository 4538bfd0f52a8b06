"""The command line, as `python -m saematch`."""

from saematch.cli.main import program

program()
