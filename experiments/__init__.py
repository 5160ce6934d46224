"""One short command per job; run them with `python -m experiments.NAME --help`."""

import gc
import sys

from privynet_jax.platform import signals


def begin() -> None:
    """Makes the time short, and signals harmless, in which a command imports what it needs."""
    signals.end_at_once("stopped before it began; run the same command again")
    gc.disable()  # until `running.run`: what is imported stays, and looking through it takes long


# As Python has it while it looks for what -m names: a command's own imports take seconds.
if sys.argv[0] == "-m":
    begin()
