"""Whole trainings that several packages share: what is held out, when they end, what is kept."""
