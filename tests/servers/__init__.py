"""The servers that tests use: real ones, on this machine."""
