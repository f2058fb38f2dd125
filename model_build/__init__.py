"""The network: architecture, data, training and the saved-model folder."""
