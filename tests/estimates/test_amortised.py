"""Networks for any subset: their closed-form inputs, their training, and what a key decides."""

import dataclasses

import jax
import numpy as np
import pytest
from jax import export
from support.handmade_layers import handmade_features

from privynet_jax.estimates import amortised, subsets
from privynet_jax.images.parts import Part, Parts
from privynet_jax.platform.devices import data_parallel
from privynet_jax.training import linear_attack, tasks
from privynet_jax.training.networks import attacker, cloud_nn
from privynet_jax.training.tasks import Schedule

CHANNELS, CLASSES, SIZE = 6, 3, 16
TASKS = amortised.layer_tasks(
    cloud_nn(CLASSES, SIZE, width=8),
    attacker(SIZE, width=8, num_blocks=1),
    Schedule(steps=6, batch_size=8),
    Schedule(steps=5, batch_size=4),
)


@pytest.fixture(scope="module")
def parts():
    """Random images whose class is their brightness."""
    rng = np.random.default_rng(0)

    def part(count):
        labels = np.int32(np.arange(count) % CLASSES)
        images = rng.integers(0, 80, (count, SIZE, SIZE, 3)) + 60 * labels[:, None, None, None]
        return Part(np.uint8(images), labels)

    return Parts(part(40), part(36), part(20), part(24), ("a", "b", "c"), "made up", "0" * 64)


@pytest.fixture(scope="module")
def layer(parts):
    """Features of a local NN that averages 2 x 2 pixels and mixes colours."""
    mix = np.random.default_rng(1).random((3, CHANNELS), np.float32)

    def represent(images):
        blocks = np.float32(images).reshape(len(images), SIZE // 2, 2, SIZE // 2, 2, 3)
        return np.float16(blocks.mean(axis=(2, 4)) / 128 @ mix)

    stored = {name: represent(part.images) for name, part in parts.items()}
    return handmade_features(4, range(CHANNELS), stored)


@pytest.fixture(scope="module")
def sums(layer, parts):
    return subsets.layer_sums(layer, parts, most_channels=4)


@pytest.fixture(scope="module")
def pool(sums):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amortised, "POOL", 64)
        return amortised.draw_pool(jax.random.key(3), sums, 1, 5, CHANNELS)


def trained(task, pool, layer, parts, *, devices=2, seed=0):
    shardings = data_parallel(devices)
    return amortised.train(task, jax.random.key(seed), pool, layer, parts, shardings)


@pytest.mark.parametrize("positions", [(1,), (4, 0, 5)])
def test_linear_estimates_are_the_linear_attacks(sums, layer, positions):
    subset = subsets.prepare(sums, positions, width=5)
    x = np.float32(layer.parts["test"][:7])
    attack = linear_attack.fit(sums.fitted_on, sums.chosen_on, positions)
    expected = linear_attack.reconstruct(attack, x[..., list(positions)])
    # The same products in another order; estimates lie in about [0, 1].
    np.testing.assert_allclose(subsets.linear_estimates(subset, x), expected, atol=1e-4)


def test_subsets_reach_from_least_to_most():
    rng = np.random.default_rng(0)
    drawn = subsets.draw_subsets(rng, 600, 2, 16, 20)
    depths = np.array([len(subset) for subset in drawn])
    assert (depths.min(), depths.max()) == (2, 16)
    # Log-uniform: as many in one octave as in another, up to chance.
    counts = np.histogram(np.log2(depths), [1, 2, 3, 4.01])[0]
    assert counts.min() > 130
    for subset in drawn:
        assert len(set(subset)) == len(subset)
        assert 0 <= subset.min() <= subset.max() < 20
    assert len({tuple(subset) for subset in drawn}) > 500


