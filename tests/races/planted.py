"""A visible change to plant into the store; apart, because its module must not import the store."""

from __future__ import annotations


def another_lock_file(module: str, source: str) -> str:
    """The store locks a file of another name: seen in what every race leaves."""
    if module != "sessionstore.lock":
        return source
    return source.replace('LOCK_SUFFIX = ".flock"', 'LOCK_SUFFIX = ".other"')
