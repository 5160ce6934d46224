"""An audit: which pictures it uses, how long it trains, and that it reports the worst it finds."""

import dataclasses
import json

import numpy as np
import pytest
from support import small_audit

from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.characterisation import dedicated
from privynet_jax.errors import UserError
from privynet_jax.images.sample import digest_of
from privynet_jax.planning.audit import audited, settings_of_plan, without
from privynet_jax.planning.audit_findings import Attacked, Audit, Finding
from privynet_jax.planning.plan import LIMITS, Limits, costs_of
from privynet_jax.platform.devices import default_execution
from privynet_jax.results.cell_results import AttackResult
from privynet_jax.results.cells import Cell
from privynet_jax.results.statistics import Distribution
from privynet_jax.training.networks import attacker, cloud_nn
from privynet_jax.training.tasks import Schedule

SEED, REPEATS = small_audit.PARTS_SEED, 2


def digests_of(part, rows):
    return [digest_of(part.images[row]) for row in rows]


# Pictures that the planner saw.


def test_exactly_the_sample_is_left_out(audited_parts):
    rows = {"target": [0, 3], "auxiliary": [1], "validation": [], "test": [0, 2]}
    seen = [d for name, part in audited_parts.items() for d in digests_of(part, rows[name])]
    kept, left_out = without(audited_parts, [*seen, "0" * 16])
    assert left_out == 5
    for name, part in audited_parts.items():
        others = np.delete(np.arange(len(part)), rows[name])
        found = getattr(kept, name)
        np.testing.assert_array_equal(found.images, part.images[others])
        np.testing.assert_array_equal(found.labels, part.labels[others])
    assert (kept.name, kept.class_names) == (audited_parts.name, audited_parts.class_names)


def test_a_picture_that_is_there_twice_goes_twice(audited_parts):
    doubled = np.concatenate([audited_parts.test.images, audited_parts.test.images[:1]])
    labels = np.append(audited_parts.test.labels, 1)
    twice = dataclasses.replace(audited_parts, test=type(audited_parts.test)(doubled, labels))
    kept, left_out = without(twice, digests_of(audited_parts.test, [0]))
    assert left_out == 2
    np.testing.assert_array_equal(kept.test.images, audited_parts.test.images[1:])


def test_other_pictures_have_another_fingerprint(audited_parts):
    first, second = digests_of(audited_parts.test, [0]), digests_of(audited_parts.test, [1])
    found = [
        without(audited_parts, seen)[0].fingerprint for seen in (first, second, first + second)
    ]
    assert len({audited_parts.fingerprint, *found}) == 4
    assert {len(fingerprint) for fingerprint in found} == {len(audited_parts.fingerprint)}
    # The order of a sample says nothing about pictures.
    assert without(audited_parts, second + first)[0].fingerprint == found[-1]


def test_nothing_is_changed_where_nothing_was_seen(audited_parts):
    assert without(audited_parts, []) == (audited_parts, 0)
    assert without(audited_parts, ["0" * 16]) == (audited_parts, 0)


def test_a_part_may_not_lose_everything(audited_parts):
    seen = digests_of(audited_parts.validation, range(len(audited_parts.validation)))
    with pytest.raises(UserError, match="saw all pictures of the part validation of folder:"):
        without(audited_parts, seen)


# How networks are trained.


def test_networks_are_the_characterisation_s_and_train_longer(audited_plan):
    assert settings_of_plan(audited_plan, 7, 2.5) == dedicated.Settings(
        cloud=cloud_nn(7, small_audit.IMAGE_SIZE, 8),
        attacker=attacker(small_audit.IMAGE_SIZE, 8, 1),
        cloud_schedule=Schedule(5, 8, 2e-3, 1e-4),
        attacker_schedule=Schedule(8, 4, 3e-3, 1e-4),
        attackers=("residual",),
    )
    least = settings_of_plan(audited_plan, 7, 0.1)
    assert (least.cloud_schedule.steps, least.attacker_schedule.steps) == (1, 1)


@pytest.mark.parametrize(
    ("attackers", "expected"),
    [([], "strong"), (["paper"], "paper")],
)
def test_some_network_attacks_whatever_the_characterisation_trained(
    audited_plan, attackers, expected
):
    """Linear characterisations train none."""
    settings = {**small_audit.SETTINGS, "attackers": attackers}
    plan = dataclasses.replace(audited_plan, characterised={"settings": settings})
    assert settings_of_plan(plan, 7, 1.0).attackers == (expected,)


