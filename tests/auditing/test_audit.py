"""An audit: whom it lets attack, for how long and with what seed, and that the worst decides."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from support import small_audit

from experiments.reporting.promises import audited as audited_finding
from privynet_jax.attacks.base import Knowledge
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.scenario import make_scenario, score
from privynet_jax.attacks.tuning import Budget
from privynet_jax.auditing import audit as auditing
from privynet_jax.auditing.audit import AuditSettings, audit_plan
from privynet_jax.auditing.findings import (
    BROKEN,
    INCONCLUSIVE,
    KEPT,
    Attacked,
    Audit,
    Finding,
)
from privynet_jax.auditing.fresh_attackers import longer_config
from privynet_jax.characterisation.grid_run import protocol_of
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Part
from privynet_jax.images.sample import digest_of
from privynet_jax.mechanisms.noises import GaussianNoise
from privynet_jax.planning import plan as planning
from privynet_jax.planning.plan import LIMITS, Limits, costs_of
from privynet_jax.platform.signals import Terminated
from privynet_jax.results.cells import Cell, Measurement, training_key
from privynet_jax.results.latencies import Latencies, Latency
from privynet_jax.results.statistics import Distribution, Interval, summarise
from privynet_jax.training.models.attackers import capacities_of_size

SEED, REPEATS = small_audit.PARTS_SEED, 2


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return AuditSettings(cache, SEED, REPEATS, training=0.004, attacked_images=3)


@pytest.mark.parametrize(
    "given",
    [
        *(
            {name: value for name, value in small_audit.SETTINGS.items() if name != missing}
            for missing in ("cloud", "attackers", "attacker_width")
        ),
        {**small_audit.SETTINGS, "cloud": {"steps": 2, "warmth": 3}},
        {**small_audit.SETTINGS, "attacker": {"steps": "many"}},
    ],
)
def test_a_plan_must_say_how_its_characterisation_trained(
    audited_plan, audited_parts, vgg_weights, settings, given
):
    unknown = dataclasses.replace(audited_plan, characterised={"settings": given})
    with pytest.raises(UserError, match="does not say how its characterisation trained; plan aga"):
        audit_plan(unknown, audited_parts, vgg_weights, settings)


def test_what_cannot_be_audited_is_refused(audited_plan, audited_parts, vgg_weights, settings):
    own = dataclasses.replace(settings, seed=small_audit.SETTINGS["seed"])
    with pytest.raises(UserError, match="seed 0 is the characterisation's own; give another"):
        audit_plan(audited_plan, audited_parts, vgg_weights, own)
    others = dataclasses.replace(audited_plan, weights_fingerprint="ab" * 32)
    with pytest.raises(UserError, match="the plan was made with ab"):
        audit_plan(others, audited_parts, vgg_weights, settings)
    with pytest.raises(UserError, match="attackers names magic; allowed are mean image, linear"):
        dataclasses.replace(settings, attackers=("magic",))


@pytest.mark.parametrize(
    "given",
    [{"repeats": 0}, {"attacked_images": -1}, *({"training": x} for x in (0.0, -1.0, math.nan))],
)
def test_an_audit_of_nothing_is_refused(settings, given):
    with pytest.raises(UserError, match=r"allowed are (1 or more repeats and 0|positive numbers)"):
        dataclasses.replace(settings, **given)


def test_a_number_that_is_unknown_keeps_no_limit_and_can_be_written(tmp_path):
    assert Finding("latency_ms", 5.0, None, math.nan).verdict == INCONCLUSIVE
    # Of several labels none of which differs among the test pictures.
    findings = (Finding("balanced_accuracy", None, 0.5, math.nan),)
    Audit(findings, "folder:mine", {"test": 1}, 3, 2, 10, "pairs").write(tmp_path / "audit.json")
    [written] = json.loads((tmp_path / "audit.json").read_text())["findings"]
    assert (written["found"], written["verdict"]) == (None, KEPT)


def test_too_few_pictures_are_refused_before_features_are_extracted(
    audited_plan, audited_parts, vgg_weights, settings, monkeypatch
):
    monkeypatch.setattr(auditing, "make_scenario", None)
    two = Part(audited_parts.auxiliary.images[:2], np.arange(2))
    few = dataclasses.replace(audited_parts, auxiliary=two)
    with pytest.raises(UserError, match="given 2 pairs; allowed are 3 or more"):
        audit_plan(audited_plan, few, vgg_weights, settings)


class Measured:
    """In the place of `measure`: answers with values of its own, and keeps what it was asked."""

    def __init__(self, psnr_db):
        self.psnr_db, self.asked = psnr_db, []

    def __call__(self, cells, scenes, protocol, seed):
        self.asked.append((cells, scenes, protocol, seed))
        reports = {
            attack.name: {"knowledge": attack.knowledge, "converged": np.True_, "steps": 7}
            for attack in protocol.attacks
        }
        return [
            Measurement(
                cell=cell,
                accuracy={"test": np.float32([1, 0, cell.draw, 0])},
                labels={"test": np.array([0, 1, 1, 1])},
                attacks={
                    attack.name: {"test": self.quality(attack, cell, scenes[0], protocol)}
                    for attack in protocol.attacks
                },
                examples={},
                seconds=0.0,
                reports=reports,
            )
            for cell in cells
        ]

    def quality(self, attack, cell, scene, protocol):
        rows = protocol.rows(attack)["test"]
        count = len(scene.parts.test if rows is None else rows)
        values = np.full(count, float(self.psnr_db[attack.name][cell.draw]))
        return {"psnr_db": values, "ssim": 0.01 * values}


@pytest.fixture
def audited(audited_plan, audited_parts, vgg_weights, settings, monkeypatch):
    """Audits with invented measurements; returns the audit and what was asked."""

    def run(psnr_db, attackers=(), released=(), **changes):
        measured = Measured(psnr_db)
        monkeypatch.setattr(auditing, "measure", measured)
        latency = Finding("latency_ms", None, None, 2.5)
        monkeypatch.setattr(auditing, "_measured_latency", lambda plan, latencies: latency)
        plan = dataclasses.replace(audited_plan, **changes)
        chosen = dataclasses.replace(settings, attackers=attackers, released=released)
        return audit_plan(plan, audited_parts, vgg_weights, chosen), measured.asked

    return run


def test_the_characterisation_s_networks_are_trained_longer_with_another_seed(
    audited, audited_plan, audited_parts
):
    _, [(cells, scenes, protocol, seed)] = audited({"linear": (9, 9), "residual": (8, 8)})
    assert cells == [Cell(audited_plan.topology, 0), Cell(audited_plan.topology, 1)]
    assert len(scenes) == 2
    assert seed == SEED
    assert (protocol.schedule.steps, protocol.schedule.batch_size) == (1, 8)
    assert protocol.cloud.num_classes == 2
    [linear, residual] = protocol.attacks
    assert (linear.name, residual.name) == ("linear", "residual")
    assert residual.training.budget == Budget(4, None, 32)
    [capacity] = residual.capacities
    assert capacity.network.keywords == {"width": 8, "num_blocks": 1}
    assert protocol.attacked is None
    assert not len(protocol.examples)


def test_the_attacker_that_a_plan_was_measured_by_attacks_again(audited):
    measured = planning.Measured("public", 15.0, 0.5, images=64, draws=1)
    psnr_db = {"linear": (9, 9), "residual": (8, 8), "public": (16, 15)}
    found, _ = audited(psnr_db, measured=measured)
    assert found.stronger == ("public",)
    assert found.findings[0].found == 16
    assert found.findings[0].attacker == "public"


def test_a_plan_with_a_mechanism_is_audited_under_it(audited, audited_parts, audited_plan):
    words = "gaussian:clip=1,sigma=2"
    known = {"settings": {**small_audit.SETTINGS, "mechanism": words}}
    measured = planning.Measured("informed", 9.0, 0.4, images=64, draws=1)
    psnr_db = {"linear": (9, 9), "residual": (8, 8), "informed": (10, 11)}
    changes = {"mechanism": words, "epsilon": 50.0, "characterised": known, "measured": measured}
    limits = Limits(psnr_db=14.0, epsilon=40.0)
    found, [(_, scenes, _, _)] = audited(psnr_db, limits=limits, **changes)
    by_name = {finding.what: finding for finding in found.findings}
    assert by_name["psnr_db"].attacker == "informed"
    # Computed anew, of 16 * 16 * 3 values, whatever the plan says.
    epsilon = by_name["epsilon"]
    assert (epsilon.expected, epsilon.verdict) == (50.0, BROKEN)
    assert epsilon.found == pytest.approx(GaussianNoise(1.0, 2.0).epsilon(16 * 16 * 3))
    assert audited_finding(dataclasses.asdict(epsilon) | {"verdict": BROKEN})["limit"] == "40"
    assert [str(scene.release.mechanism) for scene in scenes] == [words] * 2
    one, other = (scene.representations("test") for scene in scenes)
    assert one.min() < 0
    assert (one != other).mean() > 0.99  # each repeat has a release of its own
    with pytest.raises(UserError, match="guesses no channels; leave it out: informed knows them"):
        audited(psnr_db, ("public",), **changes)
    with pytest.raises(UserError, match="has the mechanism none, the plan gaussian:clip=1,sigma=2"):
        audited(psnr_db, released=(audited_plan,), **changes)


def test_a_linear_characterisation_is_audited_with_the_usual_network(audited):
    linear = {"settings": {**small_audit.SETTINGS, "attackers": [], "mode": "linear"}}
    found, _ = audited({"linear": (9, 9), "strong": (12, 12)}, characterised=linear)
    assert found.stronger == ("strong",)
    # Like is compared with like: the plan expected 12 dB of linear attacks, which reached 9.
    assert found.difference_db == -3


def test_a_linear_characterisation_keeps_the_usual_network_beside_what_measured(audited_plan):
    settings = {**small_audit.SETTINGS, "attackers": [], "mode": "linear"}
    measured = planning.Measured("public", 15.0, 0.5, images=64, draws=1)
    plan = dataclasses.replace(
        audited_plan, characterised={"settings": settings}, measured=measured
    )
    assert longer_config(plan, seed=9, training=1).attackers == ("strong", "public")


def test_the_worst_of_attackers_and_repeats_decides(audited, audited_plan, audited_parts):
    psnr_db = {"linear": (10, 10), "strong": (12, 13), "white box": (11, 14)}
    limits = Limits(psnr_db=14.0, ssim=0.13, statistic="p95")
    found, asked = audited(psnr_db, ("white box", "strong"), limits=limits)
    # Images that are optimised one by one are few, and of all classes.
    [(_, _, protocol, _)] = asked
    assert protocol.attacked is None
    assert len(protocol.optimised["test"]) == 3
    assert len(np.unique(audited_parts.test.labels[protocol.optimised["test"]])) == 2

    by_name = {finding.what: finding for finding in found.findings}
    known = (name for name in LIMITS if name != "epsilon")  # there is no noise
    assert tuple(by_name) == (*known, "accuracy", "balanced_accuracy", "commonest_class_share")
    doubts = by_name["psnr_db"].doubts
    worst = Finding("psnr_db", 14.0, 12.0, 14.0, "white box", 3, doubts)
    assert by_name["psnr_db"] == worst
    assert by_name["ssim"] == Finding("ssim", 0.13, 0.3, pytest.approx(0.14), "white box", 3)
    # One limit is not exceeded, the other just is; what has no limit breaks nothing.
    verdicts = {name: f.verdict for name, f in by_name.items() if f.verdict != KEPT}
    assert verdicts == {"psnr_db": INCONCLUSIVE, "ssim": BROKEN}
    assert found.verdict == BROKEN
    # Each attacker's sources are too few, told once for both repeats, and the pairs are.
    assert ["white box: its 3 attacked images are of 3 sources" in doubt for doubt in doubts] == [
        *(False, False, True, False)
    ]
    pairs = len(audited_parts.auxiliary)
    assert doubts[-1] == f"attackers had {pairs} pairs; 1000 are needed"
    for name, cost in costs_of(audited_plan.topology, audited_plan.image_size).items():
        assert by_name[name] == Finding(name, None, None, cost)
    assert by_name["latency_ms"] == Finding("latency_ms", None, None, 2.5)
    # Means of 1/4 and 2/4 right, in the two repeats.
    assert by_name["accuracy"] == Finding("accuracy", None, 0.5, 0.375)
    # One class is always right, of the other none and 1/3.
    balanced = Finding("balanced_accuracy", None, 0.45, pytest.approx((1 / 2 + 2 / 3) / 2))
    share = Finding("commonest_class_share", None, 0.5, 0.75)
    assert list(by_name.values())[-2:] == [balanced, share]

    assert [(each.attacker, each.repeat) for each in found.attacks] == [
        *(("linear", 0), ("strong", 0), ("white box", 0)),
        *(("linear", 1), ("strong", 1), ("white box", 1)),
    ]
    assert [each.psnr_db.p95 for each in found.attacks] == [10, 12, 11, 10, 13, 14]
    assert {each.converged for each in found.attacks} == {True}
    assert (found.knowledge, found.stronger) == ("everything", ("strong", "white box"))
    assert found.difference_db is None  # the characterisation's residual network was not tried
    assert (found.repeats, found.attacker_steps, found.data) == (2, 4, audited_parts.name)
    assert found.images == {name: len(part) for name, part in audited_parts.items()}


def test_attackers_hold_what_was_released_before(audited, audited_plan, vgg_weights, settings):
    other = small_audit.plan(
        vgg_weights,
        selection=dataclasses.replace(audited_plan.selection, seed="d8" * 32),
    )
    assert other.topology != audited_plan.topology
    union = {*audited_plan.topology.channels, *other.topology.channels}
    found, asked = audited({"linear": (9, 9), "residual": (8, 8)}, released=(other, audited_plan))
    of_cloud, attacked = asked
    for (cells, scenes, *_), channels in zip(
        asked, (set(audited_plan.topology.channels), union), strict=True
    ):
        assert {frozenset(cell.topology.channels) for cell in cells} == {frozenset(channels)}
        assert set(scenes[0].topology.channels) == channels
        assert scenes[0].stored("test").shape[-1] == len(channels)
    assert (of_cloud[2].attacks, attacked[2].cloud) == ((), None)
    assert (found.earlier_releases, found.channels_held) == (2, len(union))
    # Nobody expected what attackers make of more channels than the plan's.
    assert found.difference_db is None
    assert {f.what: f.found for f in found.findings}["accuracy"] == 0.375


def test_releases_that_do_not_go_together_are_refused(
    audited_plan, audited_parts, vgg_weights, settings
):
    deeper = dataclasses.replace(audited_plan, weights_fingerprint="ab" * 32)
    chosen = dataclasses.replace(settings, released=(deeper,))
    with pytest.raises(UserError, match=r"weights abababab .* attackers who hold two layers"):
        audit_plan(audited_plan, audited_parts, vgg_weights, chosen)


def test_pictures_that_the_planner_saw_are_not_used(audited, audited_parts):
    seen = (
        *map(digest_of, audited_parts.test.images[:2]),
        digest_of(audited_parts.target.images[0]),
    )
    found, asked = audited({"linear": (9, 9), "residual": (8, 8)}, sample=seen)
    assert (found.left_out, found.images["test"]) == (3, len(audited_parts.test) - 2)
    [(_, scenes, _, _)] = asked
    np.testing.assert_array_equal(scenes[0].parts.test.images, audited_parts.test.images[2:])


def test_an_audit_leaves_no_features_behind(
    audited_plan, audited_parts, vgg_weights, settings, monkeypatch, tmp_path
):
    """They tell the plan's channels, and show the pictures: not even a stop leaves them."""

    def stopped(cells, scenes, *_):
        assert len(scenes[0].representations("test"))
        [folder] = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        raise Terminated

    monkeypatch.setattr(auditing, "measure", stopped)
    chosen = dataclasses.replace(settings, cache_dir=tmp_path)
    with pytest.raises(Terminated):
        audit_plan(audited_plan, audited_parts, vgg_weights, chosen)
    assert not list(tmp_path.iterdir())


