"""One training in one process: a LightningCLI stage, what it writes, what it costs."""
