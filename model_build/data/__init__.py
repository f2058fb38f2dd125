"""Training data: labels, folders of photos and masks, decoding, and a download."""
