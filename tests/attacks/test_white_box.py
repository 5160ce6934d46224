"""White-box optimisation: known answers, tuning, and what it must not know."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attack_checks import (
    check_inverts,
    check_learns_nothing_from_constants,
    fit_one,
    invertible,
    smooth_images,
)

from privynet_jax.attacks import white_box
from privynet_jax.attacks.base import (
    EVERYTHING,
    PAIRS,
    Knowledge,
    Pairs,
    diverged,
)
from privynet_jax.attacks.closed_form import LinearInversion, MeanImage
from privynet_jax.attacks.matching import Matched
from privynet_jax.attacks.scenario import answered
from privynet_jax.attacks.white_box import Better, Choice, WhiteBox, _around, _distinct, _Tuning
from privynet_jax.backbone.split import local_nn
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import DivergedError, UserError
from privynet_jax.images.depth_and_space import space_to_depth
from privynet_jax.images.metrics import haarpsi, psnr_db, ssim
from privynet_jax.images.parts import as_float
from privynet_jax.training.convergence import CONVERGED_PERCENT
from privynet_jax.training.extrapolation import Gain, gain_from

pytestmark = pytest.mark.computes
QUICK = functools.partial(WhiteBox, steps=40, tuning_images=6, doublings=0)
_MATRIX = np.float32(np.random.default_rng(0).normal(size=(12, 12)) / 3 + np.eye(12))


def invertible_local(images):
    """`attack_checks.invertible`, as the function of images that a white-box attacker has."""
    return (space_to_depth(images, 2) @ _MATRIX + 5) / 5


def rectified(images):
    """A local NN that no linear attack inverts; which tells images all the same."""
    centred = invertible_local(images) - 1.1
    return 4 * jnp.concatenate([jax.nn.relu(centred), jax.nn.relu(-centred) ** 2], axis=-1)


def everything(local):
    return Knowledge(EVERYTHING, local=local)


def pairs_of(local, count, seed=1):
    images = smooth_images(count, size=12, seed=seed)
    return Pairs(np.asarray(local(jnp.asarray(as_float(images)))), images)


def test_the_two_ways_to_write_the_invertible_network_agree():
    images = smooth_images(3)
    np.testing.assert_allclose(invertible_local(as_float(images)), invertible(images), rtol=1e-5)


def constant_local(images):
    return jnp.ones((len(images), 8, 8, 12))


def test_where_nothing_is_told_nothing_is_learnt():
    check_learns_nothing_from_constants(QUICK(), knowledge=everything(constant_local))


@pytest.mark.slow
def test_an_invertible_local_nn_is_inverted_from_nothing():
    attack = WhiteBox(MeanImage(), steps=200, tuning_images=3)
    check_inverts(attack, knowledge=everything(invertible_local))


def improved_db(fitted, asked, known):
    """Mean PSNR of an attack that knows some pairs minus its warm start's, in dB."""
    truth = as_float(asked.images)
    start = fit_one(LinearInversion(), known.chosen(known.hold_out()[0]))
    of_start, of_both = (
        np.mean(psnr_db(attack.reconstruct(asked.representations), truth))
        for attack in (start, fitted)
    )
    return of_both - of_start


@pytest.fixture(scope="module")
def fitted():
    return fit_one(QUICK(), pairs_of(rectified, 120), everything(rectified))


def test_it_is_stronger_than_its_warm_start(fitted):
    asked = pairs_of(rectified, 16, seed=2)
    assert improved_db(fitted, asked, pairs_of(rectified, 120)) > 3


def test_it_says_what_tuning_chose(fitted):
    report = fitted.report
    assert report["warm_start"] == "linear"
    assert report["held_out_psnr_db"] > report["warm_start_held_out_psnr_db"] + 3
    assert report["tv_weight"] >= 0
    assert 0 <= report["prior_weight"] < np.inf
    assert report["steps"] == 40
    assert report["converged"] == (report["falling_percent_per_doubling"] <= CONVERGED_PERCENT)


def test_too_few_steps_are_not_called_converged():
    attack = WhiteBox(warm_start=MeanImage(), steps=8, tuning_images=4)
    report = fit_one(attack, pairs_of(rectified, 60), everything(rectified)).report
    assert report["falling_percent_per_doubling"] > 10
    assert not report["converged"]


