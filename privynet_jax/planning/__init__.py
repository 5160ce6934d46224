"""Limits and measurements to a plan; what it promises, its file, and its audit."""
