"""Whole measurements: no number depends on a cell's company, and known answers come out."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from support.handmade_layers import handmade_features

from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.backbone.topology import Topology
from privynet_jax.characterisation import dedicated
from privynet_jax.errors import UserError
from privynet_jax.images import metrics
from privynet_jax.images.depth_and_space import space_to_depth
from privynet_jax.images.parts import Part, Parts, as_float
from privynet_jax.platform.devices import default_execution
from privynet_jax.results.cells import Cell, grid_cells
from privynet_jax.training import group, linear_attack
from privynet_jax.training.mapping import DoesNotFitError, MappedTask
from privynet_jax.training.networks import attacker, cloud_nn
from privynet_jax.training.tasks import Schedule

SEED, EXAMPLES = 5, (7, 0, 31)
# One layer, whose compilation is most of these tests' time; test_characterisation has two.
CELLS = grid_cells(layers=(4,), depths=(3, 12), draws=2, seed=SEED)
SETTINGS = dedicated.Settings(
    cloud_nn(30, 32, width=8),
    attacker(32, width=8, num_blocks=0),
    Schedule(steps=4, batch_size=8),
    Schedule(steps=3, batch_size=8),
    ("residual", "strong"),
)
# Durations of XLA's compilations; JAX cannot take a single listener away again.
COMPILATIONS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: (
        COMPILATIONS.append(duration) if "backend_compile" in event else None
    )
)
BY_NAME = {cell.name: cell for cell in CELLS}


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Keeps compiled tasks from one call to the next: compiling takes most of these tests' time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedicated, "_map_tasks", functools.cache(dedicated._map_tasks))
        # So that parts are evaluated in several batches, the last one not full.
        patch.setattr(group, "EVALUATION_BATCH", 16)
        yield


@pytest.fixture(scope="module")
def features(vgg_weights, small_parts, tmp_path_factory):
    union = needed_channels([cell.topology for cell in CELLS])
    return load_features(vgg_weights, small_parts, union, tmp_path_factory.mktemp("cache"))


def characterised(missing, features, parts, **changed):
    arguments = {"cells": CELLS, "settings": SETTINGS, "execution": default_execution(4)}
    arguments |= {"examples": EXAMPLES, **changed}
    measurements = dedicated.characterise(
        mine=arguments["cells"],
        missing=missing,
        features=features,
        parts=parts,
        seed=SEED,
        **arguments,
    )
    return {measurement.cell.name: measurement for measurement in measurements}


@pytest.fixture(scope="module")
def whole(features, small_parts):
    """All cells at once: measurements, compilations until each of them, and shares of progress."""
    compilations, shares, measurements, before = [], [], {}, len(COMPILATIONS)
    for measurement in dedicated.characterise(
        CELLS,
        CELLS,
        CELLS,
        features,
        small_parts,
        SETTINGS,
        default_execution(4),
        seed=SEED,
        examples=EXAMPLES,
        progress=shares.append,
    ):
        measurements[measurement.cell.name] = measurement
        compilations.append(len(COMPILATIONS) - before)
    return measurements, compilations, shares


def numbers(measurement):
    return {
        "accuracy": measurement.accuracy,
        "attacks": measurement.attacks,
        "examples": measurement.examples,
    }


def assert_same_bits(one, other):
    assert jax.tree.structure(numbers(one)) == jax.tree.structure(numbers(other))
    for a, b in zip(jax.tree.leaves(numbers(one)), jax.tree.leaves(numbers(other)), strict=True):
        np.testing.assert_array_equal(a, b)


def mean_psnr(measurement, attack, part="test"):
    return measurement.attacks[attack][part]["psnr_db"].mean()


def test_measurements_have_one_number_per_image(whole, small_parts):
    measurements, _, _ = whole
    assert list(measurements) == list(BY_NAME)
    for name, measurement in measurements.items():
        assert measurement.cell == BY_NAME[name]
        assert measurement.seconds > 0
        assert (
            set(measurement.attacks)
            == set(measurement.examples)
            == {"linear", "residual", "strong"}
        )
        for part in ("validation", "test"):
            shape = (len(getattr(small_parts, part)),)
            assert measurement.accuracy[part].shape == shape
            assert set(np.unique(measurement.accuracy[part])) <= {0, 1}
            for by_part in measurement.attacks.values():
                assert {k: v.shape for k, v in by_part[part].items()} == {
                    "psnr_db": shape,
                    "ssim": shape,
                }
        for estimates in measurement.examples.values():
            assert (estimates.shape, estimates.dtype) == ((3, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "names",
    [
        ["m04_d003_r01"],
        ["m04_d012_r01", "m04_d012_r00", "m04_d003_r01", "m04_d003_r00"],
        ["m04_d003_r00", "m04_d012_r00", "m04_d012_r01"],
    ],
    ids=["alone", "in another order", "with other cells missing"],
)
def test_a_cells_numbers_do_not_depend_on_its_company(whole, features, small_parts, names):
    found = characterised([BY_NAME[name] for name in names], features, small_parts)
    assert sorted(found) == sorted(names)
    for name in names:
        assert_same_bits(found[name], whole[0][name])


def test_cells_differ(whole):
    # Otherwise the test above would not notice cells that are mixed up.
    found = [mean_psnr(measurement, "linear") for measurement in whole[0].values()]
    assert len(set(found)) == len(CELLS)


def test_a_layer_compiles_once_whatever_the_number_of_groups(whole):
    _, compilations, _ = whole
    # Four cells on two devices are two groups. Three functions of the cloud NN and six of the
    # attackers' have been compiled when the first is done: were nothing heard, this would be zero.
    assert compilations[0] >= 9
    assert len(set(compilations)) == 1


@pytest.fixture
def cells_that_fit(monkeypatch):
    """Makes XLA refuse more cells per device than a number; test_mapping has real refusals."""

    def allow(most):
        compiled = MappedTask.compiled_steps

        def checked(task, *arguments):
            if task.execution.cells_per_device > most:
                raise DoesNotFitError(f"{task.execution.cells_per_device} cells are too many")
            return compiled(task, *arguments)

        monkeypatch.setattr(MappedTask, "compiled_steps", checked)

    return allow


@pytest.mark.slow
def test_cells_that_do_not_fit_together_are_trained_in_slices(
    whole, features, small_parts, cells_that_fit
):
    cells_that_fit(1)
    # Two devices with two cells each become two with one, as in the run that is compared with.
    plan = dataclasses.replace(default_execution(4), cells_per_device=2, step_bytes=2**30)
    found = characterised(CELLS, features, small_parts, execution=plan)
    for name in BY_NAME:
        assert_same_bits(found[name], whole[0][name])


def test_a_cell_that_never_fits_is_an_error(features, small_parts, cells_that_fit):
    cells_that_fit(0)
    plan = dataclasses.replace(default_execution(4), cells_per_device=2, step_bytes=2**30)
    with pytest.raises(UserError, match="1 cells are too many; give smaller batches"):
        characterised(CELLS, features, small_parts, execution=plan)


def test_examples_may_be_none(features, small_parts):
    cell = CELLS[0]
    found = characterised([cell], features, small_parts, examples=())[cell.name]
    assert found.examples["residual"].shape == (0, 32, 32, 3)


def test_progress_adds_up_to_the_cells(whole, features, small_parts):
    assert sum(whole[2]) == pytest.approx(len(CELLS))
    shares = []
    characterised([BY_NAME["m04_d003_r00"]], features, small_parts, progress=shares.append)
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("name", ["m04_d003_r00", "m04_d012_r01"])
def test_the_linear_attack_is_that_of_the_cells_own_channels(whole, features, small_parts, name):
    cell = BY_NAME[name]
    layer = features[cell.topology.num_layers]
    positions = [layer.channels.index(channel) for channel in cell.topology.channels]

    def released(part):
        return np.float32(layer.parts[part])[..., positions]

    def pixels(part):
        return as_float(getattr(small_parts, part).images)

    # Fitted to these channels alone, in one batch, neither padded nor grouped.
    pairs = released("auxiliary"), pixels("auxiliary")
    # Of the attacker's 96 images, a fifth (19) is held out to choose the ridge.
    sums = [
        linear_attack.gather_statistics([tuple(array[rows] for array in pairs)])
        for rows in (slice(77), slice(77, None))
    ]
    attack = linear_attack.fit(*sums, range(len(positions)))
    for part in ("validation", "test"):
        estimates = np.clip(linear_attack.reconstruct(attack, released(part)), 0, 1)
        found = whole[0][name].attacks["linear"][part]
        # Gram matrices of float32 products differ by 1e-6; ridges keep that from being magnified
        # much: a thousandth of a dB. Another channel changes whole dB.
        expected = metrics.psnr_db(estimates, pixels(part))
        np.testing.assert_allclose(found["psnr_db"], expected, atol=1e-3)
        np.testing.assert_allclose(found["ssim"], metrics.ssim(estimates, pixels(part)), atol=1e-4)
    grey_levels = np.round(255 * estimates[list(EXAMPLES)])
    # A value half way between two grey levels may fall either way.
    assert np.abs(whole[0][name].examples["linear"] - grey_levels).max() <= 1


def test_examples_are_what_was_measured(whole, small_parts):
    images = as_float(small_parts.test.images[list(EXAMPLES)])
    for measurement in whole[0].values():
        for name, estimates in measurement.examples.items():
            found = metrics.psnr_db(as_float(estimates), images)
            expected = measurement.attacks[name]["test"]["psnr_db"][list(EXAMPLES)]
            # Rounding to 255 grey levels adds an error of 59 dB to those of 10 to 30 dB.
            np.testing.assert_allclose(found, expected, atol=0.02)


def folded_features(parts, change=lambda x: x):
    """A layer of stride 2 that releases the images' pixels themselves."""
    stored = {
        name: np.float16(change(np.asarray(space_to_depth(as_float(part.images), 2))))
        for name, part in parts.items()
    }
    return {4: handmade_features(4, range(12), stored)}


