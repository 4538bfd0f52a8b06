"""Writing files whole or not at all, by one writer at a time, on a disk or in a remote store; and reading them."""
