"""Networks for any subset: their closed-form inputs, their training, and what a key decides."""

import jax
import numpy as np
import pytest
from jax import export
from support.handmade_layers import handmade_features

from privynet_jax.estimates import amortised, subsets
from privynet_jax.images.parts import Part, Parts
from privynet_jax.training import steps
from privynet_jax.training.models import linear_attack
from privynet_jax.training.models.networks import cloud_nn
from privynet_jax.training.prediction import measured
from privynet_jax.training.tasks import Schedule

CHANNELS, CLASSES, SIZE = 6, 3, 16
TASKS = amortised.layer_tasks(cloud_nn(CLASSES, SIZE, width=8))
SCHEDULE = Schedule(steps=5, batch_size=8)


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


def learnt_from(task, parts):
    """Name of a part, and what is to be said of its images."""
    if task is TASKS[0]:
        return "target", parts.target.labels
    return "auxiliary", parts.auxiliary.images


def trained(task, pool, layer, parts, *, seed=0, schedule=SCHEDULE):
    part, answers = learnt_from(task, parts)
    key = jax.random.key(seed)
    return amortised.train_on_pool(task, key, pool, layer.parts[part], answers, schedule).params


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
    params = task.init(jax.random.key(0), example)
    # Weights that start at zero would hide what follows them.
    noise = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda p: p + 0.02 * noise(p.shape, np.float32), params)
    x = np.float32(layer.parts["test"][:5])
    others = [c for c in range(CHANNELS) if c not in positions]
    changed = x.copy()
    changed[..., others] = 9
    expected = steps.outputs_of(task, params, narrow, x)
    assert np.ptp(expected) > 0
    for subset, given in [(wide, x), (narrow, changed), (wide, changed)]:
        found = steps.outputs_of(task, params, subset, given)
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


@pytest.mark.slow
@pytest.mark.parametrize(("task", "measure", "gain"), [(0, "loss", -0.01), (1, "psnr_db", 0.5)])
def test_training_improves_on_the_closed_forms_it_begins_with(
    task, measure, gain, pool, sums, layer, parts
):
    # On the images it learns from: noise has nothing in common with other noise.
    part, answers = learnt_from(TASKS[task], parts)
    subset = subsets.prepare(sums, (0, 2, 5), width=5)
    before, after = (
        measured(TASKS[task], params, subset, layer.parts[part], answers)[measure].mean()
        for params in (
            trained(TASKS[task], pool, layer, parts, schedule=Schedule(1, 16, 1e-9)),
            trained(TASKS[task], pool, layer, parts, schedule=Schedule(20, 16, 3e-3)),
        )
    )
    assert (after - before) / gain > 1


def test_layers_have_keys_of_their_own():
    keys = [amortised.layer_key(num_layers, seed) for num_layers in (2, 4) for seed in (0, 1)]
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == 4


def test_a_pool_of_large_subsets_is_smaller(sums, monkeypatch):
    monkeypatch.setattr(amortised, "_LEAST_POOL", 3)
    monkeypatch.setattr(amortised, "_POOL_BYTES", 4 * 5 * 9 * sums.fitted_on.cross.shape[1] * 7)
    assert len(amortised.draw_pool(jax.random.key(3), sums, 1, 5, CHANNELS).bias) == 7


@pytest.mark.parametrize("task", TASKS, ids=["cloud", "attacker"])
def test_steps_lower_for_every_backend(task, pool, layer, parts):
    platforms, count = ("cpu", "cuda", "tpu"), 4
    on_pool, part = amortised._on_pool(task), parts.auxiliary
    x = layer.parts["auxiliary"][:count]
    targets = (part.labels if task is TASKS[0] else part.images)[:count]
    key = jax.random.key(0)

    def step(key_data, pool, x, targets):
        key = jax.random.wrap_key_data(key_data)
        inputs, answers = on_pool.draw(key, pool, np.float32(0) + x, targets)
        state = steps.init_state(on_pool, key, inputs)
        return steps.step(on_pool, state, pool, inputs, answers, np.float32(1e-3))[1]

    lowered = export.export(jax.jit(step), platforms=platforms)
    data = np.asarray(jax.random.key_data(key))
    assert lowered(data, pool, x, targets).platforms == platforms
