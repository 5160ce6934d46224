"""Timing, and what is timed."""
