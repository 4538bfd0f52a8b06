"""What a finished run says about each feature: as objects, tables, and files for other programs."""