@pytest.mark.parametrize("task", TASKS, ids=["cloud", "attacker"])
def test_outputs_depend_on_nothing_but_the_subset(task, sums, layer):
    positions = (4, 1)
    narrow, wide = (subsets.prepare(sums, positions, width) for width in (2, 5))
    components = narrow.imputation.kernel.shape[-1]
    example = np.zeros((1, *layer.parts["test"].shape[1:3], components), np.float32)
    params = tasks.init_state(task, jax.random.key(0), example).params
    # Weights that start at zero would hide what follows them.
    params = jax.tree.map(lambda p: p + 0.05, params)
    x = np.float32(layer.parts["test"][:5])
    others = [c for c in range(CHANNELS) if c not in positions]
    changed = x.copy()
    changed[..., others] = 9
    expected = tasks.predict(task, params, narrow, x)
    assert np.ptp(expected) > 0
    for subset, given in [(wide, x), (narrow, changed), (wide, changed)]:
        found = tasks.predict(task, params, subset, given)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", TASKS, ids=["cloud", "attacker"])
def test_a_key_decides_everything(task, pool, layer, parts):
    first, again, other = (trained(task, pool, layer, parts, seed=seed) for seed in (0, 0, 1))
    for one, same, different in zip(*map(jax.tree.leaves, (first, again, other)), strict=True):
        np.testing.assert_array_equal(one, same)
        assert one.shape == different.shape
    assert any(
        np.abs(a - b).max() > 1e-3
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("task", TASKS, ids=["cloud", "attacker"])
def test_devices_share_the_work_and_change_nothing(task, pool, layer, parts):
    alone, together = (trained(task, pool, layer, parts, devices=count) for count in (1, 2))
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        # Sums over the batch in another order, amplified by Adam's first steps.
        np.testing.assert_allclose(one, other, atol=2e-3)


@pytest.mark.slow
def test_training_learns(pool, sums, layer, parts):
    subset = subsets.prepare(sums, (0, 2, 5), width=5)
    x = layer.parts["test"]
    longer = [dataclasses.replace(t, schedule=Schedule(120, 16, 3e-3)) for t in TASKS]
    cloud = trained(longer[0], pool, layer, parts)
    right = tasks.evaluate(longer[0], cloud, subset, x, parts.test.labels)["accuracy"]
    assert right.mean() > 0.6  # a third by chance
    start = trained(
        dataclasses.replace(TASKS[1], schedule=Schedule(1, 16, 1e-9)), pool, layer, parts
    )
    end = trained(longer[1], pool, layer, parts)
    # On the images it learns from: noise has nothing in common with other noise.
    x, images = layer.parts["auxiliary"], parts.auxiliary.images
    before, after = (
        tasks.evaluate(TASKS[1], params, subset, x, images)["psnr_db"].mean()
        for params in (start, end)
    )
    assert after > before + 0.05


def test_layers_have_keys_of_their_own():
    keys = [amortised.layer_key(num_layers, seed) for num_layers in (2, 4) for seed in (0, 1)]
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == 4


def test_a_batch_that_devices_cannot_share_out_takes_fewer_of_them(pool, layer, parts):
    odd = dataclasses.replace(TASKS[0], schedule=Schedule(steps=2, batch_size=3))
    shardings = data_parallel(dividing=odd.schedule.batch_size)
    assert len(shardings[0].device_set) == 1
    amortised.train(odd, jax.random.key(0), pool, layer, parts, shardings)
    assert len(data_parallel(dividing=4)[0].device_set) == 2


def test_a_pool_of_large_subsets_is_smaller(sums, monkeypatch):
    monkeypatch.setattr(amortised, "_LEAST_POOL", 3)
    monkeypatch.setattr(amortised, "_POOL_BYTES", 4 * 5 * 9 * sums.fitted_on.cross.shape[1] * 7)
    assert len(amortised.draw_pool(jax.random.key(3), sums, 1, 5, CHANNELS).bias) == 7


@pytest.mark.parametrize("task", TASKS, ids=["cloud", "attacker"])
def test_steps_lower_for_every_backend(task, pool, layer, parts):
    platforms, count = ("cpu", "cuda", "tpu"), 4
    x = np.zeros((count, *layer.parts[task.part].shape[1:]), np.float16)
    targets = getattr(getattr(parts, task.part), task.targets)[:count]
    components = pool.imputation.kernel.shape[-1]
    z = np.zeros((1, *x.shape[1:3], components), np.float32)
    state = jax.eval_shape(lambda: tasks.init_state(task, jax.random.key(0), z))
    chosen = np.zeros(count, np.int32)
    step = export.export(amortised._step_on_pool(task), platforms=platforms)
    assert step(state, pool, chosen, x, targets).platforms == platforms
