"""Scored cells: their company does not matter, known answers come out, networks are kept."""

import contextlib
import dataclasses
import math

import jax
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.characterisation import scoring
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import GridRun
from privynet_jax.errors import DivergedError
from privynet_jax.estimates import amortised, subsets
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.images.parts import as_float
from privynet_jax.platform import signals
from privynet_jax.training.checkpoints import load_tree
from privynet_jax.training.models import linear_attack
from privynet_jax.training.session import session
from privynet_jax.training.tasks import Schedule

LAYER = 4


@pytest.fixture(scope="module")
def run(vgg_weights, small_parts, tmp_path_factory):
    """A grid of which nothing is measured yet."""
    config = Config(
        workdir=tmp_path_factory.mktemp("run"),
        layers=(LAYER,),
        depths=(3, 12),
        draws=3,
        seed=5,
        mode="amortised",
        cloud=Schedule(steps=4, batch_size=8),
        attacker=Schedule(steps=3, batch_size=8),
        cloud_width=8,
        attacker_width=8,
        attacker_blocks=0,
        scoring_images=40,
        examples=3,
    )
    union = {LAYER: tuple(range(128))}
    features = load_features(vgg_weights, small_parts, union, tmp_path_factory.mktemp("cache"))
    cells, rows = config.cells(), np.arange(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amortised, "POOL", 24)
        yield GridRun(config, cells, cells, small_parts, vgg_weights, lambda: features, rows)


class Asked:
    """Answers whether to stop: once a path has been there for so many questions."""

    def __init__(self, begun, stop_at=math.inf):
        self.begun, self.stop_at, self.questions, self.since = begun, stop_at, 0, 0

    def __call__(self):
        self.questions += 1
        self.since += self.begun.exists()
        return self.since >= self.stop_at


@pytest.fixture(scope="module")
def asked(run):
    return Asked(run.config.workdir)


@pytest.fixture(scope="module")
def whole(run, asked):
    shares = []
    with session(stop_requested=asked):
        found = list(
            scoring.estimated_measurements(dataclasses.replace(run, progress=shares.append))
        )
    # Seven steps are worth two cells and a third, beside the six that are scored.
    assert sum(shares) == pytest.approx(6)
    assert shares[-6:] == pytest.approx([6 / (6 + 7 / 3)] * 6)
    return found


@pytest.fixture(scope="module")
def by_linear(run):
    config = dataclasses.replace(run.config, mode="linear")
    return list(scoring.estimated_measurements(dataclasses.replace(run, config=config)))


def test_measurements_have_one_number_per_sampled_image(run, whole, by_linear):
    parts = run.parts
    for measurements, attackers, counts in [
        (whole, {"linear", "amortised"}, (40, 40)),
        (by_linear, {"linear"}, (len(parts.validation), len(parts.test))),
    ]:
        for cell, measurement in zip(run.cells, measurements, strict=True):
            assert measurement.cell == cell
            assert set(measurement.attacks) == set(measurement.examples) == attackers
            for part, count in zip(("validation", "test"), counts, strict=True):
                assert measurement.accuracy[part].shape == (count,)
                of_part = getattr(parts, part).labels
                rows = spread_over_classes(of_part, 40) if measurements is whole else slice(None)
                np.testing.assert_array_equal(measurement.labels[part], of_part[rows])
                assert set(np.unique(measurement.accuracy[part])) <= {0, 1}
                for by_part in measurement.attacks.values():
                    assert by_part[part]["psnr_db"].shape == by_part[part]["ssim"].shape == (5,)
            for rebuilt in measurement.examples.values():
                assert rebuilt.shape == (3, 32, 32, 3)
                assert rebuilt.dtype == np.uint8


def test_the_linear_attack_is_the_one_of_the_subset(run, whole, by_linear):
    cell, layer, parts = run.cells[1], run.features()[LAYER], run.parts
    sums = subsets.layer_sums(layer, parts, 12)
    attack = linear_attack.fit(sums.fitted_on, sums.chosen_on, cell.topology.channels)
    rows = spread_over_classes(parts.test.labels, 5)
    x = np.float32(layer.parts["test"][rows][..., list(cell.topology.channels)])
    rebuilt = np.clip(linear_attack.reconstruct(attack, x), 0, 1)
    truth = as_float(parts.test.images[rows])
    expected = [
        peak_signal_noise_ratio(image, estimate, data_range=1.0)
        for image, estimate in zip(truth, rebuilt, strict=True)
    ]
    for found in (whole[1], by_linear[1]):
        np.testing.assert_allclose(found.attacks["linear"]["test"]["psnr_db"], expected, atol=1e-3)
        difference = np.abs(found.examples["linear"] / 255 - rebuilt[:3])
        assert difference.max() < 0.5 / 255 + 1e-4


