"""Contributors side by side: counts, accuracy, and who is unlike the others."""

import math

import numpy as np
import pytest
from support.small_release import SmallRelease, class_ids, id_of

from privynet_jax.deployment.cloud.contributions import join_releases
from privynet_jax.deployment.cloud.contributors import LEAST, contributors

DEPTH, CLASSES = 6, 3
RNG = np.random.default_rng(0)
# What a network does to any pictures: its channels vary together.
NETWORK, OTHER_NETWORK = RNG.normal(size=(2, DEPTH, DEPTH))


def released(count, seed, network=NETWORK):
    """Rows of pictures that have their own brightness and contrast, and so has each contributor."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(count, 4, 4, DEPTH)) * rng.uniform(0.5, 2, (count, 1, 1, 1))
    content = rng.uniform(0.7, 1.4) * content + rng.normal(0, 0.3, DEPTH)
    return np.maximum(content @ network + 1, 0)


def together(rows, labels=None):
    """Contributions of rows [n, 4, 4, DEPTH] each, in this order."""
    ids, labels = sorted(id_of(str(n)) for n in range(len(rows))), iter(labels or [])
    return join_releases(
        [
            SmallRelease(
                identity,
                np.float32(x),
                next(labels, np.arange(len(x)) % CLASSES),
                class_ids(CLASSES),
            )
            for identity, x in zip(ids, rows, strict=True)
        ]
    )


def honest(counts, seed=0):
    return [released(count, 1000 * seed + place) for place, count in enumerate(counts)]


def asked(data, wrong=()):
    """Every second row is held out, and right but for those of some contributors."""
    held_out = np.arange(0, len(data), 2)
    return contributors(data, held_out, ~np.isin(data.owners[held_out], wrong))


def strange(found):
    return [place for place, one in enumerate(found) if one.strange]


@pytest.mark.parametrize("counts", [[40] * 20, [10] * 100, [3, 5, 8, 500, 40, 40, 40, 120]])
def test_honest_contributors_are_not_named(counts):
    for seed in range(3):
        assert not strange(asked(together(honest(counts, seed))))


def test_numbers_are_those_of_the_rows():
    counts = [4, 8, 6, 10, 3]
    rows = honest(counts)
    rows[4][2] = rows[0][2]  # a copy, of the same class, which counts once
    found = asked(together(rows), wrong=[2])
    assert [one.rows for one in found] == [4, 8, 6, 10, 2]
    assert [one.repeated for one in found] == [0, 0, 0, 0, 1]
    assert [one.held_out for one in found] == [2, 4, 3, 5, 1]
    assert [one.accuracy for one in found] == [1, 1, 0, 1, 1]
    assert [one.classes for one in found] == [3, 3, 3, 3, 2]
    assert [one.release for one in found] == sorted(one.release for one in found)


STRANGE = {
    "another package": lambda x, seed: released(len(x), seed, OTHER_NETWORK),
    "channels in another order": lambda x, seed: x[..., ::-1],
    "noise": lambda x, seed: np.random.default_rng(seed).exponential(size=x.shape),
    "one channel": lambda x, seed: np.repeat(x[..., :1], DEPTH, axis=-1),
}


@pytest.mark.parametrize("places", [(1,), (1, 5)])
@pytest.mark.parametrize("case", STRANGE)
def test_rows_unlike_the_others_are_named(case, places):
    rows = honest([30] * 8)
    for place in places:
        rows[place] = STRANGE[case](rows[place], place)
    found = asked(together(rows))
    assert strange(found) == [*places]
    assert {one.strange for one in found} == {"", "rows unlike the others'"}


@pytest.mark.parametrize("size", [31, 15, 600])
@pytest.mark.parametrize("counts", [[30] * 12, list(range(24, 36))])
def test_a_strange_one_of_another_size_is_named(counts, size):
    """It decides neither what is usual of its size, nor what the others are."""
    rows = honest(counts)
    rows[3] = released(size, 3, OTHER_NETWORK)
    assert strange(asked(together(rows))) == [3]


def test_enormous_values_are_no_error():
    rows = honest([30] * 8)
    rows[2] = np.full((40, 4, 4, DEPTH), 6e4) + np.arange(40)[:, None, None, None]
    assert strange(asked(together(rows))) in ([], [2])


def test_a_class_that_nobody_else_has_proves_nothing():
    labels = [np.arange(60) % 2] * 5 + [np.full(60, 2)]
    data = together(honest([60] * 6), labels)
    assert not strange(asked(data, wrong=[5]))


def test_brighter_pictures_of_more_contrast_are_not_strange():
    rows = honest([30] * 8)
    rows[2] = 3 * rows[2]
    assert not strange(asked(together(rows)))


def test_with_few_contributors_nobody_can_tell():
    rows = honest([30] * (LEAST - 1))
    rows[0] = STRANGE["noise"](rows[0], 0)
    found = asked(together(rows))
    assert all(math.isnan(one.distance) for one in found)
    assert not strange(found)


def test_labels_that_the_others_contradict_are_named():
    found = asked(together(honest([40] * 8)), wrong=[4])
    assert [one.strange for one in found if one.strange] == ["labels that the others' contradict"]
    assert strange(found) == [4]


def test_a_class_that_is_hard_for_all_is_nobody_s_fault():
    """One contributor has nothing else of it, and is wrong as often as the others are there."""
    labels = [np.zeros(60, int)] + [np.arange(60) % CLASSES] * 7
    data = together(honest([60] * 8), labels)
    held_out = np.arange(0, 480, 2)
    chances = np.where(data.labels[held_out] == 0, 0.15, 0.95)
    right = np.random.default_rng(0).random(240) < chances
    assert not strange(contributors(data, held_out, right))


def test_few_rows_prove_nothing():
    assert not strange(asked(together(honest([40] * 8 + [2])), wrong=[8]))
