"""Lists the images of INPUT and assigns the names of their masks."""