class Knowing:
    """A warm start that is always right: it has looked up the images."""

    name = "knowing"
    report = {"converged": True}  # noqa: RUF012

    def __init__(self, *pairs):
        self._pairs = pairs

    def fit(self, scenes, knowledge, keys):
        return [self] * len(scenes)

    def reconstruct(self, representations):
        rows = {
            x.tobytes(): as_float(y)
            for pairs in self._pairs
            for x, y in zip(pairs.representations, pairs.images, strict=True)
        }
        return np.stack([rows[np.asarray(x).tobytes()] for x in representations])


def test_where_the_warm_start_does_best_it_is_the_answer():
    # The local NN that the attacker believes in has nothing to do with the representations.
    known, asked = pairs_of(invertible_local, 40), pairs_of(invertible_local, 3, seed=2)
    attack = WhiteBox(warm_start=Knowing(known, asked), steps=8, tuning_images=6)
    fitted = fit_one(attack, known, everything(lambda x: invertible_local(1 - x)))
    assert fitted.report["prior_weight"] == np.inf
    assert fitted.report["steps"] == 0
    # Eight steps would not be enough, but nothing depends on them.
    assert fitted.report["converged"]
    assert fitted.report["falling_percent_per_doubling"] == 0
    np.testing.assert_array_equal(fitted.reconstruct(asked.representations), as_float(asked.images))


def test_a_warm_start_that_has_not_converged_is_not_called_so():
    started = SimpleNamespace(report={"converged": False, "falling_percent_per_doubling": 9.0})
    found = {"falling_percent_per_doubling": 1.0, "last_doubling_db": 0.0, "steps": 20}
    report = QUICK()._report(None, found, started)
    assert (report["converged"], report["falling_percent_per_doubling"]) == (False, 9.0)
    report = QUICK()._report(Choice(0.1, 1.0), found, started)
    assert (report["converged"], report["falling_percent_per_doubling"]) == (False, 1.0)


def test_steps_that_add_nothing_are_left_out_and_have_converged():
    started = SimpleNamespace(report={"converged": True})
    found = {"falling_percent_per_doubling": 50.0, "last_doubling_db": 0.0, "steps": 20}
    attack = WhiteBox(steps=40)
    assert attack._report(Choice(0.1, 1.0), found, started)["converged"]
    found["last_doubling_db"] = 0.03
    assert not attack._report(Choice(0.1, 1.0), found, started)["converged"]


@pytest.mark.parametrize(
    ("of_start", "choice", "gain"),
    [
        # The network's own, where its answer is given; else that and the optimisation's.
        ({"gain_db": Gain(2.0, 1.0, 4.0)}, None, Gain(2.0, 1.0, 4.0)),
        ({"gain_db": Gain(2.0, 1.0, 4.0)}, Choice(0.1, 1.0), gain_from(Gain(2.0, 1.0, 4.0), 0.5)),
        # Nothing is known of this network, and a closed form has nothing to train.
        ({"gain_db": None}, Choice(0.1, 1.0), None),
        ({"gain_db": None}, None, None),
        ({}, Choice(0.1, 1.0), gain_from(Gain(0.0, 0.0, 0.0), 0.5)),
    ],
)
def test_what_longer_training_gains_is_the_start_s_and_its_own(of_start, choice, gain):
    found = {"falling_percent_per_doubling": 9.0, "last_doubling_db": 0.5, "steps": 20}
    started = SimpleNamespace(report={"converged": False, **of_start})
    report = QUICK()._report(choice, found, started)
    assert report["gain_db"] == gain
    assert report["steps"] == (20 if choice else 0)


@pytest.mark.parametrize(
    ("half_db", "steps", "reached_db"), [(29.9, 8, 30.0), (29.99, 4, 29.99), (30.5, 4, 30.5)]
)
def test_steps_that_add_nothing_are_left_out(monkeypatch, half_db, steps, reached_db):
    """Of eight steps, which reach 30 dB; the start has 0.1."""
    matched = Matched(np.array([30.0]), np.array([half_db]), tuple(np.ones((3, 1))))
    monkeypatch.setattr(_Tuning, "_finalists", lambda _: [Choice(0.1, 1.0)])
    monkeypatch.setattr(_Tuning, "_match", lambda *_: matched)
    monkeypatch.setattr(_Tuning, "_psnr_db", lambda tuning, images, choices=1: images)
    monkeypatch.setattr(white_box, "ssim", lambda images, truth: images)
    choice, better, found = _Tuning(None, (None, np.array([0.1])), np.zeros(1), 8, 0).best()
    assert (choice, better) == (Choice(0.1, 1.0), (True, True))
    assert (found["steps"], found["held_out_psnr_db"]) == (steps, reached_db)
    assert found["last_doubling_db"] == pytest.approx(30 - half_db)


