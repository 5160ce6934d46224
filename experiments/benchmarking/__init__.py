"""Timing, its inputs, and what is timed."""
