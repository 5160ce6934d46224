"""Estimates against dedicated numbers: the statistics against SciPy, and the command."""

import csv

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from support.handmade_results import attack, cell, settings

from experiments import compare_modes
from experiments.compare_modes import comparison, joined, read_results, spearman
from privynet_jax.errors import UserError
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.results.work_directory import ResultStore

# The pictures of the second source are easier.
LABELS = np.zeros(8, int)
SOURCES = np.array([0, 0, 1, 1, 1, 1, 1, 1])
EASE = np.where(SOURCES, 3.0, 0.0)


def workdir(folder, shift, draws=3, noise=0.0, seed=0, mode="dedicated", **others):
    """A work directory of 2 layers x 2 depths x `draws` handmade cells."""
    rng = np.random.default_rng(seed)
    store = ResultStore.open(folder, settings(mode=mode, **others))
    store.save_test_pictures({"labels": LABELS, "sources": SOURCES})
    names = []
    for num_layers in (2, 4):
        for depth in (3, 8):
            for draw in range(draws):
                psnr = 10 + depth - num_layers + 0.1 * draw + shift + noise * rng.normal()
                accuracy = 0.3 + 0.02 * depth + 0.01 * draw + 0.01 * shift
                made = cell(num_layers, depth, draw, accuracy, (attack("linear", psnr),))
                # Estimates score half of the pictures, of which two are of either source.
                ease = EASE if mode == "dedicated" else EASE[spread_over_classes(LABELS, 4)]
                arrays = {"accuracy": accuracy + 0.1 * ease, "linear_psnr_db": psnr + ease}
                store.save(made, arrays)
                names.append(made.name)
    store.write_tables(names)
    return store


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_scipys(ties):
    x, y = np.random.default_rng(0).normal(size=(2, 40))
    if ties:
        x, y = np.round(x), np.round(2 * y)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert spearman(x, -x) == pytest.approx(-1)


def test_constant_numbers_have_no_ranks():
    assert np.isnan(spearman(np.ones(4), np.arange(4)))


def test_a_constant_shift_ranks_perfectly(tmp_path):
    pairs = joined(
        *(read_results(workdir(tmp_path / name, shift)) for name, shift in [("a", 0), ("b", -2)])
    )
    rows = comparison(pairs)
    assert [(row["layers"], row["cells"]) for row in rows[::3]] == [(2, 6), (4, 6), ("all", 12)]
    for row in rows:
        assert row["spearman"] == pytest.approx(1)
        assert row["within"] == pytest.approx(1)
        # Two dB; and two hundredths are two points of accuracy.
        assert row["mean_difference"] == pytest.approx(-2)
        assert row["spread"] == pytest.approx(0, abs=1e-9)


def test_within_is_the_correlation_of_draws_of_one_shape(tmp_path):
    tables = [
        read_results(workdir(tmp_path / str(seed), 0, draws=4, noise=1.0, seed=seed))
        for seed in (1, 2)
    ]
    row = next(
        r for r in comparison(joined(*tables)) if r["layers"] == "all" and "dB" in r["number"]
    )
    values = np.array([[float(r["psnr_db_mean"]) for r in table] for table in tables])
    centred = values.reshape(2, 4, 4) - values.reshape(2, 4, 4).mean(axis=2, keepdims=True)
    assert row["within"] == pytest.approx(pearsonr(*centred.reshape(2, -1)).statistic)
    assert row["spearman"] == pytest.approx(spearmanr(*values).statistic)


def test_only_cells_of_both_count(tmp_path):
    few, many = workdir(tmp_path / "few", 0, draws=1), workdir(tmp_path / "many", 1, draws=5)
    assert len(joined(read_results(few), read_results(many))) == 4
    assert len(joined(read_results(many), read_results(few))) == 4


@pytest.fixture
def given(monkeypatch):
    """Sets the flags."""

    def setting(dedicated, estimated):
        for flag, value in [("_DEDICATED", dedicated), ("_ESTIMATED", estimated)]:
            held = type("Given", (), {"value": str(value), "name": flag})
            monkeypatch.setattr(compare_modes, flag, held)
        eight = type("Given", (), {"value": 8, "name": "calibrated_on"})
        monkeypatch.setattr(compare_modes, "_CALIBRATED_ON", eight)

    return setting


def test_the_command_writes_a_table_and_a_picture(tmp_path, given, capsys):
    dedicated, estimated = tmp_path / "a", tmp_path / "b"
    workdir(dedicated, 0)
    workdir(estimated, 1, mode="amortised")
    given(dedicated, estimated)
    compare_modes.main()
    with (estimated / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert float(rows[-1]["mean_difference"]) == pytest.approx(1)
    # As easy for both, each picture differs by as much: no other source would change that.
    for row in rows:
        ends = [float(row[f"on_same_pictures{end}"]) for end in ("", "_low", "_high")]
        assert ends == pytest.approx([1, 1, 1], abs=1e-6)
    assert (estimated / "comparison.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "PSNR dB" in printed
    # A shift that is the same everywhere is gone after calibration, in all cells.
    assert "Calibrated on 8 cells, the other 4:" in printed
    with (estimated / "calibrated.csv").open() as file:
        put_right = list(csv.DictReader(file))
    for expected, row in zip(read_results(ResultStore(dedicated)), put_right, strict=True):
        for column in ("accuracy", "psnr_db_mean"):
            assert float(row[column]) == pytest.approx(float(expected[column]), abs=1e-3)


def test_of_other_images_nothing_is_told_picture_by_picture(tmp_path, given, capsys):
    dedicated, estimated = tmp_path / "a", tmp_path / "b"
    workdir(dedicated, 0)
    workdir(estimated, 1, mode="amortised", data_fingerprint="another")
    given(dedicated, estimated)
    compare_modes.main()
    assert "Their images differ" in capsys.readouterr().out
    assert "on_same_pictures" not in (estimated / "comparison.csv").read_text()


def test_bad_work_directories_are_refused(tmp_path):
    store = ResultStore(tmp_path)
    with pytest.raises(UserError, match=r"results.csv is missing"):
        read_results(store)
    (tmp_path / "results.csv").write_text("depth,draw\n8,0\n")
    with pytest.raises(
        UserError,
        match="has no num_layers, selection, channels, accuracy, balanced_accuracy, psnr_db_mean",
    ):
        read_results(store)
    rows = read_results(workdir(tmp_path / "a", 0))
    with pytest.raises(UserError, match="share 2 cells of 12 and 2; allowed are 3 or more"):
        joined(rows, rows[:2])


def test_work_directories_in_the_wrong_roles_are_refused(tmp_path, given):
    workdir(tmp_path / "a", 0, mode="dedicated")
    workdir(tmp_path / "b", 0, mode="amortised")
    given(tmp_path / "b", tmp_path / "b")
    with pytest.raises(UserError, match="--mode=amortised; give one made with dedicated"):
        compare_modes.main()
    given(tmp_path / "a", tmp_path / "a")
    with pytest.raises(UserError, match="--mode=dedicated; give one made with amortised"):
        compare_modes.main()
