"""Tables of risk, against numbers worked by hand; and the command that prints them."""

import csv
import sys

import numpy as np
import pytest
from absl import app, flags
from absl.testing import flagsaver
from support import handmade_results as handmade

from experiments import cli
from experiments import risk as command
from privynet_jax.errors import UserError
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.results import statistics
from privynet_jax.results.risk_tables import (
    INTERVALS,
    class_rows,
    intervals_of,
    risk_row,
    risk_text,
    scored,
)
from privynet_jax.results.work_directory import ResultStore

PICTURES = {
    "labels": np.array([1, 1, 0, 1]),
    "class_names": np.array(("cat", "dog", "cow")),
    "sources": np.array([7, 7, 3, 5]),
    "mean_image_psnr_db": np.array([10.0, 12, 9, 15]),
    "mean_image_ssim": np.array([0.1, 0.2, 0.3, 0.4]),
}
ARRAYS = {
    "residual_psnr_db": np.array([20.0, 14, 13, 16], np.float32),
    "residual_ssim": np.array([0.8, 0.5, 0.4, 0.3]),
    "linear_psnr_db": np.array([99.0, 0, 0, 0]),  # the strongest by mean alone counts
    "linear_ssim": np.ones(4),
    "residual_haarpsi": np.array([0.75, 0.5, 0.5, 0.25]),
    "residual_identified": np.array([1.0, 1.0, 0.5, 0.0]),
    "linear_haarpsi": np.ones(4),
}
CONFIG = handmade.settings(layers=[2], depths=[3])


def cell(draw=0):
    attacks = (handmade.attack("linear", 12.0), handmade.attack("residual", 20.0))
    return handmade.cell(2, 3, draw, attacks=attacks)


def test_a_row_by_hand():
    row = risk_row(cell(), ARRAYS, PICTURES, "dedicated")
    expected = {
        "num_layers": 2,
        "layer": "conv1_2",
        "depth": 3,
        "draw": 0,
        "attacker": "residual",
        "knowledge": "pairs",
        "images": 4,
        "sources": 3,
        "psnr_db_mean": 15.75,
        "psnr_db_median": 15.0,
        "psnr_db_p95": pytest.approx(19.4),
        "psnr_db_max": 20.0,
        "ssim_mean": 0.5,
        # 20 - 10, 14 - 12, 13 - 9 and 16 - 15, picture by picture.
        "gain_db_mean": 4.25,
        "gain_db_p95": pytest.approx(4 + 0.85 * 6),
        "gain_db_max": 10.0,
        "ssim_threshold": 0.5,
        "recognisable": 0.5,  # a value that equals the threshold counts
        "haarpsi_mean": 0.5,
        "haarpsi_max": 0.75,
        "identified": 0.625,  # two alike share one
        "identified_among": 4,
    }
    assert row == {**row, **expected}
    for name in (
        "psnr_db_mean",
        "psnr_db_p95",
        "ssim_mean",
        "haarpsi_p95",
        "recognisable",
        "identified",
    ):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row[f"{name}_low"] < row[f"{name}_high"]
    assert risk_row(cell(), ARRAYS, PICTURES, "dedicated", 0.35)["recognisable"] == 0.75


def test_where_nobody_was_looked_for_the_columns_are_empty():
    arrays = {name: values for name, values in ARRAYS.items() if "identified" not in name}
    row, usual = (risk_row(cell(), each, PICTURES, "dedicated") for each in (arrays, ARRAYS))
    assert row.keys() == usual.keys()
    assert (row["identified"], row["identified_low"], row["identified_among"]) == ("", "", "")
    assert "identified" in risk_text([row])
    assert "62.5 (" in risk_text([usual])
    assert " of 4" in risk_text([usual])


def test_intervals_that_came_with_a_cell_are_not_computed_again(monkeypatch):
    expected = risk_row(cell(), ARRAYS, PICTURES, "dedicated")
    arrays = {**ARRAYS, INTERVALS: intervals_of(cell(), ARRAYS, PICTURES["sources"])}
    monkeypatch.delattr(statistics, "bootstrap")
    assert risk_row(cell(), arrays, PICTURES, "dedicated") == expected


