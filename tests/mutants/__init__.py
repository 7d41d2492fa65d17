"""Kill tests: does the suite notice the planted bugs of `models.mutants`?"""
