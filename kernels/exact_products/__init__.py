"""Products of listed pairs of rows in float64."""