@pytest.mark.parametrize(
    "settings",
    [
        None,
        "cloud",
        *({**small_audit.SETTINGS, name: None} for name in ("cloud", "attacker")),
        *(
            {k: v for k, v in small_audit.SETTINGS.items() if k != name}
            for name in small_audit.SETTINGS.keys() - {"seed"}
        ),
        {**small_audit.SETTINGS, "cloud": {"steps": 2, "warmth": 3}},
        {**small_audit.SETTINGS, "attacker": {"steps": "many"}},
    ],
)
def test_a_plan_without_settings_is_refused(audited_plan, settings):
    known = {} if settings is None else {"settings": settings}
    unknown = dataclasses.replace(audited_plan, characterised=known)
    with pytest.raises(UserError, match="does not say how its characterisation trained"):
        settings_of_plan(unknown, 2, 2.0)


# What is found.


@pytest.fixture(scope="module")
def settings():
    return dedicated.Settings(
        cloud=cloud_nn(2, small_audit.IMAGE_SIZE, 8),
        attacker=attacker(small_audit.IMAGE_SIZE, 8, 1),
        cloud_schedule=Schedule(steps=4, batch_size=8),
        attacker_schedule=Schedule(steps=4, batch_size=4, learning_rate=3e-2),
        attackers=("residual",),
    )


@pytest.fixture(scope="module")
def measured(audited_plan, audited_parts, vgg_weights, settings, tmp_path_factory):
    """The plan's topology as two cells of a grid."""
    channels = audited_plan.topology.channels
    assert list(channels) != sorted(channels)
    union = {2: tuple(sorted(channels))}
    features = load_features(vgg_weights, audited_parts, union, tmp_path_factory.mktemp("cache"))
    cells = [Cell(audited_plan.topology, draw) for draw in range(REPEATS)]
    execution = default_execution(REPEATS)
    return list(
        dedicated.characterise(
            cells, cells, cells, features, audited_parts, settings, execution, seed=SEED
        )
    )


@pytest.fixture
def audit(audited_plan, audited_parts, vgg_weights, settings, tmp_path):
    """Audits the plan with other limits; `progress` is kept as an attribute."""

    def run(limits, **more):
        changed = dataclasses.replace(audited_plan, limits=limits)
        run.progress = []
        return audited(
            changed,
            audited_parts,
            vgg_weights,
            tmp_path,
            settings,
            default_execution(REPEATS),
            seed=SEED,
            repeats=REPEATS,
            progress=run.progress.append,
            **more,
        )

    return run


def test_the_worst_of_attackers_and_repeats_is_reported(
    audit, measured, audited_parts, audited_plan
):
    attacks = [
        AttackResult.of_images(name, by_part)
        for measurement in measured
        for name, by_part in measurement.attacks.items()
    ]
    losses = {
        metric: [getattr(attack, metric).p95 for attack in attacks]
        for metric in ("psnr_db", "ssim")
    }
    assert len(attacks) == 2 * REPEATS
    # The trained attackers differ, so that the worst is not the first by any rule but its size.
    assert len({round(loss, 6) for loss in losses["psnr_db"]}) >= 3
    accuracies = [measurement.accuracy["test"].mean() for measurement in measured]

    worst = max(losses["psnr_db"])
    limits = Limits(psnr_db=worst + 1e-3, ssim=max(losses["ssim"]) - 1e-4, statistic="p95")
    found = audit(limits, latency_ms=2.5, left_out=4)
    by_name = {finding.what: finding for finding in found.findings}
    assert tuple(by_name) == (*LIMITS, "accuracy")
    for metric in ("psnr_db", "ssim"):
        assert by_name[metric].found == pytest.approx(max(losses[metric]), abs=1e-5)
    assert by_name["accuracy"].found == pytest.approx(np.mean(accuracies))
    for name, cost in costs_of(audited_plan.topology, audited_plan.image_size).items():
        assert by_name[name] == Finding(name, None, None, cost)
    assert by_name["latency_ms"] == Finding("latency_ms", None, None, 2.5)
    assert [by_name[name].expected for name in ("accuracy", "psnr_db", "ssim")] == [0.5, 12.0, 0.3]
    for metric in ("psnr_db", "ssim"):
        whose = attacks[int(np.argmax(losses[metric]))].attacker
        assert (by_name[metric].attacker, by_name[metric].images) == (
            whose,
            len(audited_parts.test),
        )
    # One limit is just kept, the other just broken; what has no limit breaks nothing.
    assert [name for name, finding in by_name.items() if not finding.held] == ["ssim"]
    assert not found.held

    assert found.images == {name: len(part) for name, part in audited_parts.items()}
    assert (found.left_out, found.repeats, found.attacker_steps) == (4, REPEATS, 4)
    assert (found.data, found.knowledge) == (audited_parts.name, "pairs")
    assert sum(audit.progress) == pytest.approx(REPEATS)

    # Each attacker of each repeat is recorded as it was found.
    names = [name for measurement in measured for name in measurement.attacks]
    assert [attack.attacker for attack in found.attacks] == names
    assert [attack.repeat for attack in found.attacks] == [0, 0, 1, 1]
    for metric in ("psnr_db", "ssim"):
        recorded = [getattr(attack, metric).p95 for attack in found.attacks]
        assert recorded == pytest.approx(losses[metric], abs=1e-5)
    by_attacker = {attack.attacker: attack for attack in found.attacks}
    assert (by_attacker["linear"].steps, by_attacker["linear"].converged) == (0, True)
    # Four steps are too few to tell, which counts as not converged.
    assert (by_attacker["residual"].steps, by_attacker["residual"].converged) == (4, False)
    assert {attack.images for attack in found.attacks} == {len(audited_parts.test)}
    assert {attack.knowledge for attack in found.attacks} == {"pairs"}
    assert found.stronger == ()


