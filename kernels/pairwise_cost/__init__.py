"""The costs of all pairs, written to memory."""
