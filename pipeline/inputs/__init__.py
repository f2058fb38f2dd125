"""INPUT → image references, and the names of their masks."""
