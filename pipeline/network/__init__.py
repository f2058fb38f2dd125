"""The compiled network, its threads, and its Beam handler."""

ENGINES = ("auto", "xla", "xla-head", "graph")
PRECISIONS = ("auto", "float32", "bfloat16")
