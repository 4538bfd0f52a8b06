"""The command line: one module per command, with its arguments and its action, and what the commands share."""
