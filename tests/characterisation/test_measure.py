"""Whole measurements: known answers come out, and what diverged is refused by name."""

import contextlib
import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest
from support.handmade_layers import handmade_features

from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.scenario import Scenario
from privynet_jax.attacks.tuning import Budget
from privynet_jax.backbone.topology import Topology
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import cloud_of, protocol_of
from privynet_jax.characterisation.measure import Protocol, cloud_accuracies, measure, outcomes
from privynet_jax.characterisation.references import reference_rows
from privynet_jax.errors import UserError
from privynet_jax.images import metrics
from privynet_jax.images.depth_and_space import space_to_depth
from privynet_jax.images.parts import Part, Parts, as_float
from privynet_jax.platform import signals
from privynet_jax.results.cells import Cell
from privynet_jax.training.checkpoints import Checkpoint
from privynet_jax.training.models import linear_attack
from privynet_jax.training.models.attackers import capacities_of_size
from privynet_jax.training.models.networks import cloud_nn
from privynet_jax.training.session import session
from privynet_jax.training.tasks import Schedule

EXAMPLES = np.array([7, 0, 31])
TRAINING = Training(Budget(4, batch_size=8), capacities=capacities_of_size(8, 0))
PROTOCOL = Protocol(
    cloud_nn(30, 32, width=8),
    Schedule(steps=4, batch_size=8),
    named_attacks(("linear", "residual"), TRAINING),
    EXAMPLES,
)
# Two topologies of one layer and width; the first releases three of the pixels' twelve values.
CELLS = [Cell(Topology(4, channels), 0) for channels in ((1, 5, 10), tuple(range(12)))]


def folded_features(parts, change=lambda x: x):
    """A layer of stride 2 that releases the images' pixels themselves."""
    stored = {
        name: np.float16(change(np.asarray(space_to_depth(as_float(part.images), 2))))
        for name, part in parts.items()
    }
    return handmade_features(4, range(12), stored)


def measured(features, parts, cells=CELLS, protocol=PROTOCOL):
    scenes = [Scenario(cell.topology, parts, features, width=12) for cell in cells]
    return measure(cells, scenes, protocol, seed=5)


@pytest.fixture(scope="module")
def pixels(small_parts):
    """Both cells at once, and what was told of the progress."""
    shares = []
    with session(progress=shares.append):
        return measured(folded_features(small_parts), small_parts), shares


def mean_psnr(measurement, attack):
    return measurement.attacks[attack]["test"]["psnr_db"].mean()


def test_there_is_a_number_per_image_and_attacker(pixels, small_parts):
    measurements, shares = pixels
    assert sum(shares) == pytest.approx(len(CELLS))
    # Two trainings, the linear attack, and the scoring of two attackers: 10, 1, 10 and 2 in all.
    assert shares[-2:] == pytest.approx([2 / 23] * 2)
    assert sum(shares[:-2]) == pytest.approx(2 * 21 / 23)
    for cell, one in zip(CELLS, measurements, strict=True):
        assert one.cell == cell
        assert one.seconds > 0
        assert set(one.attacks) == set(one.examples) == set(one.reports) == {"linear", "residual"}
        for part in ("validation", "test"):
            count = len(getattr(small_parts, part))
            assert one.accuracy[part].shape == (count,)
            assert set(np.unique(one.accuracy[part])) <= {0, 1}
            assert one.attacks["residual"][part]["ssim"].shape == (count,)
        # Four steps of eight pairs each have not seen all 86 of them.
        assert [one.reports[name]["converged"] for name in ("linear", "residual")] == [True, False]
        assert one.reports["residual"]["knowledge"] == "pairs"


def test_two_attackers_of_one_name_are_refused():
    with pytest.raises(ValueError, match="different names"):
        Protocol(attacks=named_attacks(("linear",), TRAINING) * 2)


def test_examples_are_what_was_measured(pixels, small_parts):
    images = as_float(small_parts.test.images[EXAMPLES])
    for one in pixels[0]:
        for name, estimates in one.examples.items():
            expected = one.attacks[name]["test"]["psnr_db"][EXAMPLES]
            shown = expected < 40
            # Rounding to 255 grey levels adds an error of 59 dB.
            found = np.asarray(metrics.psnr_db(as_float(estimates), images))
            np.testing.assert_allclose(found[shown], expected[shown], atol=0.1)


