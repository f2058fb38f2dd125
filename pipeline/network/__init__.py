"""The compiled network, its threads, and its Beam handler."""

ENGINES = ("auto", "xla", "graph")
