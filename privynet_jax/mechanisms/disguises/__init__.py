"""Disguises of whole pictures, from which the cloud learns, and how attackers see through them."""
