"""The compiled network, its threads, and its Beam handler."""

AUTO = "auto"  # as if the option were not given
ENGINES = (AUTO, "xla", "graph")
PRECISIONS = (AUTO, "float32", "bfloat16")
