"""Fresh attackers of a plan's own topology: what audits share with pages that show one.

    config = longer_config(plan, seed=1, training=None)
    shown = train_shown_attacker(plan, parts, weights, seed=1, cache_dir="cache")
    shown.psnr_db  # over test images

They train for longer than the characterisation did, with another seed.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from privynet_jax.attacks.inverse import TrainedInverse
from privynet_jax.attacks.scenario import fit_attack, make_scenario, score
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.characterisation.config import Config
from privynet_jax.characterisation.grid_run import protocol_of
from privynet_jax.characterisation.modes import DEDICATED
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Parts
from privynet_jax.images.sample import drop_seen_pictures
from privynet_jax.planning.lengths import TRAINING, attackers_schedule, check_training
from privynet_jax.planning.plan import Plan
from privynet_jax.platform.files import is_remote, private_folder
from privynet_jax.platform.rows.row_views import ScaledRows
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.training.checkpoints import by_path
from privynet_jax.training.models.attackers import STRONG

# Settings of a characterisation's networks, for which nothing else may stand in.
_SIZES = ("cloud_width", "attacker_width", "attacker_blocks")


@dataclasses.dataclass(frozen=True, eq=False)
class ShownAttacker:
    """The strong inverse network, trained on pairs of one topology, for people to look at.

    Attributes:
        params: of its network, by their paths: "params/head/bias".
        kernel: of the linear estimate that it corrects, float32 [3, 3, depth, values].
        bias: likewise, float32 [values].
        psnr_db: mean over test images.
        pairs: how many it learnt from.
    """

    params: Mapping[str, np.ndarray]
    kernel: np.ndarray
    bias: np.ndarray
    psnr_db: float
    pairs: int


def train_shown_attacker(
    plan: Plan,
    parts: Parts,
    weights: PretrainedWeights,
    *,
    seed: int,
    cache_dir: os.PathLike[str] | str,
    training: float = TRAINING,
) -> ShownAttacker:
    """Trains the strong inverse network as an audit does; the session is told about progress.

    Args:
        plan: whose representations it rebuilds, scaled as packages release them.
        parts: of any pictures of the plan's size; those that the planner saw are left out.
        weights: the plan's.
        seed: other than the characterisation's.
        cache_dir: where features are kept meanwhile.
        training: how long it trains, see `lengths.attackers_schedule`.

    Raises:
        UserError: as of an audit.
    """
    plan.check_weights(weights.fingerprint, weights.source)
    config = longer_config(plan, seed, training, (STRONG,))
    unseen, _ = drop_seen_pictures(parts, plan.sample)
    [attack] = [own for own in protocol_of(config, unseen).attacks if own.name == STRONG]
    with private_cache(cache_dir) as cache:
        scene = make_scenario(weights, unseen, plan.topology, cache, dtype=config.feature_dtype)
        scene = dataclasses.replace(scene, features=scaled_as_released(scene.features, plan))
        key = training_key(Cell(plan.topology, 0), seed)
        [fitted] = fit_attack(attack, [scene], [key])
        found = score(fitted, scene)
    trained = fitted.reconstruct
    if not isinstance(trained, TrainedInverse):
        raise UserError("the attacker diverged in its training; give more pictures to learn from")
    return ShownAttacker(
        params=by_path(trained.tuned.trained.params),
        kernel=np.asarray(trained.linear.kernel),
        bias=np.asarray(trained.linear.bias),
        psnr_db=float(found["psnr_db"].mean()),
        pairs=len(unseen.auxiliary),
    )


def scaled_as_released(features: LayerFeatures, plan: Plan) -> LayerFeatures:
    """Features times the plan's scales, of the sample, in place of scales of their own."""
    own = dict(zip(plan.topology.channels, plan.scales, strict=True))
    scales = np.float32([own[channel] for channel in features.channels])
    factors = scales / features.scales
    parts = {name: ScaledRows(rows, factors) for name, rows in features.parts.items()}
    return dataclasses.replace(features, parts=parts, scales=scales)


def longer_config(
    plan: Plan, seed: int, training: float, attackers: tuple[str, ...] = ()
) -> Config:
    """Returns the characterisation's networks, with so many times the steps.

    A linear one trained none, so of it the usual. Without attackers, it has those of the
    characterisation and the one that the plan was measured by. Raises UserError where the seed is
    the characterisation's, the plan does not say how that trained, or training is not positive.
    """
    check_training(training)
    given = plan.settings
    if seed == given["seed"]:
        raise UserError(
            f"the seed {seed} is the characterisation's own; give another, for fresh attackers"
        )
    try:
        sizes = {name: given[name] for name in _SIZES}
        config = Config.of_settings(given, Path(), mode=DEDICATED, **sizes)
        cloud = config.cloud.longer(training)
        attacker = attackers_schedule(config.attacker, training)
    except (UserError, KeyError, TypeError):
        raise UserError(
            "the plan does not say how its characterisation trained; plan again"
        ) from None
    measured = (plan.measured.attacker,) if plan.measured else ()
    attackers = attackers or tuple(dict.fromkeys((*config.chosen_attackers, *measured)))
    return dataclasses.replace(config, cloud=cloud, attacker=attacker, attackers=attackers)


def private_cache(
    cache_dir: os.PathLike[str] | str,
) -> contextlib.AbstractContextManager[Path]:
    """Returns a folder for features, which goes with them: they tell the plan's channels."""
    parent = Path(tempfile.gettempdir() if is_remote(cache_dir) else cache_dir)
    parent.mkdir(parents=True, exist_ok=True)
    return private_folder(parent, "audit")
