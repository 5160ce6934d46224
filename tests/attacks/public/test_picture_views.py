"""Views of pictures: which stay what they are, which change, and on what they depend."""

import numpy as np
from support.handmade_layers import pictures

from privynet_jax.attacks.public.picture_views import PictureViews

OWN = pictures(20, seed=1)


def test_the_first_view_is_the_picture_and_no_other_is():
    views = PictureViews(OWN, rounds=5)
    assert len(views) == 100
    np.testing.assert_array_equal(views[:20], OWN)
    later = views[20:]
    assert later.dtype == np.uint8
    same = np.all(later == np.tile(OWN, (4, 1, 1, 1)), axis=(1, 2, 3))
    # Plain in scale and colour and not flipped: 8 in 100.
    assert same.mean() < 0.25
    assert len({view.tobytes() for view in views}) > 90


def test_a_view_depends_on_its_number_and_its_picture_alone():
    views = PictureViews(OWN, rounds=4)
    asked = np.array([65, 3, 44, 27, 65])
    np.testing.assert_array_equal(views[asked], np.stack([views[i : i + 1][0] for i in asked]))
    np.testing.assert_array_equal(views[asked], PictureViews(OWN, rounds=9)[asked])


def test_views_show_what_the_picture_shows():
    constant = np.full((8, 16, 16, 3), 128, np.uint8)
    made = np.float32(PictureViews(constant, rounds=4)[8:])
    # Cropped, flipped or scaled, a grey picture is grey all over, in a colour near its own.
    assert np.ptp(made, axis=(1, 2)).max() <= 1
    assert 128 * np.exp(-0.4) - 1 <= made.min() < 120
    assert 136 < made.max() <= 128 * np.exp(0.4) * 1.05
    # Crops have the picture's own scale, or a larger one: never a border that it does not have.
    ramp = np.broadcast_to(np.uint8(np.linspace(60, 120, 16))[None, None, :, None], (8, 16, 16, 3))
    slopes = np.diff(np.float32(PictureViews(np.array(ramp), rounds=4)[8:]).mean(axis=(1, 3)))
    assert np.abs(slopes[:, 2:-2]).max() < 4 * np.exp(0.4) * 1.3 + 2
