"""The command line: one module per command, the parser around them, and what is printed."""