def test_each_repeat_finds_what_it_would_find_alone(
    audited_plan, audited_parts, vgg_weights, settings
):
    found = audit_plan(
        audited_plan,
        audited_parts,
        vgg_weights,
        dataclasses.replace(settings, attackers=("residual",)),
    )
    scene = make_scenario(
        vgg_weights, audited_parts, audited_plan.topology, settings.cache_dir, dtype="float16"
    )
    training = Training(Budget(4, None, 32), capacities=capacities_of_size(8, 1))
    for attack in named_attacks(("linear", "residual"), training):
        for repeat in range(REPEATS):
            key = training_key(Cell(audited_plan.topology, repeat), SEED)
            quality = score(*attack.fit([scene.pairs()], [Knowledge()], [key]), scene)
            [own] = [
                each
                for each in found.attacks
                if (each.attacker, each.repeat) == (attack.name, repeat)
            ]
            # Four steps of float32, whose sums two devices take in another order.
            assert own.psnr_db.mean == pytest.approx(summarise(quality["psnr_db"]).mean, abs=1e-3)
            assert own.ssim.p95 == pytest.approx(summarise(quality["ssim"]).p95, abs=1e-4)
    losses = [each.psnr_db.mean for each in found.attacks if each.attacker == "residual"]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_the_real_white_box(audited_plan, audited_parts, vgg_weights, settings, monkeypatch):
    """Noise of 16 x 16 pixels and three channels of layer 2: it is better than its start."""
    names = ("residual", "white box from residual")
    chosen = dataclasses.replace(settings, attackers=names, repeats=1, attacked_images=0)

    def with_fewer_steps(config, parts):
        protocol = protocol_of(config, parts)
        *others, white_box = protocol.attacks
        shorter = dataclasses.replace(white_box, steps=40, tuning_images=6)
        return dataclasses.replace(protocol, attacks=(*others, shorter))

    monkeypatch.setattr(auditing, "protocol_of", with_fewer_steps)
    found = audit_plan(audited_plan, audited_parts, vgg_weights, chosen)
    network, matched = found.attacks[-2:]
    assert (matched.attacker, matched.knowledge) == (names[1], "everything")
    assert 0 < network.psnr_db.mean + 0.5 < matched.psnr_db.mean < 60  # by 1.3 dB
    assert np.isfinite(matched.ssim.max)


