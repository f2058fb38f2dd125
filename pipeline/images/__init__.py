"""Bytes ↔ pixels: photos decoded and scaled, masks and overlays encoded."""
