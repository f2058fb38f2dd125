"""Shared by both packages: errors, console, progress bar, limits, quiet imports."""
