"""Selections compared: intervals against SciPy's, tables worked by hand, and the command."""

import csv
import dataclasses
import functools
import itertools

import numpy as np
import pytest
from support import handmade_results as handmade
from support.commands import everything_in, refused

from experiments import compare_selection
from experiments.compare_selection import compared, limited, options_of
from experiments.comparing.picture_values import PictureValues
from privynet_jax.results.work_directory import ResultStore


def cell(num_layers, depth, draw, selection, accuracy, psnr_db):
    """Test accuracy as given and validation's 0.01 above; privacy loss 0.25 dB below."""
    attacks = (
        handmade.attack("residual", psnr_db, psnr_db / 50),
        handmade.attack("linear", psnr_db - 3, psnr_db / 100),
    )
    return handmade.cell(num_layers, depth, draw, accuracy, attacks, selection)


# Two photographs of two pictures each; the second is easier, in all cells alike.
LABELS = SOURCES = np.array([0, 0, 1, 1])
EASE = np.array([-1, -1, 1, 1])


def kept(folder, results, **settings):
    """A work directory of these results, whose pictures' values have their means."""
    config = handmade.settings(**settings)
    store = ResultStore.open(folder, config)
    store.save_test_pictures({"labels": LABELS, "sources": SOURCES})
    for result in results:
        arrays = {"accuracy": result.accuracy + 0.1 * EASE}
        for each in result.attacks:
            arrays[f"{each.attacker}_psnr_db"] = each.psnr_db.mean + 1.0 * EASE
            arrays[f"{each.attacker}_ssim"] = each.ssim.mean + 0.05 * EASE
        store.save(result, arrays)
    return store, config


# The tables.


@pytest.fixture
def results():
    """Two draws each; the numbers are such that all means can be told by heart."""
    numbers = {
        # (layers, depth, selection) -> accuracy, PSNR
        (2, 8, "random"): (0.50, 20.0),
        (2, 8, "both"): (0.52, 19.0),
        (2, 8, "direct"): (0.55, 18.0),
        (4, 8, "random"): (0.40, 14.0),
        (4, 8, "both"): (0.41, 15.0),
        (4, 8, "direct"): (0.48, 12.0),
    }
    return [
        cell(m, depth, draw, method, accuracy + sign * 0.01, psnr_db + sign * 0.1)
        for (m, depth, method), (accuracy, psnr_db) in numbers.items()
        for draw, sign in enumerate((-1, 1))
    ]


@pytest.fixture
def pictures(tmp_path, results):
    return PictureValues.of(*kept(tmp_path / "kept", results))


def test_options_hold_the_draws_of_one_selection(results):
    options = options_of(results[::-1])
    shapes = [(o.num_layers, o.depth, o.selection, len(o.cells)) for o in options]
    assert shapes == [(m, 8, s, 2) for m in (2, 4) for s in ("random", "both", "direct")]
    assert sorted(options[0].values("accuracy")) == pytest.approx([49.0, 51.0])
    assert sorted(options[2].values("psnr_db_mean")) == pytest.approx([17.9, 18.1])


def test_differences_are_to_the_baseline_of_the_same_size(results, pictures):
    rows = compared(options_of(results), "both", pictures)
    # Of two draws x -+ d, the half width is 12.706 d; Welch's for two such is 4.303 sqrt(2) d. Of
    # two sources, one quarter of the resamples has either one twice. A difference is the same in
    # both, so other sources would not change it. Balanced accuracies are those of the arrays.
    assert rows[0] == {
        "layers": "2 conv1_2",
        "depth": 8,
        "selection": "random",
        "draws": 2,
        "accuracy %": "50.0 ±12.7 (40.0 to 60.0)",
        "difference, accuracy %": "-2.0 ±6.1 (-2.0 to -2.0)",
        "balanced %": "45.0 ±12.7 (40.0 to 60.0)",
        "difference, balanced %": "-2.0 ±6.1 (-2.0 to -2.0)",
        "PSNR dB": "20.0 ±1.3 (19.0 to 21.0)",
        "difference, PSNR dB": "1.0 ±0.6 (1.0 to 1.0)",
        "SSIM": "0.40 ±0.03 (0.35 to 0.45)",
        "difference, SSIM": "0.02 ±0.01 (0.02 to 0.02)",
    }
    assert [row["difference, accuracy %"].split()[0:1] for row in rows] == [
        *(["-2.0"], [], ["3.0"]),
        *(["-1.0"], [], ["7.0"]),
    ]
    assert [row["difference, PSNR dB"].split()[0:1] for row in rows] == [
        *(["1.0"], [], ["-1.0"]),
        *(["-1.0"], [], ["-3.0"]),
    ]


