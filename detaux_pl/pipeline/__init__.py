"""The order of things: from the settings of a chain to jobs, processes and results."""
