"""The folder OUT: its layout, what stands in it, rows in shards, the summary."""
