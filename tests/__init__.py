"""Tests of the store, its models and its verifier.

A planted bug has to be in place before anything imports `sessionstore`. Every process that imports a test module
imports this package first (pytest, its workers, the children of `multiprocess`), so it is installed here.
"""

from models.mutants import install_from_environment

install_from_environment()
