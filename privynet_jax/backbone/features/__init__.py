"""Representations of all images: the one pass of the network, how they are coded and cached."""
