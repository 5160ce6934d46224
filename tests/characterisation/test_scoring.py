"""Scored cells: their company does not matter, known answers come out, networks are kept."""

import dataclasses

import jax
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.characterisation import fine_tuning, scoring
from privynet_jax.errors import UserError
from privynet_jax.estimates import amortised, subsets
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import as_float
from privynet_jax.platform.devices import data_parallel, default_execution
from privynet_jax.results.cells import grid_cells
from privynet_jax.training import linear_attack
from privynet_jax.training import tasks as training
from privynet_jax.training.networks import attacker, cloud_nn
from privynet_jax.training.tasks import Schedule

SEED, LAYER = 5, 4
CELLS = grid_cells((LAYER,), depths=(3, 12), draws=3, seed=SEED)
TASKS = amortised.layer_tasks(
    cloud_nn(30, 32, width=8),
    attacker(32, width=8, num_blocks=0),
    Schedule(steps=4, batch_size=8),
    Schedule(steps=3, batch_size=8),
)
TARGETS = np.tile(np.float32([9, -9]), (4, 1))
HOW = scoring.Scoring(data_parallel(), at_once=4, images=40, examples=3)


@pytest.fixture(scope="module", autouse=True)
def small_pool():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amortised, "POOL", 24)
        yield


@pytest.fixture(scope="module")
def features(vgg_weights, small_parts, tmp_path_factory):
    union = {LAYER: tuple(range(128))}
    return load_features(vgg_weights, small_parts, union, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "networks"


def amortised_by_name(missing, features, parts, folder, how=HOW):
    found = scoring.amortised_measurements(
        CELLS, missing, features, parts, TASKS, how, folder, seed=SEED
    )
    return {measurement.cell.name: measurement for measurement in found}


@pytest.fixture(scope="module")
def whole(features, small_parts, folder):
    return amortised_by_name(CELLS, features, small_parts, folder)


@pytest.fixture(scope="module")
def by_linear(features, small_parts):
    found = scoring.linear_measurements(CELLS, CELLS, features, small_parts, HOW)
    return {measurement.cell.name: measurement for measurement in found}


def test_measurements_have_one_number_per_sampled_image(whole, by_linear, small_parts):
    assert list(whole) == list(by_linear) == [cell.name for cell in CELLS]
    for measurements, attackers, counts in [
        (whole, {"linear", "amortised"}, (40, 40)),
        (by_linear, {"linear"}, (len(small_parts.validation), len(small_parts.test))),
    ]:
        for cell, measurement in zip(CELLS, measurements.values(), strict=True):
            assert measurement.cell == cell
            assert set(measurement.attacks) == set(measurement.examples) == attackers
            for part, count in zip(("validation", "test"), counts, strict=True):
                assert measurement.accuracy[part].shape == (count,)
                assert set(np.unique(measurement.accuracy[part])) <= {0, 1}
                for by_part in measurement.attacks.values():
                    assert by_part[part]["psnr_db"].shape == by_part[part]["ssim"].shape == (20,)
            for rebuilt in measurement.examples.values():
                assert rebuilt.shape == (3, 32, 32, 3)
                assert rebuilt.dtype == np.uint8


def test_the_linear_attack_is_the_one_of_the_subset(whole, by_linear, features, small_parts):
    cell, layer = CELLS[1], features[LAYER]
    sums = subsets.layer_sums(layer, small_parts, 12)
    attack = linear_attack.fit(sums.fitted_on, sums.chosen_on, cell.topology.channels)
    rows = spread_over_classes(small_parts.test.labels, 20)
    x = np.float32(layer.parts["test"][rows][..., list(cell.topology.channels)])
    rebuilt = np.clip(linear_attack.reconstruct(attack, x), 0, 1)
    truth = as_float(small_parts.test.images[rows])
    expected = [
        peak_signal_noise_ratio(image, estimate, data_range=1.0)
        for image, estimate in zip(truth, rebuilt, strict=True)
    ]
    for measurements in (whole, by_linear):
        found = measurements[cell.name]
        np.testing.assert_allclose(found.attacks["linear"]["test"]["psnr_db"], expected, atol=1e-3)
        difference = np.abs(found.examples["linear"] / 255 - rebuilt[:3])
        assert difference.max() < 0.5 / 255 + 1e-4


def test_a_cells_numbers_do_not_depend_on_its_company(whole, features, small_parts, folder):
    chosen = [CELLS[4], CELLS[1]]
    apart = amortised_by_name(
        chosen, features, small_parts, folder, dataclasses.replace(HOW, at_once=2)
    )
    for cell in chosen:
        one, other = whole[cell.name], apart[cell.name]
        for a, b in zip(
            jax.tree.leaves((one.accuracy, one.attacks)),
            jax.tree.leaves((other.accuracy, other.attacks)),
            strict=True,
        ):
            # Other shapes may be summed up in another order.
            np.testing.assert_allclose(a, b, atol=1e-3)


def test_stored_networks_are_used_and_not_trained_again(
    whole, features, small_parts, folder, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("it was trained already")

    monkeypatch.setattr(amortised, "train", refuse)
    again = amortised_by_name(CELLS[:1], features, small_parts, folder)
    name = CELLS[0].name
    for part in ("validation", "test"):
        found, expected = (m[name].attacks["amortised"][part]["psnr_db"] for m in (again, whole))
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_networks_that_diverge_are_refused_and_not_kept(features, small_parts, tmp_path):
    tasks = tuple(dataclasses.replace(t, schedule=Schedule(4, 8, 1e30)) for t in TASKS)
    found = scoring.amortised_measurements(
        CELLS, CELLS, features, small_parts, tasks, HOW, tmp_path / "networks", seed=SEED
    )
    with pytest.raises(UserError, match=r"network of layer 4 diverged; .* lower learning rate"):
        next(found)
    assert not (tmp_path / "networks").exists()


@pytest.mark.slow
def test_fine_tuning_starts_at_the_layers_networks(whole, features, small_parts, folder):
    # One step too small to change anything.
    tasks = tuple(dataclasses.replace(t, schedule=Schedule(1, 8, 1e-12)) for t in TASKS)
    [found] = fine_tuning.fine_tuned_measurements(
        CELLS,
        CELLS[3:4],
        features,
        small_parts,
        tasks,
        HOW,
        folder,
        1,
        default_execution(1),
        seed=SEED,
    )
    expected = whole[found.cell.name]
    assert found.cell == CELLS[3]
    assert set(found.attacks) == {"linear", "fine-tuned"}
    for part in ("validation", "test"):
        right = expected.accuracy[part]
        # Rounding may turn a close call.
        assert np.mean(found.accuracy[part] == right) > 0.95
        for name, scored in [("linear", "linear"), ("fine-tuned", "amortised")]:
            # Fine-tuned cells are attacked on all of the sample, the others on its first half.
            values = found.attacks[name][part]["psnr_db"]
            assert values.shape == (40,)
            np.testing.assert_allclose(
                values[:20], expected.attacks[scored][part]["psnr_db"], atol=1e-2
            )


def test_continued_training_adds_to_the_start():
    start = {"scale": np.full(2, 3.0, np.float32)}
    line = dataclasses.replace(
        TASKS[0],
        predict=lambda params, _, x: x * params["scale"],
        loss=lambda outputs, targets: ((outputs - targets) ** 2).mean(),
    )
    task = fine_tuning.continued(line, start, 200)
    state = training.init_state(task, jax.random.key(0), np.zeros(1))
    np.testing.assert_array_equal(task.predict(state.params, None, np.ones((1, 2))), [[3, 3]])
    step = jax.jit(lambda state: training.train_step(task, state, None, np.ones((4, 2)), TARGETS))
    for _ in range(200):
        state, _ = step(state)
    # Adam moves by about the learning rate per step, 0.3 * 2e-3 at its peak, half on average.
    np.testing.assert_allclose(state.params["scale"], [0.06, -0.06], atol=0.02)


def test_continued_weights_decay_towards_the_start():
    start = {"kernel": np.full((2, 2), 3.0, np.float32)}
    constant = dataclasses.replace(
        TASKS[0], predict=lambda params, _, x: x, loss=lambda outputs, targets: outputs.sum()
    )
    task = fine_tuning.continued(constant, start, 50)
    state = training.init_state(task, jax.random.key(0), np.zeros(1))
    assert task.schedule.steps == 50
    for _ in range(3):
        state, _ = training.train_step(task, state, None, np.ones((1, 1)), np.zeros(1))
    # Nothing pulls anywhere, so the difference to the start stays zero.
    np.testing.assert_array_equal(state.params["kernel"], 0)
