"""Products of int8 rows with exact integer sums, scaled to float32."""
