"""Runs the network: compiled, tiled, with its threads and its Beam handler."""

AUTO = "auto"  # the same as leaving the option out
ENGINES = (AUTO, "xla", "graph")
PRECISIONS = (AUTO, "float32", "bfloat16")
