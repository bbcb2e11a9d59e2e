"""How the losses of the tasks become one, one rule per file."""
