"""The picture of schedules: what its axes say."""

import io
import warnings

import pytest
from matplotlib import pyplot as plt
from PIL import Image
from support.handmade_cuts import MODEL, shallow_and_deep, trace

from experiments.reporting.schedules import Scheduled, schedule_picture
from privynet_jax.scheduling.policies import choose_clairvoyant, choose_fixed, score
from privynet_jax.scheduling.simulation import Demand, simulate


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved; Matplotlib's warnings, of what does not fit, are errors."""
    saved, close = [], plt.close
    monkeypatch.setattr(plt, "close", lambda figure: (saved.append(figure), close(figure)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield saved


def test_a_row_per_trace(figures):
    cuts, rows = shallow_and_deep(), []
    for slowdown in (None, [1, 1, 2, 2]):
        here = trace([10, 2, 10, 10], slowdown)
        found = simulate(here, cuts, Demand(1.0, 0.5), MODEL)
        chosen = {"fixed": choose_fixed(found), "best": choose_clairvoyant(found)}
        scores = {name: score(own, found, cuts) for name, own in chosen.items()}
        rows.append(Scheduled(here, found.arrivals, chosen["best"], scores))
    png = schedule_picture(rows, [cut.name for cut in cuts])
    assert Image.open(io.BytesIO(png)).format == "PNG"
    assert not plt.get_fignums()
    axes = figures[0].axes
    # Two rows of three, and bandwidth beside the cuts of each.
    assert len(axes) == 8
    assert [text.get_text() for text in axes[3].get_yticklabels()] == ["2:8", "7:8"]
    bars = [round(bar.get_width()) for bar in axes[5].patches]
    assert bars == [round(100 * own["in_time"]) for own in rows[1].scores.values()] == [75, 100]
    lines = [[line.get_label() for line in one.get_lines()] for one in axes[6:]]
    assert lines == [["Mbit/s"], ["Mbit/s", "slowdown"]]
