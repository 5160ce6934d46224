"""The closed-form attack against scikit-learn, and on representations whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from privynet_jax.images.depth_and_space import space_to_depth
from privynet_jax.images.parts import as_float
from privynet_jax.training.models import linear_attack
from privynet_jax.training.models.linear_attack import RIDGES, fit, gather_statistics, reconstruct


def windows_of(representations):
    """[N, h, w, C] -> float64 [N * h * w, 9 * C], pixel by pixel, zeros outside."""
    padded = np.pad(np.float64(representations), ((0, 0), (1, 1), (1, 1), (0, 0)))
    count, height, width, _ = representations.shape
    places = np.ndindex(count, height, width)
    return np.array([padded[n, i : i + 3, j : j + 3].ravel() for n, i, j in places])


def blocks_of(images, stride):
    """[N, H, W, 3] -> float64 [N * h * w, stride * stride * 3], block by block."""
    count, height, width, _ = images.shape
    places = np.ndindex(count, height // stride, width // stride)
    return np.float64(
        [
            images[n, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].ravel()
            for n, i, j in places
        ]
    )


def ridge_solutions(windows, blocks):
    """One scikit-learn model per ridge, with `fit`'s scale: the mean square of a regressor."""
    scale = (np.square(windows).sum() + len(windows)) / (windows.shape[1] + 1)
    return [Ridge(alpha=ridge * scale).fit(windows, blocks) for ridge in RIDGES]


def toy_pairs(seed, count, noise=0.3):
    """Images 8 x 8 that a 4 x 4 representation of five channels tells something about."""
    rng = np.random.default_rng(seed)
    images = rng.random((count, 8, 8, 3), np.float32)
    mix = np.random.default_rng(99).standard_normal((12, 5)).astype(np.float32)
    representations = np.asarray(space_to_depth(images, 2)) @ mix
    return representations + noise * rng.standard_normal(representations.shape, np.float32), images


def decibels(estimates, images):
    return -10 * np.log10(np.mean(np.square(np.float64(estimates) - images)))


def attack_psnr(represent, parts):
    """PSNR on test images of the attack fitted to auxiliary ones; `represent` maps images."""
    pairs = [(represent(images), images) for images in parts]
    fitted_on, chosen_on = (gather_statistics([pair]) for pair in pairs[:2])
    representations, images = pairs[2]
    attack = fit(fitted_on, chosen_on, range(representations.shape[-1]))
    return decibels(reconstruct(attack, representations), images)


@pytest.fixture(scope="module")
def real_parts(photo_parts):
    parts = [photo_parts.auxiliary, photo_parts.validation, photo_parts.test]
    return [as_float(part.images[:300]) for part in parts]


@pytest.fixture(scope="module")
def mean_image_psnr(real_parts):
    auxiliary, _, test = real_parts
    return decibels(auxiliary.mean(axis=0), test)


def test_sums_are_those_of_explicit_neighbourhoods():
    representations, images = toy_pairs(0, 6)
    found = gather_statistics([(representations, images)])
    windows, blocks = windows_of(representations), blocks_of(images, 2)
    windows = np.column_stack([windows, np.ones(len(windows))])
    # float32 sums of 96 products of numbers of about 1.
    np.testing.assert_allclose(found.gram, windows.T @ windows, atol=1e-3)
    np.testing.assert_allclose(found.cross, windows.T @ blocks, atol=1e-3)
    assert found.energy == pytest.approx(np.square(blocks).sum(), rel=1e-6)
    assert (found.count, found.num_channels) == (6 * 4 * 4, 5)


def test_sums_do_not_depend_on_batches():
    representations, images = toy_pairs(1, 10)
    whole = gather_statistics([(representations, images)])
    cuts = [slice(0, 1), slice(1, 7), slice(7, 10)]
    parts = gather_statistics((representations[cut], images[cut]) for cut in cuts)
    np.testing.assert_allclose(parts.gram, whole.gram, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(parts.cross, whole.cross, rtol=1e-5, atol=1e-4)
    assert parts.energy == pytest.approx(whole.energy, rel=1e-6)
    assert parts.count == whole.count


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="at least one batch"):
        gather_statistics([])


