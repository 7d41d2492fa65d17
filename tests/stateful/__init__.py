"""Rule-based state machines that compare the store with its models on real files."""
