"""Tiny characterisations from data to tables, resumed after every kind of interruption."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio
from support.tiny_runs import LIMITS, SIZE
from support.whole_runs import DEPTHS, LAYERS, all_tables, config_in, table

from privynet_jax import characterise
from privynet_jax.characterisation import executors
from privynet_jax.characterisation import run as characterisation
from privynet_jax.errors import UserError
from privynet_jax.estimates import amortised
from privynet_jax.images.parts import load_parts
from privynet_jax.results.cells import grid_cells
from privynet_jax.training.tasks import Schedule


@pytest.fixture
def no_training(monkeypatch):
    """Makes training anything, and extracting features, an error."""

    def refuse(*_, **__):
        raise AssertionError("everything was there already")

    for module, name in (
        (characterisation, "_run_missing"),
        (characterisation, "load_features"),
        (executors, "reference_rows"),
    ):
        monkeypatch.setattr(module, name, refuse)


def test_tables_have_a_row_per_cell_and_attacker(finished):
    cells = grid_cells(LAYERS, DEPTHS, draws=1, seed=0)
    tables = all_tables(finished.config.workdir)
    identity = [
        (str(c.topology.num_layers), str(c.topology.depth), " ".join(map(str, c.topology.channels)))
        for c in cells
    ]

    def identities(rows):
        return [(row["num_layers"], row["depth"], row["channels"]) for row in rows]

    assert identities(tables["results"]) == identity
    assert identities(tables["attacks"]) == [entry for entry in identity for _ in range(2)]
    assert [row["attacker"] for row in tables["attacks"]] == ["linear", "residual"] * len(cells)
    for index, row in enumerate(tables["results"]):
        attacks = tables["attacks"][2 * index : 2 * index + 2]
        strongest = max(attacks, key=lambda attack: float(attack["psnr_db_mean"]))
        assert row["attacker"] == strongest["attacker"]
        assert row["psnr_db_mean"] == strongest["psnr_db_mean"]
        # Accuracy is a number of the twenty test images.
        assert float(row["accuracy"]) * 20 == pytest.approx(round(float(row["accuracy"]) * 20))
    assert [result.name for result in finished.done.results] == [cell.name for cell in cells]


def test_rows_are_the_means_of_the_arrays_beside_them(finished):
    labels = finished.done.store.load_test_pictures()["labels"]
    for result in finished.done.results:
        arrays = finished.done.store.load_arrays(result.name)
        assert result.accuracy == pytest.approx(np.mean(arrays["accuracy"], dtype=np.float64))
        by_class = [arrays["accuracy"][labels == label].mean() for label in np.unique(labels)]
        assert result.balanced_accuracy == pytest.approx(np.mean(by_class))
        assert result.commonest_class_share == np.bincount(labels).max() / len(labels)
        for attack in result.attacks:
            values = np.float64(arrays[f"{attack.attacker}_psnr_db"])
            assert values.shape == (20,)
            assert attack.psnr_db.mean == pytest.approx(values.mean(), rel=1e-12)
            assert attack.psnr_db.max == values.max()
            assert arrays[f"{attack.attacker}_examples"].shape == finished.done.examples.shape


def test_the_references_are_no_split_and_the_auxiliary_mean_image(finished, test_data_dir):
    no_split, mean_image = table(finished.config.workdir, "reference.csv")
    assert (no_split["reference"], mean_image["reference"]) == ("no_split", "mean_image")
    ends = [float(no_split[f"accuracy{end}"]) for end in ("_low", "", "_high")]
    assert 0 <= ends[0] <= ends[1] <= ends[2] <= 1
    psnr = [float(mean_image[f"psnr_db_mean{end}"]) for end in ("_low", "", "_high")]
    assert psnr[0] < psnr[1] < psnr[2]
    assert no_split["psnr_db_mean"] == mean_image["accuracy"] == ""
    parts = load_parts("photo_patches", data_dir=test_data_dir, image_size=SIZE, max_images=LIMITS)
    guess = (np.float64(parts.auxiliary.images) / 255).mean(axis=0)
    for part, column in [("test", "psnr_db_mean"), ("validation", "validation_psnr_db_mean")]:
        images = np.float64(getattr(parts, part).images) / 255
        values = [peak_signal_noise_ratio(image, guess, data_range=1.0) for image in images]
        # The mean image and its errors are float32 there.
        assert float(mean_image[column]) == pytest.approx(np.mean(values), abs=1e-4)
        if part == "test":
            assert float(mean_image["psnr_db_max"]) == pytest.approx(max(values), abs=1e-4)


def test_risk_is_told_from_the_values_per_image(finished, test_data_dir):
    rows = table(finished.config.workdir, "risk.csv")
    parts = load_parts("photo_patches", data_dir=test_data_dir, image_size=SIZE, max_images=LIMITS)
    guess = (np.float64(parts.auxiliary.images) / 255).mean(axis=0)
    truth = np.float64(parts.test.images) / 255
    baseline = [peak_signal_noise_ratio(image, guess, data_range=1.0) for image in truth]
    for row, result in zip(rows, finished.done.results, strict=True):
        arrays = finished.done.store.load_arrays(result.name)
        values = arrays[f"{result.strongest.attacker}_psnr_db"]
        assert row["attacker"] == result.strongest.attacker
        assert float(row["psnr_db_p99"]) == pytest.approx(np.percentile(values, 99), abs=1e-4)
        assert float(row["gain_db_mean"]) == pytest.approx(np.mean(values - baseline), abs=1e-4)
        assert float(row["gain_db_max"]) == pytest.approx(np.max(values - baseline), abs=1e-3)
        alike, found = (arrays[f"{row['attacker']}_{name}"] for name in ("haarpsi", "identified"))
        assert float(row["haarpsi_mean"]) == pytest.approx(alike.mean())
        assert float(row["identified"]) == pytest.approx(found.mean())
        assert alike.shape == found.shape == (int(row["identified_among"]),) == (20,)
    of_classes = table(finished.config.workdir, "risk_classes.csv")
    assert sum(int(row["images"]) for row in of_classes) == 20 * len(rows)
    assert {row["class"] for row in of_classes} <= set(parts.class_names)


def test_lost_tables_are_made_anew_and_nothing_is_trained(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(characterisation, "_run_missing", None)  # would fail when called
    workdir = Path(shutil.copytree(finished.config.workdir, tmp_path / "run"))
    for name in ("risk.csv", "risk_classes.csv", "test_pictures.npz"):
        (workdir / name).unlink()
    config = dataclasses.replace(finished.config, workdir=workdir)
    characterise(config)
    assert table(workdir, "risk.csv") == table(finished.config.workdir, "risk.csv")
    path = next((workdir / "cells").glob("*.json"))
    content = json.loads(path.read_text())
    del content["attacks"][0]["psnr_db"]["p99"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="another version of privynet_jax made it, characterise"):
        characterise(config)


def test_example_images_are_of_different_classes(finished, test_data_dir):
    parts = load_parts("photo_patches", data_dir=test_data_dir, image_size=SIZE, max_images=LIMITS)
    labels = [
        int(parts.test.labels[np.all(parts.test.images == example, axis=(1, 2, 3))][0])
        for example in finished.done.examples
    ]
    assert len(set(labels)) == len(labels) == 2


def test_a_draw_of_everything_is_shown_first(tmp_path, test_data_dir, monkeypatch):
    monkeypatch.setattr(characterisation, "_REFRESHED_EVERY", 1e6)  # at ends of rounds alone
    config, shown = config_in(tmp_path, test_data_dir, draws=2), []

    def look(done):
        shown.append((done.results, table(config.workdir, "results.csv")))

    done = characterise(config, look)
    # The two cells of the first group, as soon as they are there, and then the first round.
    assert [len(results) for results, _ in shown] == [2, 4]
    results, rows = shown[-1]
    cells = [cell for cell in config.cells() if cell.draw == 0]
    assert [each.name for each in results] == [cell.name for cell in cells]
    # What comes later changes nothing in it.
    assert [each for each in done.results if each.draw == 0] == results
    assert [row for row in table(config.workdir, "results.csv") if row["draw"] == "0"] == rows


def test_more_draws_go_on_where_fewer_ended(finished, tmp_path, monkeypatch):
    workdir = Path(shutil.copytree(finished.config.workdir, tmp_path / "run"))
    fewer = dataclasses.replace(finished.config, workdir=workdir)
    monkeypatch.setattr(executors, "reference_rows", None)  # would fail when called
    before = {path: path.read_bytes() for path in (workdir / "cells").iterdir()}
    done = characterise(dataclasses.replace(fewer, draws=2))
    assert len(list((workdir / "cells").iterdir())) == 2 * len(before)
    assert before == {path: path.read_bytes() for path in before}
    assert [each for each in done.results if each.draw == 0] == finished.done.results
    with pytest.raises(UserError, match="draws was 2 and is now 1"):
        characterise(fewer)


@pytest.mark.usefixtures("no_training")
def test_running_again_does_nothing_new(finished):
    before = all_tables(finished.config.workdir)
    again = characterise(finished.config)
    assert again.results == finished.done.results
    assert all_tables(finished.config.workdir) == before


def test_only_what_was_deleted_is_done_again(finished, tmp_path, monkeypatch):
    workdir = Path(shutil.copytree(finished.config.workdir, tmp_path / "run"))
    before, asked = all_tables(workdir), []
    [lost] = [cell for cell in finished.config.cells() if cell.name == "m04_d003_r00"]
    (workdir / "cells" / f"{lost.name}.json").unlink()
    really = characterisation._run_missing

    def recorded(run, *arguments):
        asked.extend(run.missing)
        really(run, *arguments)

    monkeypatch.setattr(characterisation, "_run_missing", recorded)
    monkeypatch.setattr(executors, "reference_rows", None)  # would fail when called
    characterise(dataclasses.replace(finished.config, workdir=workdir))
    assert asked == [lost]
    assert all_tables(workdir) == before


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"attacker": Schedule(steps=9, batch_size=8)}, "attacker was .*'steps': 2"),
        ({"max_images": {**LIMITS, "test": 19}}, "data_fingerprint was"),
        ({"depths": (2, 5)}, r"depths was \[2, 3\] and is now \[2, 5\]"),
    ],
    ids=["seed", "schedule", "data", "depths"],
)
def test_a_work_directory_of_other_settings_is_refused(finished, change, named):
    before = all_tables(finished.config.workdir)
    with pytest.raises(UserError, match=rf"made with other settings: .*{named}.*a new folder as"):
        characterise(dataclasses.replace(finished.config, **change))
    assert all_tables(finished.config.workdir) == before


@pytest.mark.usefixtures("no_training")
def test_settings_that_change_no_number_are_accepted(finished):
    # In another order; and how the work is spread is no property of the numbers.
    changed = dataclasses.replace(
        finished.config,
        layers=(4, 2),
        depths=(3, 2),
        steps_per_dispatch=1,
        cells_per_device=1,
    )
    assert characterise(changed).results == finished.done.results


@pytest.fixture(
    scope="module", params=[pytest.param("amortised", marks=pytest.mark.slow), "linear"]
)
def estimated(request, finished, test_data_dir, tmp_path_factory):
    """A run of one layer's cells without training any, but with 2 draws instead of 1."""
    config = config_in(
        tmp_path_factory.mktemp(request.param),
        test_data_dir,
        layers=LAYERS[:1],
        draws=2,
        mode=request.param,
        attackers=(),  # the mode has its own
        scoring_images=8,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amortised, "POOL", 16)
        return config, characterise(config)


