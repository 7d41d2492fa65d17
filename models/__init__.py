"""What the store should do: promises, executable specifications, strategies, workloads and planted bugs.

Imports `sessionstore` and `storecheck`, never the other way round. Stays in the repository: not part of the wheel.
"""
