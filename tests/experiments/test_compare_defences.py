"""The command: its table by hand, a run on real pictures that goes on, and refusals."""

import csv
import math

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from experiments import compare_defences
from experiments.compare_defences import rows_of_flags
from experiments.comparing import defence_tables
from experiments.comparing.defence_tables import Row, as_table, as_text, convergence_note
from privynet_jax.backbone.topology import Topology
from privynet_jax.defences.mechanisms import GaussianNoise, Quantisation, Undefended, parse_defence
from privynet_jax.errors import UserError
from privynet_jax.results.cells import Cell, Measurement


@pytest.fixture(autouse=True)
def parsed_flags():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver():
        yield


@pytest.fixture
def on_these_devices(monkeypatch):
    """The number of CPU devices cannot change once there are some; conftest has chosen it."""
    monkeypatch.setattr(compare_defences.cli, "use_cpu_cores", lambda at_most: None)


def measured(accuracy, psnr, epsilon=math.inf, falling=4.0):
    return {
        "accuracy": accuracy,
        "balanced_accuracy": [0.9 * value for value in accuracy],
        "psnr_db_mean": psnr,
        "accuracy_low": min(accuracy) - 0.1,
        "accuracy_high": max(accuracy) + 0.1,
        "psnr_db_low": min(psnr) - 1,
        "psnr_db_high": max(psnr) + 1,
        "psnr_db_p95": [x + 5 for x in psnr],
        "ssim_mean": [0.5, 0.7],
        "attacker": "residual",
        "falling_percent_per_doubling": falling,
        "epsilon": epsilon,
        "train_seconds": 20.0,
    }


OWN = {
    Row(4, 16, Undefended()): measured([0.6, 0.7], [24.0, 24.0]),
    Row(7, 16, Undefended()): measured([0.45, 0.55], [15.0, 17.0]),
}
DEFENDED = {
    Row(4, 16, GaussianNoise(1.0, 0.5)): measured([0.5, 0.6], [19.0, 21.0], 12.5),
    Row(4, 16, Quantisation(1, rounding="stochastic")): measured([0.3, 0.3], [15.0, 15.5]),
}


def test_gains_are_over_the_own_trade_off_at_equal_privacy_loss():
    table = as_table(OWN | DEFENDED)
    # At 20 dB, half way from (16 dB, 50 %) to (24 dB, 65 %): 57.5 %; the defence has 55 %.
    assert table[2]["gain"] == pytest.approx(0.55 - 0.575)
    # At 21 dB, its less private draw's: 59.375 %.
    assert table[2]["gain_at_the_worst_draw_s_loss"] == pytest.approx(0.55 - 0.59375)
    # Nothing undefended is as private as 15.25 dB.
    assert [line["gain"] for line in (table[0], table[1], table[3])] == [""] * 3
    assert table[2]["accuracy"] == pytest.approx(0.55)
    assert table[2]["balanced_accuracy"] == pytest.approx(0.495)
    assert table[2]["accuracy_half_range"] == pytest.approx(0.05)
    assert table[2]["psnr_db_half_range"] == pytest.approx(1.0)
    assert table[2]["psnr_db_p95"] == pytest.approx(25)
    assert table[2]["ssim_mean"] == pytest.approx(0.6)
    assert table[3]["kind"] == "quantise, stochastic"
    lines = as_text(table).splitlines()
    assert "12.5" in lines[4]
    assert "-2.5" in lines[4]
    assert "inf" not in lines[5]


def test_what_had_not_converged_is_marked():
    late = {Row(4, 16, GaussianNoise(1.0, 2.0)): measured([0.2, 0.3], [17.0, 17.5], 3.0, 12.4)}
    table = as_table(OWN | late)
    assert [line["falling_percent_per_doubling"] for line in table] == [4.0, 4.0, 12.4]
    *others, last = as_text(table).splitlines()
    assert "12*" in last.split()
    assert not any("*" in line for line in others)
    assert "In 1 of 3 rows, marked *," in convergence_note(table)
    assert "by 12 % per doubling" in convergence_note(table)
    assert convergence_note(table[:2]) == "The strongest attackers of all 2 rows had converged."


