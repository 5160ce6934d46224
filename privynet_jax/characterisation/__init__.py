"""Whole grids of topologies: settings, measurements, references, and finished runs opened again."""
