"""The command line: a thin file a command, and the parsers of what they are given."""
