"""Reading untrusted files: headers first, nothing unpickled, and sizes checked before memory is taken."""
