"""The attack on one channel at a time, against the attack that `linear` fits to that channel."""

import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.images.depth_and_space import space_to_depth
from privynet_jax.images.parts import as_float
from privynet_jax.selection import channel_privacy
from privynet_jax.selection.channel_privacy import attack_psnr_db, sums_of_batch
from privynet_jax.training.models import linear_attack


def sums_of(representations, images, counted=None):
    counted = np.ones(len(images), bool) if counted is None else counted
    return sums_of_batch(jnp.asarray(representations), images, counted)


@pytest.fixture(scope="module")
def images(photo_parts):
    return as_float(photo_parts.target.images[:60])


@pytest.fixture(scope="module")
def representations(images):
    """Five random mixtures of blocks of 4 x 4 pixels: 8 x 8 positions, as many as may count."""
    mix = np.random.default_rng(0).standard_normal((48, 5)).astype(np.float32)
    return np.maximum(np.asarray(space_to_depth(images, 4)) @ mix, 0)


def test_each_half_is_attacked_as_linear_does(images, representations):
    halves = [slice(0, 32), slice(32, 60)]
    found = attack_psnr_db(*(sums_of(representations[half], images[half]) for half in halves))
    for channel in range(5):
        released = representations[..., [channel]]
        squares = 0.0
        for own, other in (halves, halves[::-1]):
            sums = linear_attack.gather_statistics([(released[own], images[own])])
            kernel = linear_attack.solve(sums, channel_privacy._RIDGE)
            attack = linear_attack.LinearAttack(
                np.float32(kernel[:-1]).reshape(3, 3, 1, -1), np.float32(kernel[-1])
            )
            estimates = linear_attack.reconstruct(attack, released[other])
            squares += np.square(np.float64(estimates) - images[other]).sum()
        # Sums of 4e3 products in float32, of which differences are taken.
        assert found[channel] == pytest.approx(-10 * np.log10(squares / images.size), abs=1e-3)


def test_sums_are_sub_blocks_of_the_gram_matrix(images, representations):
    found = sums_of(representations, images)
    whole = linear_attack.gather_statistics([(representations, images)])
    assert found.count == whole.count
    assert found.energy == pytest.approx(whole.energy, rel=1e-6)
    for channel in range(5):
        rows = np.append(5 * np.arange(9) + channel, 45)
        sub = whole.restricted(rows)
        np.testing.assert_allclose(found.gram[channel], sub.gram, rtol=1e-5)
        np.testing.assert_allclose(found.cross[channel], sub.cross, rtol=1e-5)
    # Zeros beyond the border do not count for the centre, which has none.
    expected = np.sqrt(np.square(representations, dtype=np.float64).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(found.rms, expected, rtol=1e-5)


def test_scaled_sums_are_those_of_scaled_channels(images, representations):
    scales = np.array([0.01, 1, 2, 3, 100], np.float32)
    found = sums_of(representations, images).scaled(scales)
    expected = sums_of(representations * scales, images)
    np.testing.assert_allclose(found.gram, expected.gram, rtol=1e-5)
    np.testing.assert_allclose(found.cross, expected.cross, rtol=1e-5)


def test_only_counted_images_count_and_sums_add_up(images, representations):
    counted = np.arange(60) % 3 == 0
    # A batch filled up with whatever the network makes of nothing.
    longer = np.concatenate([representations, np.full_like(representations[:4], 7)])
    some = sums_of(longer, images, counted)
    alone = sums_of(representations[counted], images[counted])
    together = some + sums_of(longer, images, ~counted)
    whole = sums_of(representations, images)
    for one, other in ((some, alone), (together, whole)):
        np.testing.assert_allclose(one.gram, other.gram, rtol=1e-5)
        np.testing.assert_allclose(one.cross, other.cross, rtol=1e-5)
        assert one.energy == pytest.approx(other.energy, rel=1e-5)
        assert one.count == other.count


def test_large_representations_are_sampled(images):
    """At 32 x 32 positions every fourth row and column counts, neighbours and borders included."""
    x = images.mean(axis=-1, keepdims=True)
    found = sums_of(x, images)
    assert found.count == 60 * 8 * 8
    centres, blocks = x[:, 2::4, 2::4, 0], images[:, 2::4, 2::4]
    lefts = x[:, 2::4, 1::4, 0]
    assert found.gram[0, 4, 3] == pytest.approx(np.sum(centres * lefts), rel=1e-5)
    np.testing.assert_allclose(
        found.cross[0, 4], np.einsum("nij,nijc->c", centres, blocks), rtol=1e-5
    )


def test_sampled_positions_say_what_all_of_them_say(images, monkeypatch):
    def measured():
        rng = np.random.default_rng(1)
        x = np.maximum(images @ rng.standard_normal((3, 4)).astype(np.float32), 0)
        return attack_psnr_db(sums_of(x[::2], images[::2]), sums_of(x[1::2], images[1::2]))

    found = measured()
    monkeypatch.setattr(channel_privacy, "_MOST_PLACES", 32)
    channel_privacy._sums.clear_cache()
    expected = measured()
    channel_privacy._sums.clear_cache()
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, atol=0.3)


def test_sides_that_pooling_does_not_divide(images):
    # 30 pixels at stride 4 are 7 positions of 4 pixels; the last two pixels are never seen.
    cut = images[:, :30, :30]
    x = np.asarray(space_to_depth(cut[:, :28, :28], 4))[..., :3]
    found = sums_of(x, cut)
    assert found.count == 60 * 49
    assert found.energy == pytest.approx(np.square(cut[:, :28, :28]).sum(), rel=1e-5)


def test_what_channels_give_away(images):
    rng = np.random.default_rng(2)
    channels = {
        "nothing": np.zeros(images.shape[:3]),
        "constant": np.ones(images.shape[:3]),
        "noise": rng.random(images.shape[:3]),
        "brightness": images.mean(axis=-1),
        "some brightness": np.maximum(images.mean(axis=-1) - 0.5, 0),
    }
    x = np.float32(np.stack(list(channels.values()), axis=-1))
    psnr = dict(
        zip(
            channels,
            attack_psnr_db(sums_of(x[::2], images[::2]), sums_of(x[1::2], images[1::2])),
            strict=True,
        )
    )
    mean_colour = -10 * np.log10(np.square(images - images.mean(axis=(0, 1, 2))).mean())
    for name in ("nothing", "constant", "noise"):
        assert psnr[name] == pytest.approx(mean_colour, abs=0.3), name
    assert max(psnr, key=psnr.get) == "brightness"
    assert psnr["brightness"] > psnr["some brightness"] + 3 > mean_colour + 4


def test_a_perfect_channel_is_capped():
    grey = np.repeat(np.random.default_rng(3).random((20, 8, 8, 1), np.float32), 3, axis=-1)
    [psnr] = attack_psnr_db(*(sums_of(half[..., :1], half) for half in (grey[:10], grey[10:])))
    # What is left is the rounding of float32 sums, and the ridge.
    assert 50 < psnr <= 100
