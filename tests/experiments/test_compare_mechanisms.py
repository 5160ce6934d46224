"""The command: its table by hand, a run on real pictures that goes on, and refusals."""

import csv
import math

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from experiments import compare_mechanisms
from experiments.compare_mechanisms import rows_of_flags
from experiments.comparing import attribute_trials, mechanism_tables, mechanism_trials
from experiments.comparing.mechanism_tables import Row, as_table, as_text, convergence_note
from privynet_jax.attacks.base import EVERYTHING, PAIRS
from privynet_jax.backbone.topology import Topology
from privynet_jax.errors import UserError
from privynet_jax.mechanisms.disguises.rmt import Rmt
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.noises import GaussianNoise, Quantisation
from privynet_jax.mechanisms.words import parse_mechanism
from privynet_jax.results.cells import Cell, Measurement
from privynet_jax.training.models.attackers import capacities_of_size
from privynet_jax.training.models.networks import cloud_nn


@pytest.fixture(autouse=True)
def parsed_flags():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver():
        yield


@pytest.fixture
def on_these_devices(monkeypatch):
    """The number of CPU devices cannot change once there are some; conftest has chosen it."""
    monkeypatch.setattr(compare_mechanisms.cli, "use_cpu_cores", lambda at_most: None)


def of_class(psnr, falling=4.0):
    return {
        "psnr_db_mean": psnr,
        "psnr_db_low": min(psnr) - 1,
        "psnr_db_high": max(psnr) + 1,
        "psnr_db_p95": [x + 5 for x in psnr],
        "ssim_mean": [0.5, 0.7],
        "attacker": "residual",
        "falling_percent_per_doubling": falling,
    }


def measured(accuracy, psnr, epsilon=math.inf, falling=4.0, **others):
    return {
        "accuracy": accuracy,
        "balanced_accuracy": [0.9 * value for value in accuracy],
        "accuracy_low": min(accuracy) - 0.1,
        "accuracy_high": max(accuracy) + 0.1,
        "classes": {"pairs": of_class(psnr, falling), **others},
        "epsilon": epsilon,
        "local_macs": 2_500_000,
        "released_values": 1024,
        "train_seconds": 20.0,
        "attribute": [0.4, 0.5],
        "attribute_low": 0.35,
        "attribute_high": 0.55,
        "attribute_attacker": "linear probe",
    }


OWN = {
    Row(4, 16, Plain()): measured([0.6, 0.7], [24.0, 24.0]),
    Row(7, 16, Plain()): measured([0.45, 0.55], [15.0, 17.0]),
}
OTHERS = {
    Row(4, 16, GaussianNoise(1.0, 0.5)): measured(
        [0.5, 0.6], [14.0, 15.0], 12.5, leak=of_class([19.0, 21.0])
    ),
    Row(4, 16, Quantisation(1, rounding="stochastic")): measured([0.3, 0.3], [15.0, 15.5]),
    Row(0, 3, Rmt()): measured([0.2, 0.2], [100.0, 100.0], public=of_class([44.0, 45.0])),
}


def test_gains_are_over_the_own_trade_off_at_the_strongest_class_s_privacy_loss():
    table = as_table(OWN | OTHERS)
    # At 20 dB, which a leak gives, half way from (16 dB, 50 %) to (24 dB, 65 %): 57.5 %.
    assert table[2]["gain"] == pytest.approx(0.55 - 0.575)
    assert (table[2]["strongest"], table[2]["psnr_db_mean"]) == ("leak", 20.0)
    assert table[2]["psnr_db_half_range"] == pytest.approx(1.0)
    assert table[2]["pairs_psnr_db_mean"] == pytest.approx(14.5)
    assert table[2]["public_psnr_db_mean"] == ""
    # Nothing without a mechanism is as private as 15.25 dB; at 100 dB the best counts.
    assert [line["gain"] for line in (table[0], table[1], table[3])] == [""] * 3
    assert table[4]["gain"] == pytest.approx(0.2 - 0.65)
    assert table[2]["balanced_accuracy"] == pytest.approx(0.495)
    assert table[2]["accuracy_half_range"] == pytest.approx(0.05)
    assert table[2]["attribute_accuracy"] == pytest.approx(0.45)
    assert table[3]["kind"] == "quantise, stochastic"
    lines = as_text(table).splitlines()
    assert {"12.5", "-2.5", "20.0"} <= {*lines[4].split()}
    assert "inf" not in lines[5]
    assert lines[6].split()[:2] == ["-", "-"]
    assert "44.5" in lines[6]
    assert "45.0 (35.0 to 55.0)" in lines[4]


