"""What keeps the slices of an embedding apart, one term per file."""