ALL_TWELVE = Cell(Topology(4, tuple(range(12))), 0)


def test_a_constant_representation_gives_no_more_than_the_mean_image(small_parts):
    constant = folded_features(small_parts, change=np.zeros_like)
    found = characterised([ALL_TWELVE], constant, small_parts, cells=[ALL_TWELVE])[ALL_TWELVE.name]
    auxiliary = np.float64(small_parts.auxiliary.images) / 255
    test = np.float64(small_parts.test.images) / 255

    def psnr(estimate):
        return -10 * np.log10(np.square(test - estimate).mean(axis=(1, 2, 3)))

    # All blocks of 2 x 2 pixels look the same, so the best guess is their mean.
    block = auxiliary.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(0, 1, 3))
    exact = psnr(np.tile(block, (16, 16, 1)))
    np.testing.assert_allclose(found.attacks["linear"]["test"]["psnr_db"], exact, atol=1e-3)
    mean_image = psnr(auxiliary.mean(axis=0)).mean()
    assert mean_psnr(found, "linear") == pytest.approx(mean_image, abs=0.5)
    # Three steps cannot find more in nothing.
    assert mean_psnr(found, "residual") == pytest.approx(mean_image, abs=1)


def test_released_pixels_are_rebuilt(small_parts):
    pixels = folded_features(small_parts)
    found = characterised([ALL_TWELVE], pixels, small_parts, cells=[ALL_TWELVE])[ALL_TWELVE.name]
    # float16 alone costs some 75 dB, and the least ridge little more.
    assert mean_psnr(found, "linear") > 50
    assert found.attacks["linear"]["test"]["ssim"].min() > 0.99


