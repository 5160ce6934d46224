"""The rehearsal: devices in processes of their own, a cloud, a thief; real pictures and weights."""

import csv
import re

import pytest
from support import package_samples as samples

from experiments import rehearsal
from privynet_jax.backbone.topology import Topology
from privynet_jax.deployment.cloud.classifier import open_classifier
from privynet_jax.deployment.trust.signatures import Trust
from privynet_jax.errors import UserError
from privynet_jax.planning.plan import write_plan


@pytest.fixture
def rehearse(run_command, monkeypatch, tmp_path, test_data_dir, vgg_weights, photo_parts):
    """Runs the command with three contributors and short trainings; returns what it prints."""
    settings = {"seed": 0, "attacker": {"steps": 4, "batch_size": 8}}
    plan = samples.plan(
        vgg_weights,
        Topology(2, (1, 5, 60)),
        32,
        class_names=photo_parts.class_names,
        characterised={"settings": settings},
    )
    write_plan(tmp_path / "plan.json", plan)
    real, ran = rehearsal._run, []

    def run(*command):
        ran.append([*map(str, command)])
        short = ["--steps=3", "--batch_size=8"] if "experiments.train_cloud" in ran[-1] else []
        return real(*command, *short)

    monkeypatch.setattr(rehearsal, "_run", run)
    for name in ("_CLOUD", "_THIEF"):  # the others have tests of their own
        monkeypatch.setattr(rehearsal, name, "linear")

    def call(*arguments):
        limits = "--max_images=target=150,auxiliary=96,validation=40,test=40"
        places = {
            "plan": tmp_path / "plan.json",
            "out": tmp_path / "out",
            "data_dir": test_data_dir,
        }
        places["cache_dir"] = test_data_dir / "weights"
        given = [f"--{name}={path}" for name, path in places.items()]
        given += [limits, "--contributors=3", "--attacked_images=12", "--images=photo_patches"]
        return run_command(rehearsal, *given, *arguments)

    call.ran = ran
    return call


@pytest.mark.slow
def test_the_whole_story_with_three_contributors(rehearse, tmp_path):
    status, out, err = rehearse("--signed")
    assert status == 0, err
    rows = list(csv.DictReader((tmp_path / "out" / "rehearsal.csv").open()))
    found = {row["what"]: float(row["value"]) for row in rows}
    assert found["contributors"] == 3
    assert 45 <= found["pictures each"] <= 50
    assert found["all releases"] > 150 * 16 * 16 * 3 * 2 / 2**20 * 0.9
    for name in ("extract", "train_cloud, all", "predict", "package", "classifier"):
        assert found[name] > 0
    assert 0 <= found["accuracy, one"] <= 100
    assert 5 < found["linear, mean"] < found["linear, p95"] < 60
    programs = [command for command in rehearse.ran if command[1].endswith("privynet.pyz")]
    assert [command[2] for command in programs] == ["extract"] * 3 + ["predict"] * 2
    # Each of its own package, whose seed for the order of rows nobody else has.
    assert len({command[1] for command in programs[:3]}) == 3
    assert len({(tmp_path / "out/packages" / n / "local_nn.json").read_bytes()
                for n in ("00", "01", "02")}) == 3  # fmt: skip
    # Everybody has keys of their own, and the cloud's classifier is what devices take.
    names = {path.stem for path in (tmp_path / "out" / "keys").iterdir()}
    assert names == {"planner", "cloud", "00", "01", "02"}
    with pytest.raises(UserError, match="is signed by"):
        open_classifier(tmp_path / "out" / "classifier-all", trust=Trust({}))
    # What was measured is not measured again.
    count = len(rehearse.ran)
    assert rehearse("--signed")[:2] == (0, out)
    assert len(rehearse.ran) == count


def test_more_contributors_than_pictures_are_refused(rehearse, tmp_path):
    status, _, err = rehearse("--contributors=400")
    assert status == 1
    assert re.fullmatch(
        r"error: --contributors=400, but 1\d\d pictures in .* are too few; .*\n", err
    )
    assert not (tmp_path / "out").exists()
