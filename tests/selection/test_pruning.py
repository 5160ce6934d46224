"""Scores of real channels against the rooms they come from, pruning by hand, and the draw."""

import dataclasses
import itertools
import math
import re
from collections import Counter

import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from privynet_jax.backbone.features import extraction
from privynet_jax.backbone.features.extraction import calibrate, normalisation
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import METHODS, Topology
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Part, as_float
from privynet_jax.platform.rows.coding import peaks_of
from privynet_jax.selection.fisher import fisher_scores
from privynet_jax.selection.pruning import ChannelScores, channel_scores, pruned_candidates
from privynet_jax.selection.secret_draw import select
from privynet_jax.training.models.linear_attack import (
    LinearAttack,
    gather_statistics,
    reconstruct,
    solve,
)


@pytest.fixture(scope="module")
def part(small_parts):
    """Seventy images in seven classes, neither of which fills batches."""
    rows = np.flatnonzero(small_parts.target.labels < 20)[:70]
    return Part(small_parts.target.images[rows], small_parts.target.labels[rows] % 7)


@pytest.fixture(scope="module")
def scores(vgg_weights, part):
    return channel_scores(vgg_weights, part.images, part.labels, [7, 2, 7])


def released(weights, layer, channels, images):
    """The local NN's output: another program than the one that scores."""
    local = jax.jit(local_nn(weights.params, Topology(layer, channels)))
    return np.concatenate(
        [np.asarray(local(as_float(images[i : i + 10]))) for i in range(0, 70, 10)]
    )


def with_first_layer(weights, planted):
    """Weights whose conv1_1 has channels replaced: channel -> (factor per colour, summand).

    Those channels are then sums of one pixel's colours in [0, 1].
    """
    transform = weights.params["preprocessing"]
    order, scale, shift = (transform[name] for name in ("channel_order", "scale", "shift"))
    kernel, bias = (np.array(weights.params["conv1_1"][name]) for name in ("kernel", "bias"))
    for channel, (factors, summand) in planted.items():
        per_input = np.asarray(factors)[order] / scale
        kernel[..., channel] = 0
        kernel[1, 1, :, channel] = per_input
        bias[channel] = summand - per_input @ shift
    params = {**weights.params, "conv1_1": {"kernel": kernel, "bias": bias}}
    return dataclasses.replace(weights, params=params)


def scores_of(fisher, psnr_db):
    return ChannelScores(np.array(fisher, float), np.array(psnr_db, float))


def test_layers_have_scores_of_all_their_channels(scores):
    assert {m: (len(s.fisher), len(s.psnr_db)) for m, s in scores.items()} == {
        2: (64, 64),
        7: (256, 256),
    }
    for layer in scores.values():
        assert layer.fisher.dtype == layer.psnr_db.dtype == np.float64
        assert (layer.fisher > 0).all()


def test_fisher_scores_are_those_of_fields_of_the_representation(vgg_weights, part, scores):
    channels = (0, 9, 33, 63)
    x = released(vgg_weights, 2, channels, part.images)
    fields = np.float64(x).reshape(70, 4, 8, 4, 8, 4).mean(axis=(2, 4))
    # float32 convolutions in another order, and small differences of large means.
    np.testing.assert_allclose(
        scores[2].fisher[list(channels)], fisher_scores(fields, part.labels), rtol=1e-3
    )


def test_privacy_loss_is_that_of_the_linear_attack_on_unseen_images(vgg_weights, part, scores):
    channels = (0, 31, 100, 255)
    x, images = released(vgg_weights, 7, channels, part.images), as_float(part.images)
    order = np.argsort(part.labels, kind="stable")
    halves = (order[::2], order[1::2])
    for position, channel in enumerate(channels):
        one = x[..., [position]] / np.sqrt(np.mean(np.square(x[..., position])))
        squares = 0.0
        for own, other in (halves, halves[::-1]):
            found = solve(gather_statistics([(one[own], images[own])]), 1e-6)
            kernel = np.float32(found[:-1]).reshape(3, 3, 1, -1)
            estimates = reconstruct(LinearAttack(kernel, np.float32(found[-1])), one[other])
            squares += np.square(np.float64(estimates) - images[other]).sum()
        expected = -10 * np.log10(squares / images.size)
        assert scores[7].psnr_db[channel] == pytest.approx(expected, abs=0.01)


def test_a_channel_that_shows_the_image_gives_away_most(vgg_weights, part):
    planted = {17: ((1 / 3, 1 / 3, 1 / 3), 0.0), 40: ((0, 0, 0), 0.0), 41: ((0, 0, 0), 3.0)}
    weights = with_first_layer(vgg_weights, planted)
    [layer] = channel_scores(weights, part.images, part.labels, [1]).values()
    assert np.argmax(layer.psnr_db) == 17
    assert (layer.fisher[40], layer.fisher[41]) == (0, 0)
    mean_colour = as_float(part.images) - as_float(part.images).mean(axis=(0, 1, 2))
    expected = -10 * np.log10(np.mean(np.square(mean_colour)))
    np.testing.assert_allclose(layer.psnr_db[[40, 41]], expected, atol=0.3)
    assert "both" in METHODS
    candidates = pruned_candidates("both", layer, 16)
    assert not {17, 40, 41} & set(candidates)


