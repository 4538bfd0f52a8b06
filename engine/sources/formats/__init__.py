"""The file formats of published SAEs, one module per family, and the conversion to canonical form."""