def test_released_pixels_are_rebuilt(pixels):
    three, everything = pixels[0]
    # float16 alone costs some 75 dB, and the least ridge little more.
    assert mean_psnr(everything, "linear") > 50
    assert everything.attacks["linear"]["test"]["ssim"].min() > 0.99
    assert mean_psnr(three, "linear") < 30


def test_the_linear_attack_is_that_of_the_cells_own_channels(pixels, small_parts):
    cell, one = CELLS[0], pixels[0][0]
    positions, layer = list(cell.topology.channels), folded_features(small_parts)

    def released(part):
        return np.float32(layer.parts[part])[..., positions]

    pairs = released("auxiliary"), as_float(small_parts.auxiliary.images)
    # A tenth of the attacker's 96 images, evenly spaced, is held out to choose the ridge.
    held = (np.arange(10) * 96 + 48) // 10
    sums = [
        linear_attack.gather_statistics([tuple(array[rows] for array in pairs)])
        for rows in (np.setdiff1d(np.arange(96), held), held)
    ]
    attack = linear_attack.fit(*sums, range(3))
    estimates = np.clip(linear_attack.reconstruct(attack, released("test")), 0, 1)
    expected = metrics.psnr_db(estimates, as_float(small_parts.test.images))
    # Sums of 22,000 float32 products differ by up to 1e-5 of themselves in another order: an error
    # at -20 dB moves by thousandths of a dB. Another channel changes whole dB.
    np.testing.assert_allclose(one.attacks["linear"]["test"]["psnr_db"], expected, atol=5e-3)


def test_what_was_evaluated_before_a_stop_is_not_evaluated_again(small_parts, pixels, tmp_path):
    features = folded_features(small_parts)

    def questions_of(folder, stop_at=math.inf):
        """How often a run asks whether to stop, and what it measures unless it is to."""
        asked, found = itertools.count(), None
        with (
            contextlib.suppress(signals.Terminated),
            session(
                checkpoint=Checkpoint(folder, 1e9), stop_requested=lambda: next(asked) >= stop_at
            ),
        ):
            found = measured(features, small_parts)
        return next(asked), found

    whole, _ = questions_of(tmp_path / "whole")
    # Accuracies of two cells, and two attackers of each, on two parts of one batch each.
    for left in (1, 7):
        before, nothing = questions_of(tmp_path / str(left), whole - left)
        assert nothing is None
        again, found = questions_of(tmp_path / str(left))
        # What was cut short asks again, and a training that had ended is judged again.
        assert before + again <= whole + 5
        for one, other in zip(found, pixels[0], strict=True):
            jax.tree.map(np.testing.assert_array_equal, one.attacks, other.attacks)
            jax.tree.map(np.testing.assert_array_equal, one.accuracy, other.accuracy)
            jax.tree.map(np.testing.assert_array_equal, one.examples, other.examples)


def test_nothing_is_found_in_a_constant_representation(small_parts):
    constant = folded_features(small_parts, change=np.zeros_like)
    [found] = measured(constant, small_parts, CELLS[1:])
    auxiliary = np.float64(small_parts.auxiliary.images) / 255
    test = np.float64(small_parts.test.images) / 255
    errors = np.square(test - auxiliary.mean(axis=0)).mean(axis=(1, 2, 3))
    mean_image = (-10 * np.log10(errors)).mean()
    # All blocks of 2 x 2 pixels look the same, so the best guess is their mean, which is a little
    # worse than the mean image; four steps cannot find more in nothing.
    assert mean_psnr(found, "linear") == pytest.approx(mean_image, abs=0.5)
    assert mean_psnr(found, "residual") == pytest.approx(mean_image, abs=1)


def test_what_diverged_is_refused_by_the_name_of_the_cell(small_parts):
    broken = folded_features(small_parts)
    broken.parts["auxiliary"][:] = np.nan
    attacks_alone = dataclasses.replace(PROTOCOL, attacks=PROTOCOL.attacks[:1])
    with pytest.raises(UserError, match="linear of cell m04_d003_r00 diverged"):
        measured(broken, small_parts, CELLS[:1], attacks_alone)
    broken = folded_features(small_parts)
    broken.parts["target"][:] = np.nan
    with pytest.raises(UserError, match="cloud of cell m04_d003_r00 diverged"):
        measured(broken, small_parts, CELLS[:1], attacks_alone)


