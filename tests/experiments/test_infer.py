"""The command that runs all inference attacks, on as little as can be."""

import csv
import functools

import pytest
from support.commands import refused

from experiments import infer
from privynet_jax.errors import UserError


@pytest.fixture
def command(run_command):
    """Runs the command; returns status, output and error."""
    return functools.partial(run_command, infer)


def places(config):
    return f"--cache_dir={config.cache_dir}", f"--data_dir={config.data_dir}"


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_all_attacks_on_the_first_draws(tiny_run, tmp_path, command):
    out = tmp_path / "inference.csv"
    status, output, _ = command(
        f"--workdir={tiny_run.workdir}",
        f"--out={out}",
        *places(tiny_run),
        "--attributes=class",
        "--candidates=2,20",
        "--queries=5",
        "--shadows=2",
        "--network_steps=1",
        "--rebuilding_steps=1",
        "--attackers=mean image",
    )
    assert not status
    rows = table(out)
    # One attribute by two classifiers, of representations and of reconstructions; three ways, two
    # numbers of candidates and three numbers each; ten scores of membership with two numbers each.
    # Each test image is of a source of its own, so no other picture tells which.
    attacks = ["attribute"] * 4 + ["reidentification"] * 18 + ["membership"] * 20
    assert [row["attack"] for row in rows] == 2 * attacks
    cells = [(row["num_layers"], row["depth"], row["draw"]) for row in rows]
    assert cells == [("2", "3", "0")] * 42 + [("4", "3", "0")] * 42
    for row in rows:
        assert float(row["low"]) <= float(row["value"]) + 1e-9
        assert float(row["value"]) <= float(row["high"]) + 1e-9
        assert row["variant"] in output
    known = [row for row in rows if "local NN known" in row["variant"]]
    assert {float(row["value"]) for row in known} == {1.0}
    assert {row["knowledge"] for row in known} == {"everything"}
    top1 = [row for row in rows if row["number"] == "top-1 rate"]
    assert [float(row["chance"]) for row in top1] == [0.5, 0.05] * 6
    assert [bool(row["reference"]) for row in rows] == 2 * ([True] * 4 + [False] * 38)
    rebuilt = [row for row in rows if "from a reconstruction by" in row["variant"]]
    assert [(row["attack"], row["knowledge"]) for row in rebuilt] == [("attribute", "pairs")] * 4
    assert f"The table is in {out}" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out={folder}/x.csv"], "no --workdir is given"),
        (["--workdir={run}", "--candidates=21"], "whole numbers from 2 to 20"),
        (["--workdir={run}", "--candidates=9,9"], "--candidates repeats [9]"),
        (["--workdir={run}", "--attributes=feature:NOPE"], "no whole number 'NOPE'"),
        (["--workdir={run}", "--max_images=test=9"], "--max_images means nothing to this command"),
        (["--workdir={run}", "--out={folder}"], "must be a file in a folder that exists"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    tiny_run, tmp_path, command, monkeypatch, arguments, message
):
    monkeypatch.setattr(infer, "load_features", None)  # nothing is computed
    given = [text.format(run=tiny_run.workdir, folder=tmp_path) for text in arguments]
    done = command(*given, *places(tiny_run))
    refused((done.status, done.output, done.error.splitlines()[-1] + "\n"), message)
    assert "Traceback" not in done.error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--inferences=membership", "--candidates=1000"], infer.inference.Settings.candidates),
        (["--inferences=reidentification"], (20,)),
        (["--inferences=reidentification", "--candidates=2,7"], (2, 7)),
    ],
)
def test_candidates_are_those_asked_for_or_as_many_as_there_are(
    tiny_run, command, monkeypatch, arguments, expected
):
    seen = []

    def stop(parts, settings, *_):
        seen.append(settings.candidates)
        raise UserError("enough")

    monkeypatch.setattr(infer.inference, "Suite", stop)
    command(f"--workdir={tiny_run.workdir}", *places(tiny_run), *arguments)
    assert seen == [expected]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("attributes=smell", "attribute 'smell'"),
        ("attributes=class,class", "give one or more, each once"),
        ("candidates=few", "--candidates=few: expected whole numbers"),
        ("inferences=theft", "allowed are attribute, reidentification"),
        ("attackers=theft", "--attackers names theft; allowed are mean image, linear"),
        ("shadows=3", "allowed are even numbers"),
    ],
)
def test_names_and_numbers_are_checked_before_anything_is_read(
    tiny_run, command, monkeypatch, wrong, message
):
    monkeypatch.setattr(infer, "reopened", None)
    refused(command(f"--workdir={tiny_run.workdir}", f"--{wrong}"), message)
