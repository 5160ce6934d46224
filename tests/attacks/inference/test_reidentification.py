"""Re-identification with known answers, and ranks against another implementation."""

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from privynet_jax.attacks.inference import reidentification
from privynet_jax.attacks.inference.reidentification import (
    grids,
    identified,
    pixels,
    pooled,
    reidentify,
    same_source,
    similarities,
)

KEY = jax.random.key(3)
COUNT = 200


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((COUNT, 8, 8, 3))


def test_the_very_pictures_are_always_found(images):
    found = reidentify(pixels(images), pixels(images), np.arange(COUNT), COUNT, KEY)
    assert found.top1.min() == 1
    assert found.ranks.max() == 1


def test_reconstructions_are_identified_by_the_image_that_they_are_most_alike():
    stream = np.random.default_rng(1)
    images = stream.integers(0, 256, (40, 8, 8, 3), np.uint8)
    noisy = np.uint8(np.clip(images + stream.normal(0, 20, images.shape), 0, 255))
    np.testing.assert_array_equal(identified(noisy, images), np.ones(40))
    np.testing.assert_array_equal(identified(np.roll(noisy, 1, axis=0), images), np.zeros(40))
    # The same answer to everything says nothing; one of two equal images is right half the time.
    assert identified(np.full_like(images, 90), images).sum() == pytest.approx(1, abs=0.1)
    twice = np.concatenate([images[:1], images])
    assert identified(twice, twice)[:2].tolist() == [0.5, 0.5]
    assert identified(noisy[:1], images[:1]).tolist() == [1.0]


def test_what_says_nothing_finds_nothing(images):
    """Equal representations: all candidates are tied, and a tie is worth what a guess is."""
    constant = grids(np.ones((COUNT, 8, 8, 5)))
    found = reidentify(constant, constant, np.arange(COUNT), 50, KEY)
    np.testing.assert_allclose(found.top1, 1 / 50)
    np.testing.assert_allclose(found.ranks, 25.5)
    # The same answer to every question is right once among all.
    same = np.broadcast_to(pixels(images).mean(axis=0) + 0.1, (COUNT, 192))
    found = reidentify(same, pixels(images), np.arange(COUNT), COUNT, KEY)
    assert found.top1.sum() == pytest.approx(1)
    assert found.ranks.mean() == pytest.approx((COUNT + 1) / 2)


def test_other_pictures_reconstructions_are_chance(images):
    shuffled = pixels(images)[np.random.default_rng(1).permutation(COUNT)]
    found = reidentify(shuffled, pixels(images), np.arange(COUNT), 20, KEY)
    # Of 200 guesses with 1 in 20: 10, standard deviation 3.1; ranks' mean 10.5, deviation 0.4.
    assert 1 <= found.top1.sum() <= 22
    assert found.ranks.mean() == pytest.approx(10.5, abs=1.6)


def test_the_source_is_that_of_the_nearest_other_picture(images):
    noisy = pixels(images) + np.random.default_rng(2).normal(0, 1.0, (COUNT, 192))
    sources, truth = np.random.default_rng(3).integers(40, size=COUNT), np.arange(0, COUNT, 2)
    # One source has a single picture: nothing else is of it.
    sources[4] = 99
    found = same_source(noisy[truth], pixels(images), truth, sources)
    mean = pixels(images).mean(axis=0)
    distances = distance.cdist(noisy[truth] - mean, pixels(images) - mean, "cosine")
    distances[np.arange(len(truth)), truth] = np.inf
    sizes = np.bincount(sources)
    asked = sizes[sources[truth]] > 1
    np.testing.assert_array_equal(truth[found.rows], truth[asked])
    assert 4 not in truth[found.rows]
    expected = sources[distances.argmin(axis=1)] == sources[truth]
    np.testing.assert_array_equal(found.right, expected[asked])
    np.testing.assert_allclose(found.chance, (sizes[sources[truth]][asked] - 1) / (COUNT - 1))


def test_pictures_of_one_source_find_each_other(images):
    twins = np.repeat(pixels(images)[:50], 2, axis=0)
    sources = np.repeat(np.arange(50), 2)
    found = same_source(twins, twins, np.arange(100), sources)
    np.testing.assert_array_equal(found.right, np.ones(100))
    np.testing.assert_allclose(found.chance, 1 / 99)
    # What says nothing is as near to all: a tie is worth what a guess is.
    constant = same_source(np.ones((100, 5)), np.ones((100, 5)), np.arange(100), sources)
    np.testing.assert_allclose(constant.right, constant.chance)