@pytest.mark.parametrize(
    ("limit", "found", "verdict"),
    [(None, 99.0, KEPT), (20.0, 20.0, KEPT), (20.0, 20.001, BROKEN)],
)
def test_a_promise_is_a_limit(limit, found, verdict):
    assert Finding("psnr_db", limit, 18.0, found).verdict == verdict
    doubted = Finding("psnr_db", limit, 18.0, found, doubts=("few",))
    assert doubted.verdict == (INCONCLUSIVE if (limit, verdict) == (20.0, KEPT) else verdict)


@pytest.mark.parametrize(
    ("changes", "metric", "doubts"),
    [
        ({}, "psnr_db", []),
        ({"sources": 29}, "psnr_db", ["of 29 sources"]),
        (
            {"upper": {"psnr_db": 25.1, "ssim": 0.2}},
            "psnr_db",
            ["over 30 sources reaches 25.1"],
        ),
        ({"converged": False}, "psnr_db", ["had not converged"]),
        ({"converged": False}, "ssim", ["had not converged"]),
        # What ten times the training may reach decides, where it is known: of PSNR.
        ({"converged": False, "gain_db": Interval(1.0, 0.5, 3.0)}, "psnr_db", []),
        ({"converged": False, "gain_db": Interval(1.0, 0.5, 3.1)}, "psnr_db", ["may reach 25.1"]),
        ({"converged": False, "gain_db": Interval(1.0, 0.5, 3.0)}, "ssim", ["had not converged"]),
        ({"converged": True, "gain_db": Interval(1.0, 0.5, 9.0)}, "psnr_db", []),
        # Class public's reaches from 0; far below the limit even its upper end decides nothing.
        ({"converged": False, "gain_db": Interval(1.7, 0.0, 2.9)}, "psnr_db", []),
        ({"converged": False, "gain_db": Interval(1.7, 0.0, 4.1)}, "psnr_db", ["may reach 26.1"]),
    ],
)
def test_what_leaves_an_attacker_s_finding_open(changes, metric, doubts):
    psnr_db, ssim = (Distribution(*[value] * 5) for value in (22.0, 0.1))
    usual = {"sources": 30, "upper": {"psnr_db": 25.0, "ssim": 0.2}, **changes}
    usual = {"converged": True, **usual}
    attacked = Attacked("strong", "pairs", 0, 8, 64, psnr_db, ssim, **usual)
    found = attacked.doubts(metric, "mean", {"psnr_db": 25.0, "ssim": 0.3}[metric])
    assert len(found) == len(doubts)
    assert all(text.startswith("strong: ") for text in found)
    assert all(why in text for why, text in zip(doubts, found, strict=True))