def test_what_diverges_on_one_cell_leaves_the_others_theirs(pixels, small_parts):
    broken = folded_features(small_parts)
    broken.parts["auxiliary"][..., 0] = np.nan  # the second one releases it
    attacks_alone = dataclasses.replace(PROTOCOL, attacks=PROTOCOL.attacks[:1])
    scenes = [Scenario(cell.topology, small_parts, broken, width=12) for cell in CELLS]
    left, lost = outcomes(CELLS, scenes, attacks_alone, seed=5)
    assert str(lost).startswith("the network linear of cell m04_d012_r00 diverged")
    assert left.cell == CELLS[0]
    assert mean_psnr(left, "linear") == pytest.approx(mean_psnr(pixels[0][0], "linear"), abs=0.01)


def test_without_a_split_the_images_themselves_are_classified(tmp_path):
    rng = np.random.default_rng(0)
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])

    def coloured(count):
        labels = rng.integers(0, 3, count).astype(np.int32)
        noise = rng.integers(-50, 51, (count, 16, 16, 3))
        return Part(np.uint8(colours[labels][:, None, None] + noise), labels)

    parts = Parts(*(coloured(count) for count in (60, 20, 18, 35)), ("r", "g", "b"), "toy", "")
    schedule = Schedule(steps=40, batch_size=16, learning_rate=1e-2)
    config = Config(workdir=tmp_path, cloud=schedule, cloud_width=8)
    [found, _] = reference_rows(config, parts)
    assert found["accuracy"] == found["validation_accuracy"] == 1


def test_attackers_that_optimise_images_may_be_scored_on_fewer(small_parts, tmp_path):
    linear, white_box = named_attacks(("linear", "white box from linear"), TRAINING)
    few, fewer = np.arange(9), np.arange(3)
    protocol = Protocol(attacks=(linear, white_box), attacked=few)
    assert protocol.rows(linear) == protocol.rows(white_box) == {"test": few}
    protocol = dataclasses.replace(protocol, attacked=None, optimised={"test": fewer})
    assert protocol.rows(linear) == {"validation": None, "test": None}
    assert protocol.rows(white_box) == {"test": fewer}
    # In a grid they always are, because the images would take minutes per cell.
    usual = protocol_of(Config(tmp_path, attackers=(white_box.name,)), small_parts)
    # Of so few images all, in their own order, as the tables of risk take them to be.
    found = usual.rows(usual.attacks[-1])
    assert {part: rows.tolist() for part, rows in found.items()} == {
        "validation": list(range(40)),
        "test": list(range(50)),
    }


def test_several_labels_are_told_one_by_one(tmp_path):
    """Pictures that are bright, or red, or both, or none: each label is answered for itself."""

    def part(seed, count=60):
        rng = np.random.default_rng(seed)
        several = rng.integers(0, 2, (count, 2)).astype(np.int32)
        colours = 40 + several[:, :1] * 120 + several[:, 1:] * np.array([80, 0, 0])
        noise = rng.integers(0, 10, (count, 32, 32, 3))
        images = np.uint8(colours[:, None, None] + noise)
        return Part(images, np.zeros(count, np.int32), several=several)

    parts = Parts(*map(part, range(4)), ("any",), "lights", "0" * 64, ("bright", "red"))
    schedule = Schedule(steps=150, batch_size=32, learning_rate=3e-3)
    config = Config(workdir=tmp_path, cloud=schedule, cloud_width=8)
    cloud, keys = cloud_of(config, parts), [jax.random.key(0)]
    assert cloud.num_classes == 2
    [one] = cloud_accuracies(cloud, schedule, keys, [folded_features(parts).parts], [parts])
    assert one["test"].shape == (60, 2)
    assert one["test"].mean(axis=0) == pytest.approx([1, 1], abs=0.1)
    [no_split, _] = reference_rows(config, parts)
    assert no_split["balanced_accuracy"] > 0.8
    assert no_split["accuracy_low"] <= no_split["accuracy"] <= no_split["accuracy_high"] <= 1
