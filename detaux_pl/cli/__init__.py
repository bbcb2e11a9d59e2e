"""The command line: the only room that knows the order of the stages."""
