"""The compiled network, its threads, and its Beam handler."""

ENGINES = ("auto", "xla", "graph")
PRECISIONS = ("auto", "float32", "bfloat16")
