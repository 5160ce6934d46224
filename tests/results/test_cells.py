"""The cells of a grid: what each one's randomness depends on, and what a grid refuses."""

import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from privynet_jax.errors import UserError
from privynet_jax.results.cells import draw_channels, grid_cells, reference_key, training_key


def by_name(**arguments):
    return {cell.name: cell for cell in grid_cells(**arguments)}


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_all_combinations_in_order():
    cells = grid_cells(layers=(10, 2), depths=(64, 8), draws=2, seed=0)
    names = [cell.name for cell in grid_cells((2, 10), (8,), 2, 0)]
    assert names == ["m02_d008_r00", "m02_d008_r01", "m10_d008_r00", "m10_d008_r01"]
    assert len(cells) == 8
    found = [(c.topology.num_layers, c.topology.depth, c.draw) for c in cells]
    assert found == list(itertools.product((2, 10), (8, 64), (0, 1)))


def test_names_sort_like_numbers():
    cells = grid_cells(layers=(13, 9, 10), depths=(512, 64, 9), draws=2, seed=0)
    names = [cell.name for cell in cells]
    assert names == sorted(names)
    assert len(set(names)) == len(cells) == 18


def test_names_sort_like_numbers_beyond_ten_draws():
    names = [cell.name for cell in grid_cells(layers=(2,), depths=(8,), draws=11, seed=0)]
    assert names == sorted(names)


def test_channels_are_distinct_ascending_and_of_the_layer():
    for cell in grid_cells(layers=(1, 13), depths=(1, 33, 64), draws=3, seed=5):
        channels, topology = cell.topology.channels, cell.topology
        assert len(set(channels)) == topology.depth
        assert list(channels) == sorted(channels)
        assert 0 <= channels[0] <= channels[-1] < topology.layer.channels
    assert draw_channels(1, 64, 0, 0) == tuple(range(64))  # all there are


@pytest.mark.parametrize(
    "more",
    [
        {"layers": (1, 2, 4, 13)},
        {"depths": (4, 8, 16, 64)},
        {"draws": 5},
        {"layers": (4, 2), "depths": (16, 8)},  # another order
    ],
)
def test_a_larger_grid_changes_no_cell(more):
    some = {"layers": (2, 4), "depths": (8, 16), "draws": 2, "seed": 3}
    before, after = by_name(**some), by_name(**{**some, **more})
    assert set(before) <= set(after)
    for name, cell in before.items():
        assert after[name] == cell
        assert bits(training_key(after[name], 3)) == bits(training_key(cell, 3))


def test_each_of_seed_layers_depth_and_draw_decides():
    # 32 of 512 channels hardly ever agree by chance.
    base = {"num_layers": 8, "depth": 32, "draw": 0, "seed": 0}
    same = draw_channels(**base)
    assert draw_channels(**base) == same
    for other in ({"num_layers": 9}, {"draw": 1}, {"seed": 1}):
        assert draw_channels(**{**base, **other}) != same
    # A deeper draw is not the shallower one with channels added.
    assert not set(same) <= set(draw_channels(**{**base, "depth": 64}))


def test_channels_are_drawn_uniformly():
    width, depth, draws = 64, 8, 500
    drawn = np.array([draw_channels(1, depth, draw, seed=0) for draw in range(draws)])
    counts = np.bincount(drawn.ravel(), minlength=width)
    share = depth / width
    # A draw has no channel twice, so a count is binomial, and counts covary by -1 / (width - 1):
    # scaled like this, the sum of squares is chi-square distributed with width - 1 degrees.
    variance = draws * share * (1 - share) * width / (width - 1)
    statistic = np.square(counts - draws * share).sum() / variance
    least, most = stats.chi2.ppf([1e-4, 1 - 1e-4], width - 1)
    # Too even would be as suspicious as too uneven.
    assert least < statistic < most
    # Draws are independent of those before: two share depth * depth / width channels on average,
    # here 1, with a variance of 0.78 (hypergeometric).
    shared = [len(set(a) & set(b)) for a, b in itertools.pairwise(drawn.tolist())]
    assert abs(np.mean(shared) - 1) < 4 * np.sqrt(0.78 / draws)


def test_every_key_is_used_for_one_thing():
    cells = grid_cells(layers=range(1, 14), depths=(1, 8, 32, 64), draws=3, seed=0)
    training = [bits(training_key(cell, seed)) for cell in cells for seed in (0, 1)]
    references = [bits(reference_key(seed)) for seed in (0, 1)]
    channels = []
    for cell, seed in itertools.product(cells, (0, 1)):
        key = jax.random.key(seed)
        for part in (cell.topology.num_layers, cell.topology.depth, cell.draw, 0):
            key = jax.random.fold_in(key, part)
        channels.append(bits(key))
    # That these are the keys of the channels: the same choice made by hand.
    chosen = jax.random.choice(jax.random.wrap_key_data(np.uint32(channels[0])), 64, (1,), False)
    assert cells[0].topology.channels == tuple(chosen.tolist())
    everything = training + references + channels
    assert len(set(everything)) == len(everything) == 2 * (2 * 13 * 4 * 3 + 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": ()}, "layers is empty; give at least one"),
        ({"depths": ()}, "depths is empty; give at least one"),
        ({"layers": (2, 14)}, "num_layers is 14; allowed are the integers 1 to 13"),
        ({"layers": (0,)}, "num_layers is 0; allowed"),
        ({"layers": (2, 4, 2)}, r"layers repeats \[2\]; give each once"),
        ({"depths": (8, 8, 4, 4)}, r"depths repeats \[4, 8\]"),
        (
            {"layers": (1,), "depths": (65,)},
            r"depth 65 at layer 1 \(conv1_1\); allowed are 1 to 64",
        ),
        # The shallowest layer is the one that is too narrow.
        ({"layers": (7, 2), "depths": (8, 128)}, r"depth 128 at layer 2 \(conv1_2\)"),
        ({"layers": (13,), "depths": (513,)}, r"1 to 512 channels there"),
        ({"depths": (0,)}, "depth 0 at layer 2"),
        ({"depths": (-8,)}, "depth -8 at layer 2"),
        ({"draws": 0}, "draws is 0; allowed: 1 or more"),
        ({"draws": -1}, "draws is -1"),
        ({"draws": 10**9}, "at most 1000000"),
    ],
)
def test_what_a_grid_refuses(wrong, message):
    with pytest.raises(UserError, match=message) as raised:
        grid_cells(**{"layers": (2,), "depths": (8,), "draws": 1, "seed": 0, **wrong})
    assert "\n" not in str(raised.value)


def test_selections_differ_in_channels_alone():
    candidates = {("both", 4, 3): (5, 9, 70, 101), ("direct", 4, 3): (5, 9, 101)}
    cells = grid_cells((4,), (3,), 2, 0, ("random", "both", "direct"), candidates)
    assert [cell.name for cell in cells] == [
        "m04_d003_r00",
        "m04_d003_r01",
        "m04_d003_both_r00",
        "m04_d003_both_r01",
        "m04_d003_direct_r00",
        "m04_d003_direct_r01",
    ]
    assert cells[:2] == grid_cells((4,), (3,), 2, 0)
    for cell, drawn, searched in zip(cells[:2], cells[2:4], cells[4:], strict=True):
        assert set(drawn.topology.channels) < {5, 9, 70, 101}
        # What is searched for is released as it is, so its draws differ in training alone.
        assert searched.topology.channels == (5, 9, 101)
        assert training_key(cell, 0) == training_key(drawn, 0) == training_key(searched, 0)
    assert training_key(cells[4], 0) != training_key(cells[5], 0)