def test_a_channel_that_shows_the_class_has_the_highest_fisher_score(vgg_weights):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 6
    # Red less green says the class; brightness and blue, which vary more, do not.
    grey = rng.integers(90, 166, (60, 1, 1, 1)) + rng.integers(-40, 41, (60, 16, 16, 1))
    colour = np.stack([3 * labels, -3 * labels, np.zeros(60, int)], axis=-1)[:, None, None]
    images = np.uint8(grey + colour)
    weights = with_first_layer(vgg_weights, {23: ((1.0, -1.0, 0.0), 0.1)})
    [layer] = channel_scores(weights, images, labels, [1]).values()
    assert np.argmax(layer.fisher) == 23


def test_scores_do_not_depend_on_batches(vgg_weights, part, scores, monkeypatch):
    again = channel_scores(vgg_weights, part.images, part.labels, [2])
    np.testing.assert_array_equal(again[2].fisher, scores[2].fisher)
    np.testing.assert_array_equal(again[2].psnr_db, scores[2].psnr_db)
    # Seven images at once, of which two batches are cut in the middle of the sample.
    monkeypatch.setattr(extraction, "images_per_batch", lambda size: 3)
    small = channel_scores(vgg_weights, part.images, part.labels, [2])
    np.testing.assert_allclose(small[2].fisher, scores[2].fisher, rtol=1e-3)
    np.testing.assert_allclose(small[2].psnr_db, scores[2].psnr_db, atol=1e-3)


def test_fields_where_sides_do_not_divide(vgg_weights, part):
    # 30 pixels are 7 positions at layer 5; two of them are in two fields each.
    images = part.images[:, :30, :30]
    x = released(vgg_weights, 5, (3, 200), images)
    assert x.shape[1:3] == (7, 7)
    ways = [slice(0, 2), slice(1, 4), slice(3, 6), slice(5, 7)]
    fields = np.stack(
        [np.stack([x[:, i, j].mean(axis=(1, 2)) for j in ways], axis=1) for i in ways], axis=1
    )
    found = channel_scores(vgg_weights, images, part.labels, [5])[5].fisher
    np.testing.assert_allclose(found[[3, 200]], fisher_scores(fields, part.labels), rtol=1e-3)


def test_what_cannot_be_scored(vgg_weights, part):
    with pytest.raises(UserError, match="classes with two images or more"):
        channel_scores(vgg_weights, part.images, np.arange(70), [1])
    with pytest.raises(UserError, match="num_layers is 14"):
        channel_scores(vgg_weights, part.images, part.labels, [14])
    with pytest.raises(UserError, match="no layer is given"):
        channel_scores(vgg_weights, part.images, part.labels, [])
    with pytest.raises(UserError, match="images are 8x8 pixels; conv5_1 needs at least 16x16"):
        channel_scores(vgg_weights, part.images[:, :8, :8], part.labels, [2, 11])
    weights = with_first_layer(vgg_weights, {5: ((1, 1, 1), np.nan)})
    with pytest.raises(UserError, match="not finite on the sample"):
        channel_scores(weights, part.images, part.labels, [1])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("random", {0, 1, 2, 3, 4, 5, 6, 7}),
        ("fisher", {0, 2, 3, 4, 5, 6}),  # without 1 and 7
        ("privacy", {0, 2, 4, 5, 6, 7}),  # without 3 and 1
        ("both", {0, 2, 4, 5, 6}),
    ],
)
def test_the_worst_quarter_is_pruned(method, expected):
    scores = scores_of([5, 1, 4, 8, 7, 6, 3, 0.5], [12, 15, 11, 19, 13, 14, 10, 11])
    found = pruned_candidates(method, scores, 2)
    assert found == tuple(sorted(expected))
    assert all(type(channel) is int for channel in found)


def test_no_more_is_pruned_than_leaves_the_depth():
    scores = scores_of([0, 1, 2, 3, 4, 5, 6, 7], [7, 0, 6, 0, 5, 0, 4, 0])
    assert pruned_candidates("fisher", scores, 7, prune=0.5) == (1, 2, 3, 4, 5, 6, 7)
    assert pruned_candidates("fisher", scores, 8, prune=0.5) == tuple(range(8))
    assert pruned_candidates("privacy", scores, 6, prune=0.99) == (1, 3, 4, 5, 6, 7)
    # Rank by rank: channel 0 by both; 1 and 2; then 2 again and 4.
    expected = [(1, 2, 3, 4, 5, 6, 7), (3, 4, 5, 6, 7), (3, 5, 6, 7)]
    for depth, left in ((7, 0), (6, 0), (5, 1), (4, 2)):
        assert pruned_candidates("both", scores, depth, prune=0.5) == expected[left], depth


