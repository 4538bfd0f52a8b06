"""The two smallest entries of every row and every column of each tile."""