def test_what_had_not_converged_is_marked():
    late = {Row(4, 16, GaussianNoise(1.0, 2.0)): measured([0.2, 0.3], [17.0, 17.5], 3.0, 12.4)}
    table = as_table(OWN | late)
    *others, last = as_text(table).splitlines()
    assert "residual*" in last.split()
    assert not any("*" in line for line in others)
    assert "In 1 of 3 rows, marked *," in convergence_note(table)
    assert "by 12 % per doubling" in convergence_note(table)
    assert convergence_note(table[:2]) == "The strongest attackers of all 2 rows had converged."


def test_each_draw_has_its_own_strongest_attacker_of_each_class():
    def measurement(draw, linear, strong, falling):
        losses = {"linear": linear, "strong": strong, "white box": 30.0}
        attacks = {
            name: {"test": {"psnr_db": np.full(2, loss), "ssim": np.full(2, loss / 100)}}
            for name, loss in losses.items()
        }
        accuracy = {"test": np.array([1.0, 1.0, 0.0])}
        cell = Cell(Topology(4, tuple(range(16))), draw)
        reports = {
            "strong": {"falling_percent_per_doubling": falling, "knowledge": PAIRS},
            "linear": {"knowledge": PAIRS},
            "white box": {"knowledge": EVERYTHING},
        }
        labels = {"test": np.array([4, 4, 7])}
        return Measurement(cell, accuracy, attacks, {}, 1.0, reports, labels)

    row = Row(4, 16, Plain())
    # On average over draws the strong one is stronger, by 0.5 dB.
    both = [measurement(0, 20.0, 18.0, 30.0), measurement(1, 15.0, 18.0, 7.5)]
    sources, attacked = np.array([0, 1, 1]), np.array([0, 2])
    found = mechanism_trials.summary(row, both, sources, attacked)
    assert found["classes"].keys() == {"pairs", "leak"}
    pairs = found["classes"]["pairs"]
    assert pairs["psnr_db_mean"] == pytest.approx([20.0, 18.0])
    # Of each image 19 dB on average over draws, whichever sources are drawn.
    assert (pairs["psnr_db_low"], pairs["psnr_db_high"]) == pytest.approx((19.0, 19.0))
    assert pairs["ssim_mean"] == pytest.approx([0.2, 0.18])
    assert pairs["attacker"] == "linear/strong"
    # Of who is not the strongest it does not matter.
    assert pairs["falling_percent_per_doubling"] == 7.5
    assert found["classes"]["leak"]["psnr_db_mean"] == [30.0, 30.0]
    assert found["accuracy"] == pytest.approx([2 / 3] * 2)
    # The second source has one of its two images wrong, the first its only one right.
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx((0.5, 1.0))
    assert found["balanced_accuracy"] == [0.5] * 2
    assert found["released_values"] == 16 * 16 * 16


def test_its_picture_can_be_drawn():
    picture = mechanism_tables.picture(as_table(OWN | OTHERS))
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    # Every kind that there is has a line of its own.
    kinds = {row.kind for row in rows_of_flags()}
    assert kinds - {"none"} == set(mechanism_tables.TITLES)


