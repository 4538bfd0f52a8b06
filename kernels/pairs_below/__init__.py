"""All pairs that are below a limit, as a list."""