def attacked(name, psnr_db, knowledge="pairs", repeat=0, converged=True):
    flat = [Distribution(*[value] * 5) for value in (psnr_db, 0.5)]
    return Attacked(name, knowledge, repeat, 8, 5, *flat, converged)


def test_stronger_attackers_count_like_any_other(audit):
    limits = Limits(psnr_db=60.0)
    weak = audit(limits, stronger=[attacked("tuned strong", 1.0)])
    assert (weak.held, weak.knowledge, weak.stronger) == (True, "pairs", ("tuned strong",))
    beyond = [attacked("tuned strong", 1.0), attacked("white box", 61.0, "everything")]
    found = audit(limits, stronger=[*beyond, attacked("white box", 2.0, "everything", 1)])
    (psnr,) = (finding for finding in found.findings if finding.what == "psnr_db")
    assert (psnr.found, psnr.held, found.held) == (61.0, False, False)
    assert (psnr.attacker, psnr.images) == ("white box", 5)
    assert found.knowledge == "everything"
    assert found.stronger == ("tuned strong", "white box")
    assert found.attacks[:-3] == weak.attacks[:-1]


def test_a_limited_latency_must_be_measured(audit):
    with pytest.raises(ValueError, match="measured latency"):
        audit(Limits(latency_ms=10.0))


@pytest.mark.parametrize(
    ("limit", "found", "held"),
    [(None, 99.0, True), (20.0, 19.999, True), (20.0, 20.0, True), (20.0, 20.001, False)],
)
def test_a_promise_is_a_limit(limit, found, held):
    assert Finding("psnr_db", limit, 18.0, found).held is held


def test_an_audit_is_written_whole(tmp_path):
    findings = (
        Finding("psnr_db", 20.0, 18.0, 21.5, "tuned strong", 5),
        Finding("accuracy", None, 0.5, 0.25),
    )
    attacks = (attacked("tuned strong", 21.5, converged=False),)
    found = Audit(findings, "folder:mine", {"test": 8}, 3, 2, 40, "pairs", attacks, ("mine",))
    found.write(tmp_path / "audit.json")
    assert json.loads((tmp_path / "audit.json").read_text()) == {
        "findings": [
            {
                **{"what": "psnr_db", "limit": 20.0, "expected": 18.0, "found": 21.5},
                **{"attacker": "tuned strong", "images": 5, "held": False},
            },
            {
                **{"what": "accuracy", "limit": None, "expected": 0.5, "found": 0.25},
                **{"attacker": None, "images": None, "held": True},
            },
        ],
        "data": "folder:mine",
        "images": {"test": 8},
        "left_out": 3,
        "repeats": 2,
        "attacker_steps": 40,
        "knowledge": "pairs",
        "attacks": [
            {
                **{"attacker": "tuned strong", "knowledge": "pairs", "repeat": 0, "steps": 8},
                **{"images": 5, "converged": False},
                "psnr_db": dict.fromkeys(("mean", "median", "p95", "p99", "max"), 21.5),
                "ssim": dict.fromkeys(("mean", "median", "p95", "p99", "max"), 0.5),
            }
        ],
        "stronger": ["mine"],
        "held": False,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["audit.json"]
