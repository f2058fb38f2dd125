"""The output folder: its layout, its lock, ``run.json``, rows in shards, the summary."""