def test_rows_are_the_own_trade_off_and_each_mechanism_once():
    with flagsaver.flagsaver(
        mechanism_layers=["7"],
        mechanism_depths=["8"],
        own_layers=["4", "7"],
        own_depths=["8"],
        mechanisms="none,rmt,dropout,gaussian:clip=2,sigma=1",
    ):
        rows = rows_of_flags()
    assert [(row.num_layers, row.depth, str(row.mechanism)) for row in rows] == [
        (4, 8, "none"),
        (7, 8, "none"),
        (7, 8, "dropout:rate=0.5"),
        (7, 8, "gaussian:clip=2,sigma=1"),
        (0, 3, "rmt:block=4,noise=0"),
    ]
    assert len({row.title for row in rows}) == 5


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mechanism_layers": ["x"]}, "whole numbers"),
        ({"mechanism_depths": ["1000"]}, "depth 1000"),
        ({"mechanisms": "blur"}, "allowed are none"),
        ({"attackers": ["weak"]}, "names weak; allowed are mean image"),
        ({"out": None}, "no --out"),
        ({"private_attribute": "size"}, "attribute 'size'; allowed are class, brightness"),
    ],
)
def test_bad_flags_are_refused(given, told, tmp_path, on_these_devices):
    with (
        flagsaver.flagsaver(**{"out": str(tmp_path), **given}),
        pytest.raises(UserError, match=told),
    ):
        compare_mechanisms.main()


def folder_of_pictures(path):
    rng = np.random.default_rng(0)
    for name, tint in (("dark", 60), ("light", 190)):
        (path / name).mkdir(parents=True)
        for i in range(30):
            pixels = np.uint8((tint + rng.normal(0, 40, (32, 32, 3))).clip(0, 255))
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    return f"folder:{path}"


def small_cloud(num_classes, image_size):
    return cloud_nn(num_classes, image_size, width=8)


@pytest.mark.slow
def test_it_measures_what_is_missing_and_no_more(
    tmp_path, test_data_dir, monkeypatch, capsys, on_these_devices
):
    out, done = tmp_path / "out", []
    measure = mechanism_trials.measure

    def counted(cells, scenes, *others):
        done.append(str(scenes[0].release.mechanism))
        return measure(cells, scenes, *others)

    monkeypatch.setattr(mechanism_trials, "measure", counted)
    # The command's networks are compiled for longer than they are trained here.
    small = {"capacities_of_size": lambda *_: capacities_of_size(8, 0), "cloud_nn": small_cloud}
    for name, made in small.items():
        monkeypatch.setattr(compare_mechanisms, name, made)
    monkeypatch.setattr(attribute_trials, "_WIDTH", 8)
    given = {
        "out": str(out),
        "cache_dir": str(test_data_dir / "weights"),
        "compared_data": folder_of_pictures(tmp_path / "pictures"),
        "steps_factor": 0.01,
        "channel_draws": 1,
        "attackers": ["residual"],
        "mechanism_layers": ["7"],
        "mechanism_depths": ["4"],
        "own_layers": ["7"],
        "own_depths": ["4"],
    }
    noise = "gaussian:clip=1,sigma=0.5"
    with flagsaver.flagsaver(**given, mechanisms=noise):
        compare_mechanisms.main()
    # Once, and once more on means of several releases.
    assert done == ["none", noise, noise]
    with flagsaver.flagsaver(**given, mechanisms=f"{noise},rmt:block=8"):
        compare_mechanisms.main()
    assert done[3:] == ["rmt:block=8,noise=0"]
    rows = list(csv.DictReader((out / "mechanisms.csv").read_text().splitlines()))
    assert [row["kind"] for row in rows] == ["none", "gaussian", "rmt"]
    # Pictures rotated, and their matrices stolen.
    assert rows[2]["leak_attacker"] == "secret, then residual"
    assert float(rows[2]["leak_psnr_db_mean"]) > 60
    assert rows[2]["public_attacker"] == "moments, then residual"
    # 8 x 8 positions of 4 channels: 256 values.
    assert float(rows[1]["epsilon"]) == pytest.approx(parse_mechanism(noise).epsilon(256))
    assert (out / "mechanisms.png").read_bytes().startswith(b"\x89PNG")
    text = capsys.readouterr().out
    assert "they bound no other attacker" in text
    assert "BEATEN" not in text
    for row in rows:
        # Of what has noise, more releases tell more.
        bounded = [row[f"{name}_van_trees_bound_db"] for name in ("single", "averaged")]
        noisy = row["kind"] == "gaussian"
        assert 0 < float(bounded[0]) < float(bounded[1]) if noisy else bounded == ["", ""]
        assert row["averaged_attacker"].endswith(", mean of 8") == noisy
    longer = flagsaver.flagsaver(**given | {"steps_factor": 0.02}, mechanisms=noise)
    with longer, pytest.raises(UserError, match="other settings"):
        compare_mechanisms.main()
