"""From words to objects: parsers, classes by name, what of a setting changes a result."""