def test_each_draw_has_its_own_strongest_attacker():
    def measurement(draw, linear, strong, falling):
        attacks = {
            name: {"test": {"psnr_db": np.full(3, loss), "ssim": np.full(3, loss / 100)}}
            for name, loss in (("linear", linear), ("strong", strong))
        }
        accuracy = {"test": np.array([1.0, 1.0, 0.0])}
        cell = Cell(Topology(4, tuple(range(16))), draw)
        reports = {"strong": {"falling_percent_per_doubling": falling}, "linear": {}}
        labels = {"test": np.array([4, 4, 7])}
        return Measurement(cell, accuracy, attacks, {}, 1.0, reports, labels)

    row = Row(4, 16, Undefended())
    # On average over draws the strong one is stronger, by 0.5 dB.
    both = [measurement(0, 20.0, 18.0, 30.0), measurement(1, 15.0, 18.0, 7.5)]
    sources = np.array([0, 1, 1])
    found = compare_defences.summary(row, both, sources)
    assert found["psnr_db_mean"] == pytest.approx([20.0, 18.0])
    # Of each image 19 dB on average over draws, whichever sources are drawn.
    assert (found["psnr_db_low"], found["psnr_db_high"]) == pytest.approx((19.0, 19.0))
    assert found["ssim_mean"] == pytest.approx([0.2, 0.18])
    assert found["attacker"] == "linear/strong"
    assert found["accuracy"] == pytest.approx([2 / 3] * 2)
    # The second source has one of its two images wrong, the first its only one right.
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx((0.5, 1.0))
    assert found["balanced_accuracy"] == [0.5] * 2
    # Of who is not the strongest it does not matter.
    assert found["falling_percent_per_doubling"] == 7.5
    assert compare_defences.summary(row, both[:1], sources)["falling_percent_per_doubling"] == 0


def test_its_picture_can_be_drawn():
    picture = defence_tables.picture(as_table(OWN | DEFENDED))
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    # Every kind that there is has a line of its own.
    kinds = {row.kind for row in rows_of_flags()}
    assert kinds - {"none"} == set(defence_tables.TITLES)


def test_rows_are_the_own_trade_off_and_each_defence_once():
    with flagsaver.flagsaver(
        defended_layers=["7"],
        defended_depths=["8"],
        undefended_layers=["4", "7"],
        undefended_depths=["8"],
        defences="none,dropout,gaussian:clip=2,sigma=1",
    ):
        rows = rows_of_flags()
    assert [(row.num_layers, row.depth, str(row.defence)) for row in rows] == [
        (4, 8, "none"),
        (7, 8, "none"),
        (7, 8, "dropout:rate=0.5"),
        (7, 8, "gaussian:clip=2,sigma=1"),
    ]
    assert len({row.title for row in rows}) == 4


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"defended_layers": ["x"]}, "whole numbers"),
        ({"defended_depths": ["1000"]}, "depth 1000"),
        ({"defences": "blur"}, "allowed are none"),
        ({"attackers": ["weak"]}, "names weak; allowed are mean image"),
        ({"attackers": ["white box"]}, "allowed are those that need pairs alone"),
        ({"out": None}, "no --out"),
    ],
)
def test_bad_flags_are_refused(given, told, tmp_path, on_these_devices):
    with (
        flagsaver.flagsaver(**{"out": str(tmp_path), **given}),
        pytest.raises(UserError, match=told),
    ):
        compare_defences.main()


def folder_of_pictures(path):
    rng = np.random.default_rng(0)
    for name, tint in (("dark", 60), ("light", 190)):
        (path / name).mkdir(parents=True)
        for i in range(30):
            pixels = np.uint8((tint + rng.normal(0, 40, (32, 32, 3))).clip(0, 255))
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    return f"folder:{path}"


@pytest.mark.slow
def test_it_measures_what_is_missing_and_no_more(
    tmp_path, test_data_dir, monkeypatch, capsys, on_these_devices
):
    out, done = tmp_path / "out", []
    measure = compare_defences.measure_defended

    def counted(ground, cells, defence, *others):
        done.append(str(defence))
        return measure(ground, cells, defence, *others)

    monkeypatch.setattr(compare_defences, "measure_defended", counted)
    given = {
        "out": str(out),
        "cache_dir": str(test_data_dir / "weights"),
        "defended_data": folder_of_pictures(tmp_path / "pictures"),
        "steps_factor": 0.01,
        "channel_draws": 1,
        "attackers": ["residual"],
        "defended_layers": ["7"],
        "defended_depths": ["4"],
        "undefended_layers": ["7"],
        "undefended_depths": ["4"],
    }
    noise = "gaussian:clip=1,sigma=0.5"
    with flagsaver.flagsaver(**given, defences=noise):
        compare_defences.main()
    assert done == ["none", noise]
    with flagsaver.flagsaver(**given, defences=f"{noise},arden:nullify=0.5"):
        compare_defences.main()
    assert done[2:] == ["arden:clip=0.5,scale=0.5,nullify=0.5"]
    rows = list(csv.DictReader((out / "defences.csv").read_text().splitlines()))
    assert [row["kind"] for row in rows] == ["none", "gaussian", "arden"]
    # 8 x 8 positions of 4 channels: 256 values.
    assert float(rows[1]["epsilon"]) == pytest.approx(parse_defence(noise).epsilon(256))
    assert float(rows[2]["epsilon"]) == pytest.approx(2 * 0.5 * 256 / 0.5)
    assert (out / "defences.png").read_bytes().startswith(b"\x89PNG")
    assert "they bound no other attacker" in capsys.readouterr().out
    longer = flagsaver.flagsaver(**given | {"steps_factor": 0.02}, defences=noise)
    with longer, pytest.raises(UserError, match="other settings"):
        compare_defences.main()
