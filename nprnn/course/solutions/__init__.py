"""The exercises' solutions, which `nprnn exercise solution NAME` shows."""
