"""`python -m detaux_pl`: the command line."""

from detaux_pl.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
