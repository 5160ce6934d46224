"""One short command per job; run them with `python -m experiments.NAME --help`."""
