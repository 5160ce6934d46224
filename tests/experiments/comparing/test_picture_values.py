"""Means of pictures over cells: worked by hand, against the bootstrap itself, and what is kept."""

import dataclasses
import functools

import numpy as np
import pytest
from support import handmade_results as handmade

from experiments.comparing.picture_values import PictureValues
from privynet_jax.errors import UserError
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.results.accuracies import balanced_mean_of
from privynet_jax.results.statistics import bootstrap, mean_of
from privynet_jax.results.work_directory import ResultStore

COUNT = 40
LABELS = np.random.default_rng(0).integers(3, size=COUNT)
SOURCES = np.arange(COUNT) // 4


@pytest.fixture
def opened(tmp_path):
    """Saves cells with arrays; returns the values of pictures and the cells."""

    def opened(*arrays, mode="dedicated"):
        config = handmade.settings(mode=mode)
        store = ResultStore.open(tmp_path / "run", config)
        store.save_test_pictures({"labels": LABELS, "sources": SOURCES})
        cells = [handmade.cell(draw=draw) for draw in range(len(arrays))]
        for cell, own in zip(cells, arrays, strict=True):
            store.save(cell, own)
        return PictureValues.of(store, config), cells

    return opened


def losses(seed, count=COUNT):
    return {"residual_psnr_db": np.random.default_rng(seed).normal(20, 3, count)}


def test_draws_are_averaged_picture_by_picture(opened):
    first, second = losses(1), losses(2)
    pictures, cells = opened(first, second)
    mean = (first["residual_psnr_db"] + second["residual_psnr_db"]) / 2
    found = pictures.interval(cells, "psnr_db_mean")
    assert dataclasses.astuple(found) == pytest.approx(
        dataclasses.astuple(bootstrap(mean, mean_of, SOURCES)), rel=1e-9
    )
    # In a difference, what makes a picture easy for both cancels out.
    harder = {name: values - 1.5 for name, values in first.items()}
    pictures, cells = opened(first, harder)
    found = pictures.difference(cells[:1], cells[1:], "psnr_db_mean")
    assert dataclasses.astuple(found) == pytest.approx((1.5, 1.5, 1.5), rel=1e-9)


def test_balanced_accuracy_is_of_classes(opened):
    right = np.float32(np.random.default_rng(3).integers(2, size=COUNT))
    pictures, cells = opened({"accuracy": right})
    by_class = [right[label == LABELS].mean() for label in range(3)]
    found = pictures.interval(cells, "balanced_accuracy")
    assert found.value == pytest.approx(np.mean(by_class))
    statistic = functools.partial(balanced_mean_of, labels=LABELS)
    assert found == bootstrap(right, statistic, SOURCES)
    assert pictures.interval(cells, "accuracy").value == pytest.approx(right.mean())


def test_pictures_count_that_all_cells_have(opened):
    """Estimates score the first pictures of every class, in that order."""
    few = losses(4, 12)
    pictures, cells = opened(few, losses(5), mode="amortised")
    rows = spread_over_classes(LABELS, 12)
    full = np.empty(COUNT)
    full[spread_over_classes(LABELS, COUNT)] = losses(5)["residual_psnr_db"]
    mean = np.mean((few["residual_psnr_db"] + full[rows]) / 2)
    assert pictures.interval(cells, "psnr_db_mean").value == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("arrays", [{}, losses(0, 0), losses(0, COUNT + 1)])
def test_values_there_are_not(opened, arrays):
    pictures, cells = opened(arrays)
    with pytest.raises(UserError, match="has no residual_psnr_db per test image; delete it"):
        pictures.interval(cells, "psnr_db_mean")
