"""What was measured: cells, their rows on disk, statistics and tables."""
