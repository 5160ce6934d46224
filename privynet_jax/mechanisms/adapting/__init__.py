"""Local NNs that learn on public pictures before they are frozen, each in a way of its own."""
