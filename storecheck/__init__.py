"""The verifier: checks what a file-backed store promises, promise by promise.

pytest runs the checks; `storecheck.pytest_plugin` ties tests to promises and ends a run with a verdict. Knows no
particular store: the promises, the models and the store under test belong to the project that uses it.
"""
