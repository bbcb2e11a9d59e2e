"""Images and their factors, turned into batches."""
