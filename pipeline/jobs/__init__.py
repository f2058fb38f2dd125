"""The Beam graphs, the runs around them, runners and progress."""