def test_a_quarter_is_rounded_down_and_ties_go_by_number():
    scores = scores_of(np.zeros(7), np.ones(7))
    assert pruned_candidates("both", scores, 1) == (1, 2, 3, 4, 5, 6)
    assert pruned_candidates("both", scores, 1, prune=0.0) == tuple(range(7))
    assert len(pruned_candidates("fisher", scores_of(np.zeros(512), np.zeros(512)), 16)) == 384


@pytest.mark.parametrize("method", ["direct", "best", "", None])
def test_unknown_methods_prune_nothing(method):
    with pytest.raises(UserError, match="allowed are random, fisher, privacy, both"):
        pruned_candidates(method, scores_of([1, 2], [1, 2]), 1)


@pytest.mark.parametrize(
    ("depth", "prune", "message"),
    [
        (0, 0.25, "0 channels cannot be drawn from 2; allowed are 1 to 2"),
        (3, 0.25, "3 channels cannot be drawn from 2"),
        (1, 1.0, "the share of channels to prune is 1.0"),
        (1, -0.1, "the share of channels to prune is -0.1"),
        (1, math.nan, "the share of channels to prune is nan"),
    ],
)
def test_depths_and_shares_out_of_range(depth, prune, message):
    with pytest.raises(UserError, match=message):
        pruned_candidates("both", scores_of([1, 2], [1, 2]), depth, prune)


def test_a_selection_has_a_seed_of_its_own():
    one, other = (select((9, 3, 5, 3), "both", 2) for _ in range(2))
    assert (one.method, one.candidates, one.entropy_bits) == ("both", (3, 5, 9), math.log2(3))
    assert re.fullmatch("[0-9a-f]{64}", one.seed)
    assert one.seed != other.seed
    assert one.channels(2) == one.channels(2)
    assert set(one.channels(2)) < {3, 5, 9}
    assert select(np.arange(3), "direct", 3).entropy_bits == 0


def test_every_outcome_of_a_selection_is_equally_likely():
    drawn = Counter(select((2, 3, 5, 7), "random", 2).channels(2) for _ in range(3000))
    # Pairs in both orders.
    counts = [drawn[pair] for pair in itertools.permutations((2, 3, 5, 7), 2)]
    assert sum(counts) == 3000
    # Seeds are fresh: one run in a million fails.
    assert chisquare(counts).pvalue > 1e-6


def test_bad_selections():
    with pytest.raises(UserError, match="the method of selection is 'best'; allowed are random"):
        select((1, 2), "best", 1)
    for depth in (0, 3):
        with pytest.raises(UserError, match="cannot be drawn from 2"):
            select((1, 2, 2), "both", depth)


def test_normalisation_gives_unit_mean_square(vgg_weights, part):
    channels = (200, 3, 77)
    scales, peaks = normalisation(vgg_weights, part.images, Topology(7, channels))
    assert scales.shape == peaks.shape == (3,)
    assert scales.dtype == peaks.dtype == np.float32
    x = released(vgg_weights, 7, channels, part.images)
    rms = np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=(0, 1, 2)))
    np.testing.assert_allclose(scales * rms, 1, rtol=1e-4)
    np.testing.assert_allclose(peaks, peaks_of((x * scales).max(axis=(0, 1, 2))), rtol=1e-4)


def test_normalisation_is_the_feature_caches(vgg_weights, small_parts):
    everything = {2: tuple(range(64))}
    coding = calibrate(vgg_weights, small_parts, everything, "uint8")[2]
    images = small_parts.auxiliary.images
    scales, peaks = normalisation(vgg_weights, images, Topology(2, (50, 1)))
    np.testing.assert_array_equal(scales, coding.scales[[50, 1]])
    np.testing.assert_array_equal(peaks, coding.peaks[[50, 1]])


def test_silent_channels_are_not_blown_up(vgg_weights, part):
    weights = with_first_layer(vgg_weights, {4: ((0, 0, 0), -1.0), 6: ((0, 0, 0), -1.0)})
    scales, peaks = normalisation(weights, part.images, Topology(1, (4, 6)))
    x = released(weights, 1, tuple(range(64)), part.images)
    floor = 0.01 * np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=(0, 1, 2))).mean()
    np.testing.assert_allclose(scales, 1 / floor, rtol=1e-4)
    np.testing.assert_array_equal(peaks, 16)


def test_no_image_to_normalise_by(vgg_weights, part):
    with pytest.raises(UserError, match="the sample is empty"):
        normalisation(vgg_weights, part.images[:0], Topology(1, (4,)))
