"""The compiled network, its threads, and its Beam handler. TensorFlow is imported where it is used."""
