"""The job ``segment``: plan, graph, run, dry run, status."""
