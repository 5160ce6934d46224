"""What is known of any subset of channels without training networks for it."""
