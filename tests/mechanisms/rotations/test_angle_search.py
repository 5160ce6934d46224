"""The search for turns, on features made by hand of pictures of noise.

Linear maps of Gaussian pixels are Gaussian, and so are all mixtures of them: nothing tells which
turn is right. The same after a ReLU have no negative values; their mixtures do.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from privynet_jax.attacks.base import EVERYTHING, PAIRS, Knowledge, Pairs
from privynet_jax.attacks.closed_form import LinearInversion, MeanImage
from privynet_jax.errors import UserError
from privynet_jax.images.depth_and_space import space_to_depth
from privynet_jax.images.metrics import psnr_db
from privynet_jax.images.parts import as_float
from privynet_jax.mechanisms.disguises.undoing import seen_through
from privynet_jax.mechanisms.rotations import turns
from privynet_jax.mechanisms.rotations.angle_search import (
    AngleSearch,
    nearest_turns,
    turned_back_by,
)
from privynet_jax.mechanisms.rotations.rotation import Quaternion, Rotation

KEY, SIDE, DEPTH, OWN = jax.random.key(4), 8, 24, 300
# Of 2 x 2 pixels each, so that features tell all of them.
KERNEL = np.random.default_rng(7).standard_normal((12, DEPTH)).astype(np.float32)


def gaussian(images):
    return space_to_depth(images - 0.5, 2) @ KERNEL


def rectified(images):
    return jax.nn.relu(gaussian(images))


def pictures(count, seed):
    drawn = np.random.default_rng(seed).normal(127.5, 40, (count, SIDE, SIDE, 3))
    return np.uint8(drawn.round().clip(0, 255))


class Released:
    """Pictures with what is released of them, and their turns."""

    def __init__(self, local, mechanism, count, seed):
        self.images = pictures(count, seed)
        own, *others = np.split(pictures(count * mechanism.parts, seed), mechanism.parts)
        assert (own == self.images).all()
        hidden = [np.asarray(local(as_float(each))) for each in (own, *others)]
        self.turns = np.asarray(
            jax.vmap(mechanism.turn)(jax.random.split(jax.random.key(seed), count))
        )
        z = turns.packed(turns.turned(self.turns, np.stack(hidden, axis=1)))
        self.pairs = Pairs(np.asarray(z), self.images)


def attacked(local, mechanism, undoing=None):
    """Mean PSNR in dB of who searches, of the mean image, and of who knows the turns."""
    own, queries = (Released(local, mechanism, n, s) for n, s in ((OWN, 0), (150, 1)))
    undoing = undoing or AngleSearch(mechanism, EVERYTHING, steps=60)

    def represented(images):
        return jnp.pad(local(images), ((0, 0), (0, 0), (0, 0), (0, (mechanism.parts - 1) * DEPTH)))

    known = Knowledge(undoing.knowledge, local=represented)
    [by_search] = seen_through(undoing, LinearInversion()).fit([own.pairs], [known], [KEY])
    [mean] = MeanImage().fit([own.pairs], [known], [KEY])

    def back(released):
        return turned_back_by(released.pairs.representations, released.turns)[..., :DEPTH]

    [by_turns] = LinearInversion().fit([Pairs(back(own), own.images)], [known], [KEY])
    truth = as_float(queries.images)
    return by_search.report["turns_found_percent"], *(
        float(psnr_db(np.float32(fitted.reconstruct(given)), truth).mean())
        for fitted, given in (
            (by_search, queries.pairs.representations),
            (mean, queries.pairs.representations),
            (by_turns, back(queries)),
        )
    )


def test_gaussian_features_do_not_tell_their_angle():
    found, searched, mean, known = attacked(gaussian, Rotation())
    # By chance 30 degrees of 360 are near enough: 8 %; 30 rows are held out.
    assert found < 30
    assert searched < mean + 0.3
    assert known > mean + 20


def test_features_without_negative_values_do():
    found, searched, mean, known = attacked(rectified, Rotation())
    assert found > 90
    assert searched > mean + 3
    assert known > searched


def test_quaternions_are_searched_likewise():
    _, searched, mean, _ = attacked(rectified, Quaternion())
    assert searched > mean + 2


def test_pairs_alone_tell_the_angles_of_own_pictures():
    mechanism = Rotation()
    own = Released(rectified, mechanism, 2 * OWN, 0)
    search = AngleSearch(mechanism, PAIRS, steps=60)
    undone = search.learnt(own.pairs, Knowledge(PAIRS), KEY)
    queries = Released(rectified, mechanism, 60, 1)
    left = undone.undo(queries.pairs.representations)[..., :DEPTH]
    truth = np.asarray(rectified(as_float(queries.images)))
    # But for a sign, which is the same for all.
    assert abs(np.corrcoef(left.ravel(), truth.ravel())[0, 1]) > 0.9


@pytest.mark.parametrize("mechanism", [Rotation(), Quaternion()], ids=str)
def test_the_nearest_turn_is_found_by_hand(mechanism):
    own = Released(gaussian, mechanism, 20, 3)
    expected = np.asarray(gaussian(as_float(own.images)))
    tried = np.asarray(mechanism.turns(mechanism.tries))
    found = nearest_turns(own.pairs.representations, expected, tried)
    z = np.asarray(turns.unpacked(own.pairs.representations, mechanism.parts))
    for row, best in zip(range(20), found, strict=True):
        misfits = [np.square(np.tensordot(t[:, 0], z[row], 1) - expected[row]).sum() for t in tried]
        assert misfits[best] == pytest.approx(min(misfits), rel=1e-4)
    with pytest.raises(UserError, match="needs the local NN"):
        AngleSearch(mechanism, EVERYTHING).learnt(own.pairs, Knowledge(PAIRS), KEY)