def test_an_attack_that_is_not_finite_is_an_error_that_names_the_cell(small_parts):
    pixels = folded_features(small_parts)
    pixels[4].parts["auxiliary"][:] = np.nan
    with pytest.raises(UserError, match="of cell m04_d012_r00 diverged"):
        characterised([ALL_TWELVE], pixels, small_parts, cells=[ALL_TWELVE])


def test_without_a_split_the_images_themselves_are_classified(small_parts):
    rng = np.random.default_rng(0)
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])

    def coloured(count):
        labels = rng.integers(0, 3, count).astype(np.int32)
        noise = rng.integers(-50, 51, (count, 16, 16, 3))
        return Part(np.uint8(colours[labels][:, None, None] + noise), labels)

    parts = Parts(*(coloured(count) for count in (60, 20, 18, 35)), ("r", "g", "b"), "toy", "")
    settings = dataclasses.replace(
        SETTINGS,
        cloud=cloud_nn(3, 16, width=8),
        cloud_schedule=Schedule(steps=40, batch_size=16, learning_rate=1e-2),
    )
    shares = []
    arguments = (parts, settings, default_execution(4), jax.random.key(0))
    found = dedicated.accuracy_without_split(*arguments, shares.append)
    assert {part: values.shape for part, values in found.items()} == {
        "validation": (18,),
        "test": (35,),
    }
    assert found["test"].mean() == found["validation"].mean() == 1
    assert sum(shares) == pytest.approx(1)
