"""Imputation against scikit-learn, and on channels of which some are functions of others."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from privynet_jax.estimates import imputation
from privynet_jax.estimates.imputation import fit_components, impute, imputed


@pytest.fixture(scope="module")
def representations():
    """float32 [40, 6, 6, 7], not negative; the last three channels mix the first four."""
    rng = np.random.default_rng(0)
    sources = rng.exponential(size=(40, 6, 6, 4)).astype(np.float32)
    return np.concatenate([sources, sources @ rng.random((4, 3), np.float32)], axis=-1)


@pytest.fixture(scope="module")
def components(representations):
    return fit_components([representations[:11], representations[11:]], most=5)


def flat(representations):
    return np.log1p(np.float64(representations)).reshape(-1, representations.shape[-1])


def test_components_are_the_principal_ones_with_unit_variance(components, representations):
    values = flat(representations)
    reference = PCA(5, whiten=True).fit(values)
    found = (values - components.mean) @ components.basis
    expected = reference.transform(values)
    correlations = np.corrcoef(found.T, expected.T)[:5, 5:]
    # Up to their signs, and to float32 sums.
    np.testing.assert_allclose(np.abs(correlations), np.eye(5), atol=1e-3)
    np.testing.assert_allclose(found.std(axis=0), 1, rtol=1e-3)


@pytest.mark.parametrize("positions", [(2,), (6, 0, 3)])
def test_a_subset_is_imputed_as_scikit_learn_regresses(components, representations, positions):
    found = impute(components, positions, width=4)
    values = flat(representations)
    released, truth = values[:, list(positions)], (values - components.mean) @ components.basis
    alpha = imputation.RIDGE * released.var(axis=0).mean() * len(values)
    model = Ridge(alpha=alpha).fit(released, truth)
    expected = model.predict(released)
    np.testing.assert_allclose(
        np.asarray(imputed(found, representations)).reshape(-1, 5), expected, atol=2e-3
    )
    np.testing.assert_allclose(found.share, expected.var(axis=0) / truth.var(axis=0), atol=2e-3)


def test_padding_changes_nothing(components, representations):
    narrow, wide = (impute(components, (5, 1), width) for width in (2, 6))
    assert wide.kernel.shape == (6, 5)
    np.testing.assert_allclose(
        imputed(narrow, representations), imputed(wide, representations), atol=1e-6
    )


def test_all_channels_explain_all_and_few_explain_less(components):
    everything = impute(components, range(7), 7).share
    one = impute(components, (0,), 7).share
    assert everything[:3].min() > 0.95
    assert (one < everything + 1e-6).all()
    assert one.min() >= 0


def test_channels_that_never_respond_do_no_harm():
    silent = fit_components([np.zeros((3, 2, 2, 4), np.float32)], most=4)
    found = impute(silent, (1, 2), 3)
    assert all(np.isfinite(leaf).all() for leaf in found)


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="at least one batch"):
        fit_components([], most=2)
