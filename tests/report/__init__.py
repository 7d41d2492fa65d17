"""Tests of the reports: documents, formats, shards."""
