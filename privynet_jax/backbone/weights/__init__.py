"""Weight files of every kind, read without the frameworks that wrote them."""
