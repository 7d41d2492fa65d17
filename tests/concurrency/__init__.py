"""Real processes and threads on one store file."""
