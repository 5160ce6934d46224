"""What accompanies trainings wherever they are called: devices, progress, checkpoints, signals.

Whoever starts a long piece of work opens a session around it; `trainer` looks here. So attacks and
networks need not hand these things through.

    with session(checkpoint=checkpoint, progress=advance):
        attack.fit(scenes, knowledge, keys)  # trains, is kept, and can be stopped
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from privynet_jax.platform import signals
from privynet_jax.platform.devices import Spread
from privynet_jax.training.checkpoints import Arrays, Checkpoint


@dataclasses.dataclass(frozen=True)
class Session:
    """A piece of work that trains networks, one after another, in an order of its own.

    Attributes:
        spread: how the user wants work spread over devices.
        checkpoint: where trainings are kept; None keeps nothing.
        progress: told the number of trainings done since the last call; half of one counts 0.5.
        stop_requested: whether to save, and give way by `signals.Terminated`.
    """

    spread: Spread = Spread()  # noqa: RUF009 - frozen
    checkpoint: Checkpoint | None = None
    progress: Callable[[float], Any] = lambda share: None
    stop_requested: Callable[[], bool] = signals.requested

    def give_way(self) -> None:
        """Saves and raises where a stop was requested; saves where a checkpoint is due.

        Raises:
            signals.Terminated: a stop was requested; the checkpoint, if any, has everything so far.
        """
        stop = self.stop_requested()
        if self.checkpoint and (stop or self.checkpoint.is_due()):
            self.checkpoint.save(wait=stop)
        if stop:
            raise signals.Terminated

    def kept(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Returns arrays that are made now, or were before an earlier run was stopped.

        For what follows trainings and takes its time, such as their evaluation; nothing else in the
        checkpoint has its name.
        """
        if self.checkpoint is None:
            return make()
        found = self.checkpoint.arrays(name) or make()
        self.checkpoint.sections[name] = found
        return found


_current = contextvars.ContextVar("session", default=Session())  # noqa: B039 - frozen


def current_session() -> Session:
    """Returns the innermost session, or one that keeps nothing and tells nobody."""
    return _current.get()


@contextlib.contextmanager
def session(**fields: Any) -> Iterator[Session]:
    """Opens a session; what is not given is as in the one around it.

    One with a checkpoint of its own defers signals, so that no step is torn in two.
    """
    opened = dataclasses.replace(_current.get(), **fields)
    token = _current.set(opened)
    try:
        with signals.deferred() if fields.get("checkpoint") else contextlib.nullcontext():
            yield opened
    finally:
        _current.reset(token)