@pytest.mark.parametrize(
    ("statistic", "sources", "doubt"),
    [
        *(("mean", 30, None), ("p95", 99, "100 are needed"), ("p95", 100, None)),
        *(("p99", 499, "500 are needed"), ("p95", 99, "100 are needed")),
    ],
)
def test_high_percentiles_take_more_sources(statistic, sources, doubt):
    loss, upper = Distribution(*[20.0] * 5), {"psnr_db": 20.0, "ssim": 0.1}
    attacked = Attacked("strong", "pairs", 0, 8, sources, loss, loss, True, sources, upper)
    found = attacked.doubts("psnr_db", statistic, 25.0)
    assert found == [] if doubt is None else doubt in found[0]


def test_an_audit_is_written_whole(tmp_path):
    findings = (
        Finding("psnr_db", 20.0, 18.0, 21.5, "tuned", 5),
        Finding("accuracy", None, 0.5, 0.25),
    )
    flat = dict.fromkeys(("mean", "median", "p95", "p99", "max"), 21.5)
    loss, upper = Distribution(**flat), {"psnr_db": 22.5, "ssim": 22.5}
    attack = Attacked("tuned", "pairs", 0, 8, 5, loss, loss, False, 4, upper)
    given = (findings, "folder:mine", {"test": 8}, 3, 2, 40, "pairs", (attack,), ("tuned",), 1.5)
    Audit(*given).write(tmp_path / "audit.json")
    assert json.loads((tmp_path / "audit.json").read_text()) == {
        "findings": [
            {
                **{"what": "psnr_db", "limit": 20.0, "expected": 18.0, "found": 21.5},
                **{"attacker": "tuned", "images": 5, "doubts": [], "verdict": BROKEN},
            },
            {
                **{"what": "accuracy", "limit": None, "expected": 0.5, "found": 0.25},
                **{"attacker": None, "images": None, "doubts": [], "verdict": KEPT},
            },
        ],
        **{"data": "folder:mine", "images": {"test": 8}, "left_out": 3, "repeats": 2},
        **{"attacker_steps": 40, "knowledge": "pairs", "stronger": ["tuned"], "verdict": BROKEN},
        **{"difference_db": 1.5, "earlier_releases": 0, "channels_held": 0},
        "attacks": [
            {
                **{"attacker": "tuned", "knowledge": "pairs", "repeat": 0, "steps": 8},
                **{"images": 5, "converged": False, "psnr_db": flat, "ssim": flat},
                **{"sources": 4, "upper": upper, "gain_db": None},
            }
        ],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["audit.json"]
    assert (tmp_path / "audit.json").stat().st_mode & 0o777 == 0o600


def test_latency_is_the_device_s_or_in_doubt(audited_plan):
    """A plan for a phone says nothing kept that was measured here."""
    limits = dataclasses.replace(audited_plan.limits, latency_ms=20.0)
    plan = dataclasses.replace(audited_plan, limits=limits, latency_ms=15.0, latency_on="a phone")
    found = auditing._measured_latency(plan, None)
    assert (found.limit, found.expected) == (20.0, 15.0)
    assert found.verdict == (INCONCLUSIVE if found.found <= 20 else BROKEN)
    assert re.search(r"is of a phone, and this one of .*; give --latency", found.doubts[0])
    m, depth = plan.topology.num_layers, plan.topology.depth
    known = Latencies("a phone", "vgg16", plan.image_size, (Latency(m, depth, 14.0),))
    found = auditing._measured_latency(plan, known)
    assert (found.found, found.verdict, found.doubts) == (14.0, KEPT, ())
    # Nobody limits it, and nobody asks; or somebody has measured.
    assert auditing._measured_latency(audited_plan, None) is None
    found = auditing._measured_latency(audited_plan, known)
    assert (found.limit, found.doubts) == (None, ())
