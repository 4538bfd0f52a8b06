"""The formats in which SAEs are published, one module per family, and their common canonical form."""
