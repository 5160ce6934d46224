"""Arrays as rows: how they are stored, in which files, and read without being in memory."""