def test_a_size_without_the_baseline_has_no_differences(results, pictures):
    options = options_of([r for r in results if (r.num_layers, r.selection) != (4, "both")])
    rows = compared(options, "both", pictures)
    assert [bool(row["difference, accuracy %"]) for row in rows] == [True, False, True] + 2 * [
        False
    ]


def test_at_equal_limits_each_selection_uses_what_suits_it(results, pictures):
    rows = limited(options_of(results), pictures)
    # Validation's losses are 0.25 dB lower: from 11.75 to 19.75, in six steps.
    steps = [11.75 + 8 / 6 * step for step in range(1, 7)]
    assert [row["PSNR at most"] for row in rows] == [f"{limit:.1f} dB" for limit in steps]
    deep, shallow = "layers 4, depth 8", "layers 2, depth 8"
    expected = {
        # The limits 13.1, 14.4, 15.8, 17.1, 18.4 and 19.75 against each option's loss.
        "random": [None, deep, deep, deep, deep, shallow],  # 13.75 and 19.75
        "both": [None, None, deep, deep, deep, shallow],  # 14.75 and 18.75
        "direct": [deep, deep, deep, deep, shallow, shallow],  # 11.75 and 17.75
    }
    for method, options in expected.items():
        for row, place in zip(rows, options, strict=True):
            assert row[method] == "none" if place is None else row[method].endswith(place)
    assert rows[0]["direct"] == "43.0 ±12.7 (38.0 to 58.0) % at 12.0 dB, layers 4, depth 8"


def test_validation_chooses_and_test_is_reported(tmp_path):
    """What is better on validation images is taken, though it is worse on test images."""
    made = [cell(2, 4, 0, "both", 0.5, 20.0), cell(2, 8, 0, "both", 0.3, 20.0)]
    made[1] = dataclasses.replace(made[1], validation_balanced_accuracy=0.9)
    pictures = PictureValues.of(*kept(tmp_path, made))
    assert {row["both"] for row in limited(options_of(made), pictures)} == {
        "25.0 (20.0 to 40.0) % at 20.0 dB, layers 2, depth 8"
    }


# The command.


@pytest.fixture
def workdir(tmp_path):
    """Makes a finished work directory with these selections."""

    def made(*selections, draws=2):
        rng, results = np.random.default_rng(0), []
        for m, depth, draw, method in itertools.product((2, 4), (8, 16), range(draws), selections):
            accuracy, psnr_db = rng.uniform(0.4, 0.6), 25 - 2 * m + rng.normal()
            results.append(cell(m, depth, draw, method, accuracy, psnr_db))
        settings = {"draws": draws, "selections": list(selections)}
        return kept(tmp_path / "run", results, **settings)[0].workdir

    return made


@pytest.fixture
def command(run_command):
    """Runs the command; returns status, output and error."""
    return functools.partial(run_command, compare_selection)


@pytest.mark.parametrize("draws", [1, 3])
def test_the_command_writes_tables_and_a_picture(command, workdir, draws):
    folder = workdir("random", "both", "direct", draws=draws)
    before = everything_in(folder / "cells")
    status, output, error = command(f"--workdir={folder}", "--baseline=random")
    assert (status, error) == (0, "")
    store, config = ResultStore.existing(folder)
    options, pictures = options_of(store.grid_results(config)), PictureValues.of(store, config)
    for name, rows in [
        ("selection.csv", compared(options, "random", pictures)),
        ("selection_limits.csv", limited(options, pictures)),
    ]:
        with (folder / name).open() as file:
            written = list(csv.DictReader(file))
        assert written == [{key: str(value) for key, value in row.items()} for row in rows]
        for row in rows:
            assert all(str(value) in output for value in row.values())
    picture = (folder / "selection.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.rstrip().endswith(b"IEND\xaeB`\x82")
    assert "differences are to the selection random" in output
    assert everything_in(folder / "cells") == before


def test_one_selection_compares_with_nothing(command, workdir):
    folder = workdir("both")
    before = everything_in(folder)
    refused(command(f"--workdir={folder}"), "the one selection both; at least two are needed")
    assert everything_in(folder) == before


def test_a_baseline_that_is_not_there_is_refused(command, workdir):
    folder = workdir("random", "direct")
    before = everything_in(folder)
    refused(command(f"--workdir={folder}"), "no selection both", "random, direct", "--baseline")
    assert everything_in(folder) == before
    assert command(f"--workdir={folder}", "--baseline=direct")[0] == 0


def test_no_finished_work_directory_is_refused(command, workdir, tmp_path):
    refused(command(), "no --workdir is given")
    refused(command(f"--workdir={tmp_path / 'none'}"), "is no work directory")
    folder = workdir("random", "both")
    (folder / "cells" / "m02_d008_both_r00.json").unlink()
    refused(command(f"--workdir={folder}"), "is not finished: 1 of 16 cells are missing")
    assert not list(folder.glob("selection*"))
