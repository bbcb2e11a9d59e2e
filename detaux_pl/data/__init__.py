"""Images and their factors, turned into batches."""

from detaux_pl.settings.moved import find_moved

find_moved()
