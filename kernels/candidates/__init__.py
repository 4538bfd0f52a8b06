"""The cheapest of every row and column."""
