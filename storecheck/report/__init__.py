"""Reports: failing examples and runs for people, from one document.

`document` is the run document, `examples` makes failing examples from counterexamples, `html`, `terminal`, `markdown`,
`junit` and `annotations` show a run, `merging` joins the documents of shards. Runs no tests: pytest does.
"""