def test_intervals_draw_whole_sources():
    # Of one source alone nothing is known of others; a number is what it was.
    pictures = {**PICTURES, "sources": np.zeros(4, int)}
    row = risk_row(cell(), ARRAYS, pictures, "dedicated")
    assert (row["sources"], row["psnr_db_mean"]) == (1, 15.75)
    assert np.isnan([row["psnr_db_mean_low"], row["psnr_db_p95_high"]]).all()


def test_classes_by_hand():
    cat, dog = class_rows(cell(), ARRAYS, PICTURES, "dedicated")
    assert (cat["class"], cat["images"], cat["psnr_db_mean"]) == ("cat", 1, 13.0)
    assert (dog["class"], dog["images"]) == ("dog", 3)
    assert dog["psnr_db_mean"] == pytest.approx(50 / 3)
    assert dog["psnr_db_max"] == 20.0
    assert (cat["recognisable"], dog["recognisable"]) == (0.0, pytest.approx(2 / 3))


def test_estimates_score_a_sample_spread_over_classes():
    # The first dog is image 0, the first cat image 2.
    values = {"psnr_db": [13.0, 21.0], "ssim": [0.5, 0.6], "haarpsi": [0.5, 0.6]}
    arrays = {f"residual_{name}": np.array(each) for name, each in values.items()}
    for mode in ("amortised", "dedicated"):  # of the latter, whoever optimises each image
        row = risk_row(cell(), arrays, PICTURES, mode)
        assert (row["images"], row["gain_db_mean"], row["gain_db_max"]) == (2, 7.5, 12.0)
    cat, dog = class_rows(cell(), arrays, PICTURES, "amortised")
    assert (cat["psnr_db_mean"], dog["psnr_db_mean"]) == (21.0, 13.0)


def test_a_sample_of_all_images_is_in_their_own_order():
    labels = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1])
    assert spread_over_classes(labels, 10).tolist() != list(range(10))
    for count in (4, 10):
        rows = scored(labels, count, "dedicated")
        assert rows.tolist() == sorted(spread_over_classes(labels, count))


def test_pictures_survive_a_work_directory(tmp_path):
    store = ResultStore.open(tmp_path / "run", CONFIG)
    store.save_test_pictures(PICTURES)
    again = store.load_test_pictures()
    assert again.keys() == PICTURES.keys()
    for name, values in PICTURES.items():
        np.testing.assert_array_equal(again[name], values)
    store.save_test_pictures({"labels": PICTURES["labels"]})
    with pytest.raises(UserError, match=r"test_pictures.npz is missing or damaged"):
        store.load_test_pictures()


# The command.


@pytest.fixture
def workdir(tmp_path):
    store = ResultStore.open(tmp_path / "run", CONFIG)
    for draw in range(2):
        store.save(cell(draw), ARRAYS)
    store.save_test_pictures(PICTURES)
    return store.workdir


@pytest.fixture
def run(monkeypatch, capfd):
    """Runs the command; returns status, output and error."""

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["risk", *map(str, arguments)])
        with flagsaver.flagsaver():
            flags.FLAGS.unparse_flags()
            with pytest.raises(SystemExit) as exited:
                cli.run(command.main)
        return exited.value.code, *capfd.readouterr()

    # Whoever first runs a command defines them, and the saver would take them away again.
    app.define_help_flags()
    yield run_command
    flags.FLAGS.unparse_flags()
    flags.FLAGS(["tests"])


def test_the_command_prints_and_writes_both_tables(workdir, run):
    status, out, error = run(f"--workdir={workdir}", "--recognisable_ssim=0.35")
    assert (status, error) == (None, "")
    assert "SSIM>=0.35 %" in out
    assert out.count(" conv1_2 ") == 2
    with (workdir / "risk.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["draw"], row["recognisable"]) for row in rows] == [("0", "0.75"), ("1", "0.75")]
    with (workdir / "risk_classes.csv").open(newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["cat", "dog"] * 2


def test_lost_test_pictures(workdir, run):
    (workdir / "test_pictures.npz").unlink()
    status, _, error = run(f"--workdir={workdir}")
    assert status == 1
    assert "test_pictures.npz is missing or damaged" in error
    assert error.count("\n") == 1


def test_a_cell_whose_values_are_gone(workdir, run):
    store, _ = ResultStore.existing(workdir)
    store.save(cell(1), {"residual_psnr_db": np.ones(4)})
    status, _, error = run(f"--workdir={workdir}")
    assert status == 1
    assert "has no value per test image" in error
