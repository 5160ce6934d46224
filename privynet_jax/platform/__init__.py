"""What the machine gives: files written whole, shards, fetching, devices, processes and signals."""