def test_estimates_fill_the_same_tables(estimated, finished):
    config, done = estimated
    found, dedicated = all_tables(config.workdir), all_tables(finished.config.workdir)
    assert [row.keys() for row in found["results"]] == [dedicated["results"][0].keys()] * 4
    channels = {row["channels"] for row in dedicated["results"] if row["num_layers"] == "2"}
    assert channels < {row["channels"] for row in found["results"]}
    assert [result.name for result in done.results] == [cell.name for cell in config.cells()]
    attackers = {"amortised": {"linear", "amortised"}, "linear": {"linear"}}[config.mode]
    knowledge = {row["attacker"]: row["knowledge"] for row in found["attacks"]}
    assert set(knowledge) == attackers
    assert knowledge["linear"] == "pairs"
    assert knowledge.get("amortised") in (None, "pairs, all channels")
    networks = config.workdir / "networks"
    kept = [path.name for path in sorted(networks.iterdir())] if networks.exists() else []
    both = ["layer_02_attacker", "layer_02_cloud"]
    assert kept == (both if config.mode == "amortised" else [])


def test_estimates_continue_where_they_were_stopped(estimated, tmp_path, monkeypatch):
    config, _ = estimated
    workdir = Path(shutil.copytree(config.workdir, tmp_path / "run"))
    before = all_tables(workdir)
    for name in ("m02_d003_r01", "m02_d002_r00"):
        (workdir / "cells" / f"{name}.json").unlink()
    monkeypatch.setattr(amortised, "train", None)  # would fail when called
    characterise(dataclasses.replace(config, workdir=workdir))
    assert all_tables(workdir) == before
