"""One module for each store; ``table.py`` lists them."""