@pytest.mark.parametrize("positions", [(3,), (4, 0, 2), range(5)])
def test_a_subset_is_solved_as_scikit_learn_solves_it_alone(positions):
    parts = [toy_pairs(seed, count) for seed, count in [(2, 12), (3, 8), (4, 4)]]
    fitted_on, chosen_on, _ = (gather_statistics([pair]) for pair in parts)
    attack = fit(fitted_on, chosen_on, positions)
    windows, blocks = zip(
        *((windows_of(r[..., list(positions)]), blocks_of(i, 2)) for r, i in parts), strict=True
    )
    models = ridge_solutions(windows[0], blocks[0])
    errors = [np.square(model.predict(windows[1]) - blocks[1]).sum() for model in models]
    # Whichever ridge wins on what was held out, the solution is that of both together.
    both = ridge_solutions(np.concatenate(windows[:2]), np.concatenate(blocks[:2]))
    best = both[np.argmin(errors)]
    kernel = np.asarray(attack.kernel).reshape(-1, 12)
    # The sums are float32: relative 1e-6, times a condition number of about 100.
    np.testing.assert_allclose(kernel, best.coef_.T, atol=1e-3)
    np.testing.assert_allclose(attack.bias, best.intercept_, atol=1e-3)
    found = reconstruct(attack, parts[2][0][..., list(positions)])
    np.testing.assert_allclose(blocks_of(np.asarray(found), 2), best.predict(windows[2]), atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_an_invertible_local_nn_is_inverted(real_parts, stride):
    depth = 3 * stride**2
    rotation, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((depth, depth)))

    def represent(images):
        return np.asarray(space_to_depth(images, stride)) @ np.float32(rotation)

    assert attack_psnr(represent, real_parts) > 40


@pytest.mark.parametrize("size", [1, 2, 16])
def test_a_constant_representation_gives_no_more_than_the_mean_image(
    real_parts, mean_image_psnr, size
):
    found = attack_psnr(lambda images: np.ones((len(images), size, size, 4)), real_parts)
    # The border shows, as zeros beyond it; the mean image knows every position.
    assert mean_image_psnr - 1 < found < mean_image_psnr + 0.1


def test_shuffled_pairs_give_no_more_than_the_mean_image(real_parts, mean_image_psnr):
    rng = np.random.default_rng(6)

    def represent(images):
        return np.asarray(space_to_depth(images, 2))[rng.permutation(len(images))]

    assert attack_psnr(represent, real_parts) < mean_image_psnr + 0.3


def test_channels_with_zero_kernels_do_not_count():
    fitted_on, chosen_on = (gather_statistics([toy_pairs(seed, 8)]) for seed in (7, 8))
    attack = fit(fitted_on, chosen_on, (1, 4))
    padded = attack._replace(kernel=jnp.pad(attack.kernel, ((0, 0), (0, 0), (0, 3), (0, 0))))
    representations, _ = toy_pairs(9, 4)
    released = representations[..., (1, 4)]
    anything = np.concatenate([released, 5 * representations[..., :3]], axis=-1)
    # Products with zero are exact; only the order of sums may differ.
    expected = reconstruct(attack, released)
    np.testing.assert_allclose(reconstruct(padded, anything), expected, atol=1e-5)


def test_validation_picks_a_larger_ridge_for_few_noisy_samples(monkeypatch):
    def chosen(count, noise):
        fitted_on = gather_statistics([toy_pairs(10, count, noise)])
        chosen_on = gather_statistics([toy_pairs(11, 64, noise)])
        kernel = fit(fitted_on, chosen_on, range(5)).kernel
        distances = []
        for ridge in RIDGES:
            with monkeypatch.context() as patch:
                patch.setattr(linear_attack, "RIDGES", (ridge,))
                alone = fit(fitted_on, chosen_on, range(5)).kernel
            distances.append(np.abs(alone - kernel).max())
        assert min(distances) == 0
        return RIDGES[np.argmin(distances)]

    # Four images are 64 positions for 46 unknowns, five hundred are 8000.
    assert chosen(4, noise=3.0) == RIDGES[-1]
    assert chosen(500, noise=0.0) < 1e-2


@pytest.mark.parametrize("seed", range(3))
def test_one_decomposition_solves_for_every_ridge(seed):
    rng = np.random.default_rng(seed)
    # Regressors with means, some nearly dependent on others, and a constant.
    x = rng.exponential(size=(400, 12)) @ rng.normal(size=(12, 20)) + 3
    x = np.concatenate([x + 0.01 * rng.normal(size=x.shape), np.ones((400, 1))], axis=1)
    y = rng.normal(size=(400, 5)) + 2
    sums = linear_attack.LinearStatistics(x.T @ x, x.T @ y, float(np.sum(y**2)), len(x))
    found = linear_attack._solutions(sums, linear_attack.RIDGES)
    for ridge, solution in zip(linear_attack.RIDGES, found, strict=True):
        np.testing.assert_allclose(solution, linear_attack.solve(sums, ridge), rtol=1e-6, atol=1e-6)
