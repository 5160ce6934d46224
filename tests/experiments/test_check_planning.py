"""Episodes: whose limits, plans and audits make a row, and what follows from the rows."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image
from support import handmade_episodes, handmade_plan
from support import handmade_results as handmade
from support.commands import refused

from experiments import check_planning
from experiments.check_planning import verdict
from experiments.comparing.photograph_sources import photograph_sources
from privynet_jax.auditing.findings import Audit, Finding
from privynet_jax.errors import UserError
from privynet_jax.images.parts import load_parts
from privynet_jax.planning.plan import Measured
from privynet_jax.planning.topology_plan import NothingFitsError, Planned
from privynet_jax.results.work_directory import ResultStore

EXCESS_DB = 1.5


@pytest.fixture
def workdir(tmp_path):
    """Layer 2 loses 28 to 30 dB, layer 4 loses 18 to 20."""
    config = handmade.settings(layers=[2, 4], depths=[8, 16], draws=1)
    store = ResultStore.open(tmp_path / "run", config)
    for layers in (2, 4):
        for depth in (8, 16):
            attacks = (handmade.attack("strong", 36.0 - 5 * layers + depth / 4),)
            store.save(handmade.cell(layers, depth, 0, 0.5, attacks), {"a": np.ones(1)})
    return store.workdir


@pytest.fixture
def asked(monkeypatch):
    """Stands in for planning and auditing, which have tests of their own; what they were given."""
    asked = []

    def plan_topology(workdir, sample, limits, weights, settings):
        asked.append((sample, limits, settings))
        if sample == "folder:nothing":
            raise NothingFitsError("nothing fits", "")
        measured = Measured("public", limits.psnr_db - settings.margin_db, 0.5, 64, 2)
        if not settings.attacked_images:
            measured = None
        plan = dataclasses.replace(handmade_plan.plan(), measured=measured, limits=limits)
        return Planned(plan, "", (), 100)

    def audit_plan(plan, parts, weights, settings):
        assert settings.attackers == ("public",)
        assert settings.seed != plan.settings["seed"]
        reached = plan.measured.psnr_db if plan.measured else plan.limits.psnr_db
        found = {"psnr_db": reached + EXCESS_DB, "ssim": 0.4}
        findings = [Finding(name, None, None, value) for name, value in found.items()]
        accuracy = 0.6 if plan.measured and reached < plan.limits.psnr_db else 0.65
        findings.append(Finding("balanced_accuracy", None, 0.5, accuracy))
        return Audit(tuple(findings), "data", {}, 0, 1, 10, "network")

    monkeypatch.setattr(check_planning, "plan_topology", plan_topology)
    monkeypatch.setattr(check_planning, "audit_plan", audit_plan)
    monkeypatch.setattr(check_planning.cli, "load_data", lambda dataset, **settings: dataset)
    monkeypatch.setattr(check_planning.cli, "weights_of", lambda plan: None)
    return asked


def test_every_source_has_its_own_limit_and_channels_and_a_row_that_is_kept(
    run_command, workdir, asked, tmp_path
):
    out = tmp_path / "episodes"
    sources = ["folder:a", "folder:nothing", "folder:c"]
    given = (f"--workdir={workdir}", f"--out={out}")
    done = run_command(check_planning, *given, f"--sources={sources[0]}")
    assert done.status == 0, done.error
    done = run_command(check_planning, *given, f"--sources={','.join(sources)}")
    assert done.status == 0, done.error
    assert [sample for sample, *_ in asked] == sources  # the first was measured once
    limits = [limits.psnr_db for _, limits, _ in asked]
    # Of what is expected, 17.75 to 29.75 on validation images, with the margin of 2 dB.
    assert len(set(limits)) == 3
    assert all(19.7 <= limit <= 31.8 for limit in limits)
    assert len({settings.draw_seed for *_, settings in asked}) == 3
    rows = list(csv.DictReader((out / "episodes.csv").open()))
    assert [row["source"] for row in rows] == ["a", "nothing", "c"]
    assert {row["image_size"] for row in rows} == {"32"}
    assert float(rows[0]["audited_psnr_db"]) == pytest.approx(limits[0] - 2 + EXCESS_DB)
    assert rows[1]["measured_psnr_db"] == rows[1]["audited_psnr_db"] == ""
    assert "measured: 2 of 3 episodes had a plan; 2 kept their limit" in done.output
    assert "No margin follows yet: the episodes are of 2 sources" in done.output


def test_other_pictures_in_a_folder_are_another_source(run_command, workdir, asked, tmp_path):
    pictures = tmp_path / "a"
    pictures.mkdir()
    given = (f"--workdir={workdir}", f"--out={tmp_path / 'out'}", f"--sources=folder:{pictures}")
    for content, measured in ((b"one", 1), (b"one", 1), (b"other", 2)):
        (pictures / "1.png").write_bytes(content)
        assert run_command(check_planning, *given).status == 0
        assert len(asked) == measured


def test_other_rules_have_the_same_limits_and_draws_and_no_part_in_margins(
    run_command, workdir, asked, tmp_path
):
    given = (f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--sources=folder:a,folder:c")
    assert run_command(check_planning, *given).status == 0
    done = run_command(check_planning, *given, "--rules=marginless,expected,measured")
    assert done.status == 0, done.error
    ways = [(s.attacked_images, s.margin_db) for *_, s in asked]
    assert ways == [(64, 2.0)] * 2 + [(0, 2.0)] * 2 + [(64, 0.0)] * 2  # the first two are kept
    for same in (asked[::2], asked[1::2]):
        assert len({(limits.psnr_db, s.draw_seed) for _, limits, s in same}) == 1
    rows = list(csv.DictReader((tmp_path / "out" / "episodes.csv").open()))
    assert [row["rule"] for row in rows] == ["measured"] * 2 + ["expected"] * 2 + ["marginless"] * 2
    assert {row["measured_psnr_db"] for row in rows if row["rule"] == "expected"} == {""}
    assert "expected: 2 of 2 episodes had a plan; 0 kept their limit." in done.output
    assert "on the 2 sources that both have plans for: +0.050 [+0.050, +0.050]" in done.output
    assert "No margin follows yet: the episodes are of 2 sources" in done.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["no --sources and no --photographs are given"]),
        (["--sources=folder:x/a,folder:y/a"], ["give each a name of its own"]),
        (["--photographs=/no/such"], ["/no/such"]),
        (["--planned_margin_db=-1", "--sources=a"], ["--planned_margin_db=-1"]),
        (["--rules=best", "--sources=a"], ["--rules=best", "measured, expected, marginless"]),
    ],
)
def test_wrong_input(run_command, workdir, asked, tmp_path, arguments, expected):
    done = run_command(
        check_planning, f"--workdir={workdir}", f"--out={tmp_path / 'out'}", *arguments
    )
    refused(done, *expected)
    assert not (tmp_path / "out").exists()


def test_enough_episodes_call_for_a_margin(tmp_path):
    table = handmade_episodes.write(tmp_path / "episodes.csv", np.arange(30) / 10)
    text = verdict(table, "mean", 32)
    assert "30 of 30 episodes had a plan; 21 kept their limit" in text
    assert "margins of 2.90 dB and 0.250 SSIM" in text
    assert "30 of 30 sources needed no more, which proves at least 90 %" in text


def test_photographs_become_sources_of_two(tmp_path):
    photographs, stream = tmp_path / "photographs", np.random.default_rng(0)
    photographs.mkdir()
    for name in ("c", "a", "b", "e", "d"):
        pixels = stream.integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
        Image.fromarray(pixels * (name != "d")).save(photographs / f"{name}.png")
    sources = photograph_sources(photographs, tmp_path / "out" / "sources")
    # One shows nothing; of four there are two sources.
    assert [path.name for path in sources] == ["a+b", "c+e"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    assert photograph_sources(photographs, tmp_path / "out" / "sources") == sources
    parts = load_parts(f"folder:{sources[0]}", image_size=32, seed=0, data_dir=None)
    assert parts.class_names == ("a", "b")
    assert len(parts.test) == 160
    with pytest.raises(UserError, match=r"has patches of .*photographs, not of"):
        photograph_sources(tmp_path, tmp_path / "out" / "sources")
    shutil.copytree(photographs, photographs / "again")
    with pytest.raises(UserError, match="has two photographs called a; rename one of them"):
        photograph_sources(photographs, tmp_path / "others")
    shutil.rmtree(photographs / "again")
    for name in ("b", "c", "e"):
        (photographs / f"{name}.png").unlink()
    with pytest.raises(UserError, match="has 1 photographs with enough patches"):
        photograph_sources(photographs, tmp_path / "others")
