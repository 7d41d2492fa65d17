"""Unit tests: one function, one object, one file at a time."""
