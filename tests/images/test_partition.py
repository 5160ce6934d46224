"""Dealing groups out to parts, and samples with classes alike."""

import numpy as np
import pytest

from privynet_jax.errors import UserError
from privynet_jax.images.partition import (
    detail,
    evenly_spread,
    joined,
    split_groups,
    spread_over_classes,
    stream_of,
)
from privynet_jax.images.parts import TRAIN_FRACTIONS


def assignment(labels, groups, seed=0, fractions=TRAIN_FRACTIONS):
    parts = split_groups(np.asarray(labels), np.asarray(groups), fractions, seed)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    return {name: list(indices) for name, indices in parts.items()}


def test_groups_with_links_are_one_and_others_stay():
    groups, own = np.array([7, 3, 3, 9, 7, 5]), np.arange(6)
    np.testing.assert_array_equal(joined(groups, own), groups)
    linked = joined(groups, np.array([0, 1, 2, 0, 4, 5]))  # the 9 is linked to a 7
    assert linked.tolist() == [7, 3, 3, 7, 7, 5]
    linked = joined(groups, np.array([0, 0, 2, 1, 4, 5]))  # in a chain
    assert linked.tolist() == [3, 3, 3, 3, 3, 5]


def test_single_images_follow_the_fractions():
    labels = np.repeat([0, 1], [1000, 100])
    parts = assignment(labels, np.arange(1100))
    for name, fraction in TRAIN_FRACTIONS.items():
        counts = np.bincount(labels[parts[name]])
        # Dealing one image at a time is off by less than one image.
        np.testing.assert_allclose(counts, fraction * np.array([1000, 100]), atol=1)


@pytest.mark.parametrize("seed", range(5))
def test_three_groups_reach_three_parts_and_stay_whole(seed):
    groups = np.array([7, 7, 7, 7, 3, 5, 5, 5])
    parts = assignment(np.zeros(8, int), groups, seed)
    assert sorted(len(set(groups[indices])) for indices in parts.values()) == [1, 1, 1]


def test_fewer_groups_than_parts_go_to_the_largest_shares():
    parts = assignment([0, 0], [0, 1])
    assert {name: len(indices) for name, indices in parts.items()} == {
        "target": 1,
        "auxiliary": 1,
        "validation": 0,
    }


def test_the_order_of_fractions_does_not_matter():
    labels, groups = np.arange(90) % 3, np.arange(90)
    backwards = dict(reversed(TRAIN_FRACTIONS.items()))
    assert assignment(labels, groups) == assignment(labels, groups, fractions=backwards)
    assert assignment(labels, groups, seed=1) != assignment(labels, groups)


def test_a_class_is_dealt_without_regard_to_other_classes():
    both = assignment(np.repeat([4, 9], 30), np.arange(60))
    alone = assignment(np.repeat([4], 30), np.arange(30))
    for name in TRAIN_FRACTIONS:
        assert {index for index in both[name] if index < 30} == set(alone[name])


@pytest.mark.parametrize("fractions", [{"a": 0.5, "b": 0.4}, {"a": 1.5, "b": -0.5}])
def test_fractions_must_be_shares(fractions):
    with pytest.raises(UserError, match="fractions that sum to 1"):
        split_groups(np.zeros(3, int), np.arange(3), fractions, 0)


def test_every_part_is_shuffled():
    parts = split_groups(np.arange(200) % 2, np.arange(200), TRAIN_FRACTIONS, 0)
    for indices in parts.values():
        assert list(indices) != sorted(indices)


@pytest.mark.parametrize(("labels", "groups"), [((3,), (4,)), ((2, 2), (2, 2))])
def test_labels_and_groups_must_fit(labels, groups):
    with pytest.raises(UserError, match=r"Expected labels and groups \[N\]"):
        split_groups(np.zeros(labels, int), np.zeros(groups, int), TRAIN_FRACTIONS, 0)


def test_spread_over_classes_worked_by_hand():
    labels = np.array([5, 5, 5, 2, 5, 2, 9])
    # The first of 5, of 2 and of 9; the second of 5 and of 2; the third and the fourth of 5.
    # Within a round the classes come in the order of their examples.
    found = [list(spread_over_classes(labels, count)) for count in (None, 3, 5, 0, 100)]
    assert found == [[0, 3, 6, 1, 5, 2, 4], [0, 3, 6], [0, 3, 6, 1, 5], [], [0, 3, 6, 1, 5, 2, 4]]


@pytest.mark.parametrize("count", [1, 7, 30, 31])
def test_a_spread_sample_has_classes_alike(count):
    labels = np.random.default_rng(0).integers(0, 10, 400)
    chosen = spread_over_classes(labels, count)
    assert len(set(chosen)) == count
    assert np.ptp(np.bincount(labels[chosen], minlength=10)) <= 1
    # A larger sample holds the smaller one.
    assert list(spread_over_classes(labels, 50)[:count]) == list(chosen)


def test_evenly_spread_worked_by_hand():
    labels = np.repeat([1, 4], [6, 2])
    amounts = np.array([5, 3, 1, 4, 2, 0, 9, 8])
    # In the order of amounts: 5, 2, 4, 1, 3, 0, and 7, 6.
    assert list(evenly_spread(labels, amounts, 4)) == [2, 3, 6, 7]
    for count in (4, None):
        assert list(evenly_spread(labels, amounts, count, share=0.5)) == [0, 1, 2, 6]
    assert list(evenly_spread(labels, amounts, None)) == list(range(8))
    assert len(evenly_spread(labels, amounts, 0)) == 0


def test_evenly_spread_samples_tell_more_of_a_mean_than_random_ones():
    stream, errors = np.random.default_rng(0), []
    labels = np.arange(200) % 2
    for _ in range(200):
        # Correlated by 0.8, as privacy losses are with the logarithm of details.
        amounts = stream.normal(size=200)
        values = 0.8 * amounts + 0.6 * stream.normal(size=200)
        samples = evenly_spread(labels, amounts, 40), spread_over_classes(labels, 40)
        errors.append([values[rows].mean() - values.mean() for rows in samples])
    even, random = np.std(errors, axis=0)
    assert even < 0.75 * random
    assert np.abs(np.mean(errors, axis=0)[0]) < 3 * even / 200**0.5


def test_detail_is_what_changes_within_a_few_pixels():
    images = np.zeros((300, 16, 16, 3), np.uint8)
    images[7, ::8] = images[280, :, 4:8] = 200
    # Every eighth row differs from the one four away: one of four pairs of rows. Of columns 0 to
    # 11, each with the fourth after it, 0 to 7 differ.
    expected = {7: 200**2 / 4, 280: 200**2 * 2 / 3}
    found = detail(images)
    assert {place: found[place] for place in expected} == pytest.approx(expected)
    assert np.count_nonzero(found) == 2


def test_streams_belong_to_seed_and_name():
    def numbers(seed, name):
        return list(stream_of(seed, name).integers(0, 2**60, 4))

    assert numbers(1, "test") == numbers(1, "test")
    assert len({tuple(numbers(s, n)) for s in (0, 1) for n in ("a", "b", "ab", "ba")}) == 8
