"""The two smallest of every row and column."""
