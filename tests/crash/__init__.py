"""Power loss and failing system calls."""
