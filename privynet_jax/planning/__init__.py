"""Limits and measurements to a plan; what it promises, and its file."""
