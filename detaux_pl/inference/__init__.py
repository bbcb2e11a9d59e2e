"""A finished run in use: opened from Python, and asked about images it never saw."""
