"""Attackers that are trained to be shown: what they are said to reach is what their files reach."""

import dataclasses

import numpy as np
import pytest
from support import small_audit

from privynet_jax.auditing.fresh_attackers import longer_config, train_shown_attacker
from privynet_jax.deployment.device.local_package import open_package
from privynet_jax.deployment.device.package_export import write_package
from privynet_jax.deployment.page.attacker_graph import attacker_graph
from privynet_jax.errors import UserError
from privynet_jax.images.metrics import image_quality
from privynet_jax.images.sample import drop_seen_pictures
from privynet_jax.planning.lengths import attackers_schedule
from privynet_jax.platform.onnx_files.onnx_run import REPRESENTATIONS, OnnxRun
from privynet_jax.training.tasks import Schedule

SEED, SIZE = small_audit.PARTS_SEED, small_audit.IMAGE_SIZE


@pytest.mark.parametrize(
    ("characterised", "training", "expected"),
    [
        ((300, 16), 2.0, (2000, 32)),  # where that is fewer examples than attackers need
        ((4000, 16), 2.0, (8000, 16)),
        ((600, 64), 2.0, (1200, 64)),
        ((300, 16), 4.0, (4000, 32)),  # and what is asked for beyond is longer in any case
        ((300, 16), 0.1, (100, 32)),
    ],
)
def test_attackers_train_as_long_as_they_need_or_as_they_are_told(
    audited_plan, characterised, training, expected
):
    steps, batch_size = characterised
    attacker = {"steps": steps, "batch_size": batch_size, "learning_rate": 0.01}
    cloud = {"steps": 100, "batch_size": 8, "learning_rate": 0.01}
    settings = {**small_audit.SETTINGS, "attacker": attacker, "cloud": cloud}
    plan = dataclasses.replace(audited_plan, characterised={"settings": settings})
    config = longer_config(plan, SEED, training)
    assert config.attacker == Schedule(*expected, learning_rate=0.01)
    # What draws are attacked with before a plan is written.
    assert attackers_schedule(Schedule(**attacker), training) == config.attacker
    assert config.cloud.steps == 100 * training
    for wrong in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="positive numbers; leave it out"):
            attackers_schedule(Schedule(**attacker), wrong)


def test_its_file_rebuilds_what_packages_release(
    audited_plan, audited_parts, vgg_weights, tmp_path
):
    given = {"seed": SEED, "cache_dir": tmp_path / "cache", "training": 0.004}
    shown = train_shown_attacker(audited_plan, audited_parts, vgg_weights, **given)
    unseen, _ = drop_seen_pictures(audited_parts, audited_plan.sample)
    assert shown.pairs == len(unseen.auxiliary)
    assert not list((tmp_path / "cache").iterdir())
    write_package(tmp_path / "package", audited_plan, vgg_weights.params)
    package = open_package(tmp_path / "package")
    network = attacker_graph(shown.params, shown.kernel, shown.bias, package.shape, SIZE)
    rows = package.represent(unseen.test.images)
    rebuilt = OnnxRun(network, "again").run({REPRESENTATIONS: rows})
    found = image_quality(rebuilt, np.float32(unseen.test.images / 255))["psnr_db"]
    # Features are kept as float16, and the network is another implementation.
    assert float(np.mean(found)) == pytest.approx(shown.psnr_db, abs=0.02)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"seed": small_audit.SETTINGS["seed"]}, "seed 0 is the characterisation's own"),
        ({"training": -1.0}, "networks are to train -1 times"),
    ],
)
def test_the_characterisations_own_seed_and_no_training_are_refused(
    audited_plan, audited_parts, vgg_weights, tmp_path, wrong, told
):
    given = {"seed": SEED, "cache_dir": tmp_path / "cache", **wrong}
    with pytest.raises(UserError, match=told):
        train_shown_attacker(audited_plan, audited_parts, vgg_weights, **given)
