"""Which channels are released: scores, pruning, search and the secret draw."""
