"""Tests of the verifier itself."""
