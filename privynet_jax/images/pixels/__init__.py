"""What values of pixels mean: depth, transparency, profiles, windows; Pillow leaves it open."""