def test_ranks_are_those_of_cosine_distances(images):
    noisy = pixels(images) + np.random.default_rng(2).normal(0, 1.0, (COUNT, 192))
    found = reidentify(noisy, pixels(images), np.arange(COUNT), COUNT, KEY)
    mean = pixels(images).mean(axis=0)
    distances = distance.cdist(noisy - mean, pixels(images) - mean, "cosine")
    expected = [stats.rankdata(row)[index] for index, row in enumerate(distances)]
    np.testing.assert_array_equal(found.ranks, expected)
    np.testing.assert_array_equal(found.top1, np.array(expected) == 1)
    assert 1.2 < found.ranks.mean() < 60


def test_copies_of_a_picture_share_its_place(images):
    gallery = pixels(images).copy()
    gallery[1], gallery[2] = gallery[0], gallery[0]
    found = reidentify(gallery[:1], gallery, np.array([0]), COUNT, KEY)
    assert (found.top1[0], found.ranks[0]) == (pytest.approx(1 / 3), 2)


def test_blocks_of_any_size_find_the_same(images, layer, monkeypatch):
    noisy = pixels(images) + np.random.default_rng(2).normal(0, 1.0, (COUNT, 192))

    def everything():
        found = reidentify(noisy, pixels(images), np.arange(COUNT), 50, KEY)
        return found.ranks, found.top1, pooled(layer)

    whole, alike = everything(), similarities(layer)
    monkeypatch.setattr(reidentification, "_BYTES_AT_ONCE", 7 * 8 * 192)  # seven pictures
    for ours, theirs in zip(everything(), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Lengths are sums in float32, whose order differs.
    np.testing.assert_allclose(similarities(layer), alike, atol=1e-6)


def test_images_as_bytes_are_found_as_numbers_are(images):
    stored = np.uint8(255 * images)
    noisy = np.float32(stored) + np.random.default_rng(2).normal(0, 200, stored.shape)
    found, expected = (
        reidentify(pixels(noisy / scale), gallery, np.arange(COUNT), COUNT, KEY)
        for scale, gallery in ((1, pixels(stored)), (255, pixels(stored) / 255))
    )
    np.testing.assert_array_equal(found.ranks, expected.ranks)


def test_fewer_candidates_are_a_random_sample(images):
    noisy = pixels(images) + np.random.default_rng(2).normal(0, 1.5, (COUNT, 192))
    ranks = {
        n: reidentify(noisy, pixels(images), np.arange(COUNT), n, KEY).ranks.mean()
        for n in (2, 21, COUNT)
    }
    # Candidates ahead of the truth thin out as candidates do: (rank - 1) / (N - 1) stays.
    share = (ranks[COUNT] - 1) / (COUNT - 1)
    assert (ranks[21] - 1) / 20 == pytest.approx(share, abs=0.04)
    assert ranks[2] - 1 == pytest.approx(share, abs=0.08)
    again = reidentify(noisy, pixels(images), np.arange(COUNT), 21, KEY)
    assert again.ranks.mean() == ranks[21]


@pytest.mark.parametrize("candidates", [0, 1, COUNT + 1])
def test_candidates_there_are_not(images, candidates):
    with pytest.raises(ValueError, match=f"2 to {COUNT} candidates"):
        reidentify(pixels(images), pixels(images), np.arange(COUNT), candidates, KEY)


# Descriptors.


@pytest.fixture(scope="module")
def layer():
    """Representations of a random layer: 64 channels that see 12 patterns."""
    stream = np.random.default_rng(5)
    patterns = stream.random((COUNT, 16, 16, 12))
    return np.float32(np.maximum(patterns @ stream.normal(size=(12, 64)), 0))


def test_the_order_and_scale_of_channels_do_not_matter_to_similarities(layer):
    order = np.random.default_rng(6).permutation(64)
    np.testing.assert_allclose(similarities(layer[..., order] * 7), similarities(layer), atol=1e-5)
    assert not np.allclose(grids(layer[..., order]), grids(layer))


def test_unknown_channels_are_found_among_all_channels(layer):
    secret = np.random.default_rng(7).permutation(64)[:16]
    released = similarities(layer[..., secret])
    found = reidentify(released, similarities(layer), np.arange(COUNT), 100, KEY)
    assert found.top1.mean() > 0.5
    known = grids(layer[..., secret])
    assert reidentify(known, known, np.arange(COUNT), 100, KEY).top1.mean() == 1


def test_grids_are_means_of_fields():
    x = np.arange(2 * 16 * 16 * 3, dtype=np.float32).reshape(2, 16, 16, 3)
    expected = x.reshape(2, 8, 2, 8, 2, 3).mean(axis=(2, 4)).reshape(2, -1)
    np.testing.assert_allclose(grids(x), expected)
    np.testing.assert_array_equal(grids(pooled(np.float16(x))), grids(np.float16(x)))
    # Channels chosen before or after are the same.
    np.testing.assert_array_equal(pooled(x)[..., [2, 0]], pooled(x[..., [2, 0]]))
    assert grids(x[:, :4, :4]).shape == (2, 48)
    assert grids(x[:, :1, :1]).shape == (2, 3)