def test_company_changes_nothing_and_kept_networks_are_not_trained_again(run, whole, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("it was trained already")

    monkeypatch.setattr(amortised, "train", refuse)
    monkeypatch.setattr(scoring, "_AT_ONCE", 1)
    chosen = dataclasses.replace(run, missing=[run.cells[4], run.cells[1]])
    by_cell = {measurement.cell: measurement for measurement in whole}
    for apart in scoring.estimated_measurements(chosen):
        together = by_cell[apart.cell]
        for a, b in zip(
            jax.tree.leaves((apart.accuracy, apart.attacks)),
            jax.tree.leaves((together.accuracy, together.attacks)),
            strict=True,
        ):
            # Other shapes may be summed up in another order: 1e-6 of an error, 1e-5 dB.
            np.testing.assert_allclose(a, b, atol=1e-3)


def test_stopped_while_networks_train_they_go_on_to_the_same_bits(run, whole, asked, tmp_path):
    config = dataclasses.replace(run.config, workdir=tmp_path)
    cloud, attacker = (tmp_path / "networks" / f"layer_04_{name}" for name in ("cloud", "attacker"))
    questions = 0
    # In the middle of the cloud NN, which is trained first; of the attacker; and never.
    for begun, stop_at in ((tmp_path, 2), (cloud, 2), (tmp_path, math.inf)):
        own = Asked(begun, stop_at)
        with contextlib.suppress(signals.Terminated), session(stop_requested=own):
            next(scoring.estimated_measurements(dataclasses.replace(run, config=config)))
        assert (own.since >= stop_at) == (not attacker.exists())
        questions += own.questions
    # What was done is not done again: only the question that stopped it is asked twice.
    assert questions <= asked.questions + 2
    for kept in (cloud, attacker):
        expected = load_tree(run.config.workdir / "networks" / kept.name, "checkpoint")
        jax.tree.map(np.testing.assert_array_equal, load_tree(kept, "checkpoint"), expected)


def test_networks_that_diverge_are_refused_and_not_kept(run, tmp_path):
    config = dataclasses.replace(
        run.config, workdir=tmp_path / "run", cloud=Schedule(4, 8, 1e30), attacker=run.config.cloud
    )
    with pytest.raises(DivergedError, match=r"network of layer 4 diverged; .* lower learning rate"):
        next(scoring.estimated_measurements(dataclasses.replace(run, config=config)))
    assert not (tmp_path / "run" / "networks").exists()


def test_layers_that_diverge_do_not_stop_those_behind_them(run, monkeypatch):
    config = dataclasses.replace(run.config, layers=(2, 4, 7))
    cells, told = list(config.cells()), []

    def of_layer(_, learnt, scorers, number, of_layer):
        if number != 4:
            raise DivergedError(f"layer {number}")
        yield from of_layer

    monkeypatch.setattr(scoring, "_of_layer", of_layer)
    with pytest.raises(DivergedError, match=r"^layer 2; and layer 7$"):
        told.extend(
            scoring.estimated_measurements(dataclasses.replace(run, config=config, missing=cells))
        )
    assert told == [cell for cell in cells if cell.topology.num_layers == 4]


@pytest.mark.parametrize("mode", ["linear", "amortised"])
def test_several_labels_are_scored_one_by_one(run, mode, tmp_path):
    """Two labels that say of the images' halves whether they are bright."""

    def labelled(part):
        left, right = np.split(part.images, 2, axis=2)
        bright = [half.mean(axis=(1, 2, 3)) for half in (left, right)]
        several = np.stack([b > np.median(b) for b in bright], axis=1)
        return dataclasses.replace(part, several=several.astype(np.int32))

    labelled_parts = {name: labelled(part) for name, part in run.parts.items()}
    parts = dataclasses.replace(run.parts, **labelled_parts, label_names=("left", "right"))
    config = dataclasses.replace(run.config, mode=mode, workdir=tmp_path)
    scored = list(
        scoring.estimated_measurements(dataclasses.replace(run, config=config, parts=parts))
    )
    for one in scored:
        right, labels = one.accuracy["test"], one.labels["test"]
        assert right.shape == labels.shape == (len(labels), 2)
    if mode == "linear":  # few steps of the other one learn nothing
        right = [one.accuracy["test"] for one in scored if one.cell.topology.depth == 12]
        # Of 150 answers to each label half are guessed, within 4 standard deviations 66 %.
        assert (np.concatenate(right).mean(axis=0) > 0.66).all()
