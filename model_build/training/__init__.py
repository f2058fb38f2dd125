"""From pairs of photos and masks to a saved-model folder: how, with what and what is kept."""
