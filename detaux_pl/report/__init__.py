"""What a person sees of a run: words, tables, figures and the page."""
