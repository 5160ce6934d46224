"""Pictures, tables and words of a report."""
