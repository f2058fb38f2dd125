"""The ``fcn-beam`` command: one module a command, which parses, calls one function and prints."""
