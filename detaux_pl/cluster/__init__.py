"""Codes in, auxiliary labels out; plain arrays."""
