"""The findings of a finished run about each feature: as objects, tables, and files for other programs."""
