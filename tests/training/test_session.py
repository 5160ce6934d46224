"""What accompanies a piece of work, and pieces inside it."""

from types import SimpleNamespace

import pytest

from privynet_jax.platform import signals
from privynet_jax.platform.devices import Spread
from privynet_jax.training.session import Session, current_session, session


def test_an_inner_session_has_what_it_is_not_given_from_the_outer():
    told = []
    assert current_session() == Session()
    with session(spread=Spread(2), progress=told.append) as outer:
        with session(spread=Spread(3)) as inner:
            assert current_session() is inner
            assert (inner.spread, inner.progress) == (Spread(3), outer.progress)
        assert current_session() is outer
        with pytest.raises(KeyError), session(spread=Spread(4)):
            raise KeyError
        assert current_session() is outer
    assert current_session() == Session()


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("due", [False, True])
def test_giving_way_saves_first(stop, due):
    saved = []
    checkpoint = SimpleNamespace(is_due=lambda: due, save=lambda wait: saved.append(wait))
    opened = Session(checkpoint=checkpoint, stop_requested=lambda: stop)
    if stop:
        with pytest.raises(signals.Terminated):
            opened.give_way()
    else:
        opened.give_way()
    # On the way out, until it is on the disk.
    assert saved == ([stop] if stop or due else [])
