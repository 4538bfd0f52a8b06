"""Float64 values of listed pairs."""
