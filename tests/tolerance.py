"""The tolerances of the tests, and the reason for each."""

# Certified means within 1e-9 of what matching can gain; an oracle in float64 must agree to the same.
OPTIMUM = 1e-9
# Reconstructions before and after a fold, in float64: K roundings of 1e-16, K = 576, relative to the largest entry.
FOLD = 1e-13
# Next to outliers, or with a huge max_cost, an answer is certified only while the rounding of ordinary features is less
# than this share of what ordinary pairs differ by: as `column_generation.py` states it.
BLUR = 1e-6
