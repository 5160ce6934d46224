"""Pairs of the attacker's own making: what they show, and when they are made."""

import jax
import numpy as np
import pytest
from support.handmade_layers import distinct_layer, pictures, represented

from privynet_jax.attacks.public import made_pairs
from privynet_jax.attacks.public.made_pairs import KeptBlocks, PairMaker
from privynet_jax.attacks.public.picture_views import PictureViews
from privynet_jax.images.partition import hold_out
from privynet_jax.platform.rows.row_views import RowView

LAYER, OWN = distinct_layer(8), pictures(40, seed=1)
UNION, RMS = np.array([1, 2, 4, 7]), np.array([9, 0.5, 1, 9, 2, 9, 9, 4])
KEY = jax.random.key(0)


def chosen(images):
    return LAYER(images)[..., UNION]


@pytest.fixture
def maker():
    return PairMaker(chosen, OWN, UNION, RMS, examples=300)


def test_pairs_are_views_with_what_the_layer_gives_of_them(maker):
    pairs = maker.pairs((7, 1), 3, KEY)
    learning, judged = hold_out(40)
    assert (pairs.pictures, pairs.judged) == (36, 4)
    # 300 examples, each pair twice: 150 pairs, in five rounds of 36 pictures.
    assert pairs.representations.shape == (5 * 36 + 4, 16, 16, 3)
    views = PictureViews(OWN[learning], 5)
    np.testing.assert_array_equal(pairs.images[:180], views[:])
    np.testing.assert_array_equal(pairs.images[180:], OWN[judged])
    rows = np.array([3, 100, 182, 100])
    expected = represented(LAYER, pairs.images[rows], (7, 1), 1 / RMS[[7, 1]])
    # Float32 sums of 27 products, in another order.
    np.testing.assert_allclose(pairs.representations[rows][..., :2], expected, rtol=1e-5, atol=1e-5)
    assert not pairs.representations[rows][..., 2].any()
    fitted_on, judged_by = pairs.hold_out()
    assert fitted_on.tolist() == list(range(36))
    assert judged_by.tolist() == list(range(180, 184))


def test_each_pair_is_met_twice_while_its_block_is_at_hand(maker, monkeypatch):
    monkeypatch.setattr(made_pairs, "_BLOCK", 64)
    pairs = PairMaker(chosen, OWN, UNION, RMS, examples=300).pairs((1,), 1, KEY)
    order = pairs.in_training_order()
    assert np.bincount(order).tolist() == [2] * 150
    for epoch, block in enumerate((0, 0, 1, 1)):
        met = order[64 * epoch : 64 * (epoch + 1)]
        assert sorted(met) == list(range(64 * block, 64 * block + 64))
        assert list(met) != sorted(met)
    other = maker.pairs((1,), 1, jax.random.key(1)).in_training_order()
    assert not np.array_equal(other, maker.pairs((1,), 1, KEY).in_training_order())


def test_the_order_does_not_depend_on_others_channels(monkeypatch):
    # Eight rows of all eight channels, of 16 x 16 positions in float32.
    monkeypatch.setattr(made_pairs, "_BLOCK_BYTES", 8 * 8 * 16 * 16 * 4)

    def order(own):
        layer = lambda images: LAYER(images)[..., own]  # noqa: E731
        maker = PairMaker(layer, OWN, own, np.ones(8), examples=300)
        return maker.pairs((1,), 1, KEY).in_training_order()

    np.testing.assert_array_equal(order(UNION), order(np.array([1])))
    assert sorted(order(UNION)[:8]) == list(range(8))


class Counted(RowView):
    """Row numbers themselves, and how many were read."""

    def __init__(self):
        super().__init__((100, 1), np.int64)
        self.count = 0

    def _read(self, numbers):
        self.count += len(numbers)
        return numbers[:, None]


def test_blocks_are_made_once_while_they_are_kept():
    counted = Counted()
    kept = KeptBlocks(counted, 8)
    rows = np.array([3, 9, 3, 99, 15])
    assert kept[rows].ravel().tolist() == rows.tolist()
    assert counted.count == 8 + 8 + 4  # the last block is shorter
    kept[rows[:2]]
    assert counted.count == 20
    kept[16:48]  # four others
    kept[rows[:1]]
    assert counted.count == 20 + 32 + 8
