"""The k cheapest pairs of every row and every column."""
