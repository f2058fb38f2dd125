"""Trains a network on pairs of photos and masks and writes a saved-model folder."""
