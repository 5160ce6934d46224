"""Stronger attackers of an audit: which there are, what they are given, and how they are scored."""

import numpy as np
import pytest
from support import small_audit

from privynet_jax.attacks.inverse import inverse_network
from privynet_jax.attacks.scenario import make_scenario, measure
from privynet_jax.attacks.tuning import Budget
from privynet_jax.errors import UserError
from privynet_jax.planning import audit_attackers
from privynet_jax.planning.audit_attackers import NAMES, checked_names, stronger_attacks
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.results.statistics import summarise

SEED, STEPS = small_audit.PARTS_SEED, 4


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def attack(audited_plan, audited_parts, vgg_weights, cache):
    def run(*names, repeats=1, progress=lambda share: None):
        given = {"steps": STEPS, "seed": SEED, "repeats": repeats, "progress": progress}
        return stronger_attacks(names, audited_plan, audited_parts, vgg_weights, cache, **given)

    return run


def test_names():
    assert NAMES == ("paper", "residual", "strong", "white box")
    assert checked_names([]) == ()
    assert checked_names(["white box", " strong", "strong"]) == ("strong", "white box")
    for wrong in ("Strong", "", "white_box", "linear"):
        with pytest.raises(UserError, match=f"stronger attackers '{wrong}'; allowed are paper, "):
            checked_names(["strong", wrong])


def test_none_are_fitted_unless_asked_for(attack, monkeypatch):
    monkeypatch.setattr(audit_attackers, "make_scenario", None)
    assert attack() == []


@pytest.mark.slow
def test_a_network_is_fitted_anew_in_every_repeat(
    attack, audited_plan, audited_parts, vgg_weights, cache
):
    told = []
    found = attack("residual", repeats=2, progress=told.append)
    assert told == [1.0, 1.0]
    assert [(each.attacker, each.repeat) for each in found] == [
        ("tuned residual", 0),
        ("tuned residual", 1),
    ]
    # The same by hand, on all test images, in the plan's order of channels.
    scene = make_scenario(vgg_weights, audited_parts, audited_plan.topology, cache, dtype="float16")
    network = inverse_network("residual", Budget(steps=STEPS))
    for repeat, each in enumerate(found):
        key = training_key(Cell(audited_plan.topology, repeat), SEED)
        quality = measure(network.fit(scene.pairs(), scene.knowledge("pairs"), key), scene)
        assert each.psnr_db.p95 == pytest.approx(summarise(quality["psnr_db"]).p95, abs=1e-4)
        assert each.ssim.mean == pytest.approx(np.mean(quality["ssim"]), abs=1e-5)
        assert (each.knowledge, each.steps, each.images) == (
            "pairs",
            STEPS,
            len(audited_parts.test),
        )
    assert found[0].psnr_db != found[1].psnr_db


def test_the_white_box_starts_from_the_best_network(attack, monkeypatch):
    """Which is judged by the attacker's own pairs; and on as many test images as it is told."""
    started, held_out = [], {"paper": 20.0, "residual": 21.0, "strong": 19.0}

    class Fitted:
        def __init__(self, name):
            self.report = {"held_out_psnr_db": held_out.get(name, 0.0), "converged": False}

        def reconstruct(self, representations):
            size = small_audit.IMAGE_SIZE
            return np.full((len(representations), size, size, 3), 0.5, np.float32)

    class Fake:
        def __init__(self, start, budget=None, name=""):
            self.start, self.name = start, name

        def fit(self, pairs, knowledge, key):
            if isinstance(self.start, Fake):
                assert knowledge.local is not None
                started.append(self.start.start)
            else:
                assert (knowledge.local, knowledge.layer) == (None, None)
            return Fitted(self.start)

    monkeypatch.setattr(audit_attackers, "inverse_network", Fake)
    monkeypatch.setattr(audit_attackers, "WhiteBox", lambda start, name: Fake(start, name=name))
    monkeypatch.setattr(audit_attackers, "WHITE_BOX_IMAGES", 3)
    found = attack("paper", "residual", "strong", "white box")[-1]
    assert (found.attacker, found.knowledge) == ("white box from tuned residual", "everything")
    assert (found.images, found.converged) == (3, False)
    assert attack("white box")[0].attacker == "white box from tuned strong"
    assert started == ["residual", "strong"]


def test_the_white_box_is_scored_on_the_same_test_images():
    rows = audit_attackers._white_box_rows(1000, SEED)
    assert len(set(rows.tolist())) == 64
    assert list(rows) == sorted(rows)
    np.testing.assert_array_equal(rows, audit_attackers._white_box_rows(1000, SEED))
    assert set(rows) != set(audit_attackers._white_box_rows(1000, SEED + 1))
    np.testing.assert_array_equal(audit_attackers._white_box_rows(9, SEED), np.arange(9))


@pytest.mark.slow
def test_the_real_white_box(attack):
    """Noise of 16 x 16 pixels and three channels of layer 2: it is no worse than its start."""
    network, found = attack("residual", "white box")
    assert found.attacker == "white box from tuned residual"
    assert found.knowledge == "everything"
    assert 0 < network.psnr_db.mean - 0.5 < found.psnr_db.mean < 60
    assert np.isfinite(found.ssim.max)
