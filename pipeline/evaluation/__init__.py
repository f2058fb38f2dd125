"""Predicted masks scored against true masks."""
