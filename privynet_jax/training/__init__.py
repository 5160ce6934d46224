"""Networks, losses, optimisers, and the one place where gradients are taken."""