@pytest.mark.parametrize(("doublings", "steps", "reached_db"), [(3, 32, 28.1), (1, 16, 28.0)])
def test_steps_go_on_while_they_add_much(monkeypatch, doublings, steps, reached_db):
    after = {4: 25.0, 8: 27.0, 16: 28.0, 32: 28.1, 64: 29.0}

    def match(tuning, choices, count, steps):
        return Matched(*np.array([[after[steps]], [after[steps // 2]]]), tuple(np.ones((3, 1))))

    monkeypatch.setattr(_Tuning, "_finalists", lambda _: [Choice(0.1, 1.0)])
    monkeypatch.setattr(_Tuning, "_match", match)
    monkeypatch.setattr(_Tuning, "_psnr_db", lambda tuning, images, choices=1: images)
    monkeypatch.setattr(white_box, "ssim", lambda images, truth: images)
    _, _, found = _Tuning(None, (None, np.array([0.1])), np.zeros(1), 8, doublings).best()
    assert (found["steps"], found["held_out_psnr_db"]) == (steps, reached_db)


def test_what_is_nearer_may_be_less_alike(monkeypatch):
    truth = np.float32(np.random.default_rng(0).random((4, 12, 12, 3)))
    faint, darker = 0.5 + 0.65 * (truth - 0.5), 0.8 * truth
    monkeypatch.setattr(_Tuning, "_finalists", lambda _: [Choice(0.1, 1.0)])
    for start, end, expected in ((faint, darker, (False, True)), (darker, faint, (True, False))):
        matched = Matched(end, end, tuple(np.ones((3, 4))))
        monkeypatch.setattr(_Tuning, "_match", lambda *_, matched=matched: matched)
        _, better, found = _Tuning(None, (None, start), truth, 8, 0).best()
        assert better == expected
        assert found["held_out_psnr_db"] == pytest.approx(float(psnr_db(faint, truth).mean()))


@pytest.mark.parametrize("nearest", ["start", "optimised"])
def test_the_likest_answer_is_scored_where_likeness_is_asked_for(monkeypatch, nearest):
    better = Better(nearest == "optimised", nearest == "start")
    found = {"steps": 40, "falling_percent_per_doubling": 0.0, "last_doubling_db": 0.0}
    monkeypatch.setattr(_Tuning, "best", lambda _: (Choice(0.0, 0.0), better, found))
    known, asked = pairs_of(invertible_local, 20), pairs_of(invertible_local, 8, seed=2)
    fitted = fit_one(QUICK(MeanImage()), known, everything(invertible_local))
    assert fitted.report["steps"] == (40 if better.psnr_db else 0)
    estimates, quality = answered(fitted, asked.representations, asked.images)
    likest = fitted.likest(asked.representations)
    truth = as_float(asked.images)
    # The start is the mean image, and what is optimised is right.
    assert (psnr_db(estimates, truth).mean() > 30) == better.psnr_db
    assert (psnr_db(likest, truth).mean() > 30) == better.ssim
    np.testing.assert_allclose(quality["psnr_db"], psnr_db(estimates, truth), rtol=1e-5)
    for metric in (ssim, haarpsi):
        np.testing.assert_allclose(quality[metric.__name__], metric(likest, truth), rtol=1e-5)
    backwards = fitted.after(lambda x: x[::-1], {})
    for name in ("reconstruct", "likest"):
        one, other = (getattr(own, name) for own in (backwards, fitted))
        np.testing.assert_array_equal(
            one(asked.representations[::-1]), other(asked.representations)
        )


def test_a_warm_start_that_diverged_is_no_answer():
    lost = SimpleNamespace(name="lost", fit=lambda scenes, *_: [diverged("it did")] * len(scenes))
    fitted = fit_one(WhiteBox(warm_start=lost), pairs_of(rectified, 8), everything(rectified))
    with pytest.raises(DivergedError, match="it did"):
        fitted.reconstruct(pairs_of(rectified, 2).representations)


def test_no_candidate_runs_twice(monkeypatch):
    asked = []
    best = Choice(0.1, 1.0)
    beside = _around(best)[1]
    assert len(_distinct([*_around(beside), best, beside])) == 5  # best is among them, rounded

    def ranked(tuning, choices, count, steps):
        asked.append(choices)
        return [best, beside, *choices]

    monkeypatch.setattr(_Tuning, "_ranked", ranked)
    matched = Matched(np.zeros(2), np.zeros(2), tuple(np.ones((3, 2))))
    monkeypatch.setattr(_Tuning, "_match", lambda *_: matched)
    monkeypatch.setattr(_Tuning, "_psnr_db", lambda *given: np.zeros(given[2:] or 1))
    monkeypatch.setattr(white_box, "ssim", lambda *_: 0)
    _Tuning(None, (np.zeros(1), np.zeros(1)), np.zeros(1), 8, 0).best()
    assert [len(choices) for choices in asked] == [40, 8, 8]


def test_the_warm_start_never_meets_the_images_that_weights_are_tuned_on():
    known, seen = pairs_of(rectified, 60), []

    class Spy(MeanImage):
        def fit(self, scenes, knowledge, keys):
            seen.extend(scenes)
            return super().fit(scenes, knowledge, keys)

        name = "spy"

    attack = WhiteBox(warm_start=Spy(), steps=8, tuning_images=3)
    fit_one(attack, known, everything(rectified))
    assert len(seen[0].images) == 54
    chosen = {image.tobytes() for image in seen[0].images}
    assert len(chosen) == 54
    assert chosen < {image.tobytes() for image in known.images}


def test_weights_are_tuned_on_other_images_and_not_on_copies(monkeypatch):
    met, best = [], _Tuning.best
    monkeypatch.setattr(_Tuning, "best", lambda own: met.append(own) or best(own))
    once = pairs_of(rectified, 60)
    several = Pairs(*(np.repeat(own, 3, axis=0) for own in (once.representations, once.images)), 3)
    attack = QUICK(warm_start=MeanImage())
    for pairs in (once, several):
        fit_one(attack, pairs, everything(rectified))
    given = [(own.truth, *own.known) for own in met]
    for one, other in zip(*given, strict=True):
        assert len(one) == 6
        # Means over three times as many images, in float32.
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_no_representations_give_no_images():
    attack = WhiteBox(warm_start=MeanImage(), steps=2, tuning_images=2)
    fitted = fit_one(attack, pairs_of(rectified, 8), everything(rectified))
    assert fitted.reconstruct(np.zeros((0, 6, 6, 24), np.float32)).shape == (0, 12, 12, 3)


def test_topologies_side_by_side_are_attacked_as_alone(fitted):
    scenes = [pairs_of(rectified, 120), pairs_of(rectified, 120, seed=5)]
    keys = list(jax.random.split(jax.random.key(0)))
    together = QUICK().fit(scenes, [everything(rectified)] * 2, keys)
    # The warm starts' sums are taken over other arrays, and everything else one by one.
    assert together[0].report == fitted.report
    assert together[1].report != fitted.report
    asked = pairs_of(rectified, 4, seed=2).representations
    np.testing.assert_array_equal(together[0].reconstruct(asked), fitted.reconstruct(asked))


@pytest.mark.slow
def test_all_channels_of_the_first_layers_give_images_away(vgg_weights, small_parts):
    local = local_nn(vgg_weights.params, Topology(2, tuple(range(64))))
    known, asked = (
        Pairs(np.asarray(jax.jit(local)(as_float(images))) / 100, images)
        for images in (small_parts.auxiliary.images[:48], small_parts.test.images[:16])
    )
    attack = WhiteBox(steps=24, tuning_images=2)
    fitted = fit_one(attack, known, everything(lambda images: local(images) / 100))
    found = psnr_db(fitted.reconstruct(asked.representations), as_float(asked.images))
    assert found.mean() > 35
    assert improved_db(fitted, asked, known) > 3


@pytest.mark.parametrize(
    ("attack", "count", "knowledge", "message"),
    [
        (WhiteBox, 9, Knowledge(PAIRS), "given the knowledge 'pairs', but needs the local NN"),
        (WhiteBox, 1, everything(rectified), "1 representations and 1 images are no pairs"),
        (functools.partial(WhiteBox, steps=1), 9, everything(rectified), "1 steps and 32 tuning"),
    ],
)
def test_what_is_not_enough_is_refused(attack, count, knowledge, message):
    with pytest.raises(UserError, match=message):
        fit_one(attack(), pairs_of(rectified, count), knowledge)
