"""Everything that imports triton lives here, one folder an operation: reference, kernel, launch."""
