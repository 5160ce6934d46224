"""Closed-form scores of subsets, against scikit-learn and against a linear attack that is run."""

import jax
import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import Ridge
from support.handmade_layers import handmade_features

from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.layer_features import extractor
from privynet_jax.estimates.subsets import linear_statistics
from privynet_jax.images.partition import hold_out, spread_over_classes
from privynet_jax.images.parts import as_float
from privynet_jax.selection.subset_scores import SubsetScorer, _field_numbers
from privynet_jax.training.models import linear_attack

NUM_LAYERS = 4
SUBSET = np.array([3, 17, 40, 90])


@pytest.fixture(scope="module")
def layer(small_parts, vgg_weights):
    """All channels of a real layer, normalised."""
    extract = jax.jit(extractor(VGG16, {NUM_LAYERS: range(128)}))
    arrays = {}
    for name, part in small_parts.items():
        raw = np.asarray(extract(vgg_weights.params, as_float(part.images))[NUM_LAYERS])
        arrays[name] = np.float16(raw / np.sqrt(np.mean(raw**2)))
    return handmade_features(NUM_LAYERS, range(128), arrays)


@pytest.fixture(scope="module")
def scorer(layer, small_parts):
    return SubsetScorer(layer, small_parts, most_channels=8)


def test_fields_are_means_and_deviations(layer, small_parts):
    found = _field_numbers(layer, "test", np.array([5, 2]))
    values = np.log1p(np.float32(layer.parts["test"][[5, 2]]))
    fields = values.reshape(2, 4, 4, 4, 4, 128)
    means, deviations = (f(fields, axis=(2, 4)).reshape(2, 16, 128) for f in (np.mean, np.std))
    assert found.shape == (2, 128, 32)
    np.testing.assert_allclose(found[:, :, :16], means.transpose(0, 2, 1), atol=1e-5)
    np.testing.assert_allclose(found[:, :, 16:], deviations.transpose(0, 2, 1), atol=1e-5)


@pytest.mark.parametrize(("side", "fields"), [(1, 1), (2, 2), (7, 4)])
def test_small_and_odd_sides(layer, side, fields):
    cut = {name: rows[:, :side, :side] for name, rows in layer.parts.items()}
    small = handmade_features(NUM_LAYERS, layer.channels, cut)
    numbers = _field_numbers(small, "test", np.arange(3))
    assert numbers.shape == (3, 128, 2 * fields**2)
    assert np.isfinite(numbers).all()


def test_log_likelihood_is_that_of_scikit_learn_s_ridge(scorer, layer, small_parts):
    parts = small_parts
    judged = np.sort(spread_over_classes(parts.auxiliary.labels, 1024))
    x = _field_numbers(layer, "target", np.arange(len(parts.target)))[:, SUBSET]
    z = _field_numbers(layer, "auxiliary", judged)[:, SUBSET]
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    x, z = ((a - mean) / deviation for a in (x, z))
    x, z = x.reshape(len(x), -1), z.reshape(len(z), -1)
    answers = np.eye(30)[parts.target.labels]
    # Standardised numbers have a mean diagonal of one per image.
    ridge = Ridge(alpha=1e-2 * len(x)).fit(x, answers)
    likelihoods = special.log_softmax(10 * ridge.predict(z), axis=1)
    expected = likelihoods[np.arange(len(z)), parts.auxiliary.labels[judged]].mean()
    # float32 against float64
    assert scorer([SUBSET]).log_likelihood[0] == pytest.approx(expected, abs=1e-3)


def test_psnr_is_that_of_the_attack_on_images_it_never_saw(scorer, layer, small_parts):
    auxiliary = small_parts.auxiliary
    fitted, held_out = hold_out(len(auxiliary))
    stored = layer.parts["auxiliary"]
    fitted_on, _ = linear_statistics(stored, auxiliary.images, fitted, held_out)
    rows = linear_attack.subset_rows(SUBSET, 128)
    solution = linear_attack.solve(fitted_on.restricted(rows), 1e-4)
    kernel = np.float32(solution[:-1].reshape(3, 3, len(SUBSET), -1))
    attack = linear_attack.LinearAttack(kernel, np.float32(solution[-1]))
    released = np.float32(stored[held_out][..., SUBSET])
    error = linear_attack.reconstruct(attack, released) - as_float(auxiliary.images[held_out])
    expected = -10 * np.log10(np.mean(np.square(error)))
    assert scorer([SUBSET]).psnr_db[0, 0] == pytest.approx(expected, abs=0.01)


def test_scores_do_not_depend_on_their_company(scorer):
    others = [np.array([1]), SUBSET, np.arange(60, 68)]
    together, alone = scorer(others), scorer([SUBSET])
    assert together.psnr_db[1, 0] == alone.psnr_db[0, 0]
    assert together.log_likelihood[1] == alone.log_likelihood[0]
    # More channels tell more of both.
    assert together.psnr_db[0, 0] < together.psnr_db[2, 0]
