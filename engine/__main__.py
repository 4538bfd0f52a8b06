"""`python -m saematch`."""

from saematch.cli import program

program()
