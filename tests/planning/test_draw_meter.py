"""What a drawn subset gives away: by attackers whose answers are known."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from privynet_jax.attacks.base import EVERYTHING, NETWORK, FittedAttack
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.images.parts import as_float
from privynet_jax.images.sample import Sample
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.noises import GaussianNoise
from privynet_jax.planning.draw_meter import SHARES, DrawMeter, released_unit

TOPOLOGY = Topology(2, (5, 60, 17))
SIZE, COUNT = 16, 30


@dataclasses.dataclass(frozen=True, eq=False)
class Answering:
    """An attacker who answers with given pictures, and keeps what it was shown."""

    answers: np.ndarray
    shown: list = dataclasses.field(default_factory=list)
    name = "answering"
    knowledge: str = NETWORK

    def fit(self, scenes, knowledge, keys):
        [own], [known] = scenes, knowledge
        self.shown.extend([own, known])
        rest = iter(np.split(self.answers, range(32, len(self.answers), 32)))
        return [FittedAttack(lambda release: next(rest)[: len(release)], {})]


@pytest.fixture(scope="module")
def sample():
    stream = np.random.default_rng(0)
    images = stream.integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    return Sample(images, np.arange(COUNT, dtype=np.int32) % 2, ("cats", "dogs"), (), COUNT)


def meter(weights, sample, attack, attacked_images=64):
    return DrawMeter(weights, sample, attack, attacked_images, seed=0)


# Sixteen at most: classes of 15 give half each.
@pytest.mark.parametrize(("asked", "released"), [(64, 16), (6, 6)])
def test_the_attacker_meets_what_is_scored_and_owns_the_rest(vgg_weights, sample, asked, released):
    attack = Answering(np.full((16, SIZE, SIZE, 3), 0.4, np.float32))
    found = meter(vgg_weights, sample, attack, asked).measure(TOPOLOGY, "mean")
    own, known = attack.shown
    assert len(own.representations) == 0
    rows = rows_of(sample, own.images)
    assert [np.count_nonzero(rows % 2 == label) for label in (0, 1)] == [15 - released // 2] * 2
    released = as_float(np.delete(sample.images, rows, axis=0))
    errors = np.mean((0.4 - released) ** 2, axis=(1, 2, 3))
    assert found["psnr_db"] == pytest.approx(np.mean(10 * np.log10(1 / errors)), rel=1e-4)
    # Of the topology it sees the release alone, of these and its own pictures: what the local NN
    # gives, over the sample's scale.
    assert known.local is None
    shown = np.concatenate([released, as_float(own.images)])
    local = np.asarray(jax.jit(local_nn(vgg_weights.params, TOPOLOGY))(shown))
    ratio = known.observed / np.where(local > 0, local, 1)
    for channel in range(3):
        mine = ratio[..., channel][local[..., channel] > 1e-3]
        np.testing.assert_allclose(mine, np.median(mine), rtol=1e-3)


def rows_of(sample, images):
    """Where pictures are in a sample of different ones."""
    return np.array(
        [next(i for i, x in enumerate(sample.images) if (x == y).all()) for y in images]
    )


def test_under_a_mechanism_the_attacker_knows_the_channels_and_not_the_noise(vgg_weights, sample):
    attack, seen = (
        Answering(np.full((16, SIZE, SIZE, 3), 0.4, np.float32), knowledge=EVERYTHING),
        [],
    )
    noise = GaussianNoise(clip=1e6, sigma=3.0)
    noisy = dataclasses.replace(meter(vgg_weights, sample, attack), mechanism=noise)
    fitting = attack.fit

    def fit(*given):
        [fitted] = fitting(*given)
        return [
            dataclasses.replace(
                fitted, reconstruct=lambda x: (seen.append(x), fitted.reconstruct(x))[1]
            )
        ]

    object.__setattr__(attack, "fit", fit)
    noisy.measure(TOPOLOGY, "mean")
    own, known = attack.shown
    [release] = seen
    released = as_float(np.delete(sample.images, rows_of(sample, own.images), axis=0))
    expected, made = np.asarray(known.local(released)), np.asarray(known.made(released))
    # All that is released is divided by its root mean square; this is half of it.
    assert np.sqrt(np.mean(np.square(release))) == pytest.approx(1, rel=0.05)
    deviations = (release - expected).std(), (made - expected).std()
    # 16 * 16 * 16 * 3 numbers; the scale of normalised representations is about 1.
    assert deviations == (pytest.approx(3 / 10**0.5, rel=0.05),) * 2
    assert np.corrcoef((release - expected).ravel(), (made - expected).ravel())[0, 1] < 0.05
    images = sample.images
    unit = released_unit(vgg_weights, images, TOPOLOGY, noise)
    assert unit == pytest.approx(10**0.5, rel=0.05)
    assert released_unit(vgg_weights, images, TOPOLOGY, Plain()) == 1.0


def test_a_percentile_is_what_new_pictures_stay_under(vgg_weights):
    stream = np.random.default_rng(1)
    images = stream.integers(0, 256, (300, SIZE, SIZE, 3), dtype=np.uint8)
    many = Sample(images, np.zeros(300, np.int32), ("cats",), (), 300)
    answers = np.full((100, SIZE, SIZE, 3), 0.5, np.float32)
    attack = Answering(answers)
    found = meter(vgg_weights, many, attack, 100).measure(TOPOLOGY, "p95")
    released = np.delete(images, rows_of(many, attack.shown[0].images), axis=0)
    own = np.mean((answers - as_float(released)) ** 2, axis=(1, 2, 3))
    ranked = np.sort(10 * np.log10(1 / own))
    place = int(stats.binom.ppf(0.95, 100, 0.95))
    assert found["psnr_db"] == pytest.approx(ranked[place], rel=1e-4)


def test_rare_classes_are_on_both_sides(vgg_weights, sample):
    # As a sample is ordered: in turn, until there are no more of the rare one.
    labels = np.int32([0, 1] * 4 + [0] * 22)
    unequal = dataclasses.replace(sample, labels=labels)
    attack = Answering(np.zeros((15, SIZE, SIZE, 3), np.float32))
    meter(vgg_weights, unequal, attack).measure(TOPOLOGY, "mean")
    rows = rows_of(sample, attack.shown[0].images)
    assert (len(rows), labels[rows].sum()) == (15, 2)


def test_copies_are_on_one_side(vgg_weights, sample):
    # Ten groups of three, one after another in each class.
    groups = np.arange(COUNT) // 2 % 5 * 2 + sample.labels
    grouped = dataclasses.replace(sample, groups=groups)
    attack = Answering(np.zeros((COUNT, SIZE, SIZE, 3), np.float32))
    meter(vgg_weights, grouped, attack).measure(TOPOLOGY, "mean")
    rows = rows_of(sample, attack.shown[0].images)
    assert not set(groups[rows]) & set(np.delete(groups, rows))
    assert 10 <= len(rows) <= 15


def test_copies_are_no_more_evidence(vgg_weights, sample):
    # Each picture is there twice, and each class has 4 of 8 groups in the release.
    images = np.concatenate([sample.images[:16]] * 2)
    groups = np.tile(np.arange(16), 2)
    twice = Sample(images, np.tile(sample.labels[:16], 2), ("cats", "dogs"), (), 32, groups=groups)
    attack = Answering(np.full((8, SIZE, SIZE, 3), 0.4, np.float32))
    own = meter(vgg_weights, twice, attack)
    assert (own.images, meter(vgg_weights, twice, attack, 5).images) == (8, 5)
    found = own.measure(TOPOLOGY, "mean")
    assert len(attack.shown[1].observed) == 8 + 16
    rows = np.setdiff1d(np.arange(16), rows_of(twice, attack.shown[0].images))
    errors = np.mean((0.4 - as_float(images[rows])) ** 2, axis=(1, 2, 3))
    assert found["psnr_db"] == pytest.approx(np.mean(10 * np.log10(1 / errors)), rel=1e-4)


def test_an_attacker_who_needs_more_pictures_is_told_before_it_begins(vgg_weights, sample):
    attack = Answering(sample.images)
    object.__setattr__(attack, "least_pairs", 16)
    with pytest.raises(UserError, match=r"attacked of the sample's 30 pictures, 14; it takes 16;"):
        meter(vgg_weights, sample, attack).check("mean")


@pytest.mark.parametrize(("statistic", "least"), [("p95", 59), ("p99", 299)])
def test_too_few_pictures_bound_no_percentile(vgg_weights, sample, statistic, least):
    assert SHARES[statistic] ** least < 0.05 < SHARES[statistic] ** (least - 1)
    with pytest.raises(UserError, match=rf"16 pictures .* needs {least}; give more"):
        meter(vgg_weights, sample, Answering(sample.images)).measure(TOPOLOGY, statistic)
