"""Stronger attackers for an audit: tuned inverse networks, and the white box in case a plan leaks.

`auditing` trains the grid's attackers; these cost more and are only fitted where they are asked
for. What they find goes into the same audit.

    names = checked_names(["strong", WHITE_BOX])
    attacks = stronger_attacks(names, plan, parts, weights, "cache", steps=2000, seed=1, repeats=2)
    audit = audited(plan, parts, weights, ..., stronger=attacks)
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from privynet_jax.attacks.base import EVERYTHING, PAIRS, FittedAttack
from privynet_jax.attacks.fitting import stream_of
from privynet_jax.attacks.inverse import inverse_network
from privynet_jax.attacks.scenario import Scenario, make_scenario, measure
from privynet_jax.attacks.tuning import Budget
from privynet_jax.attacks.white_box import WhiteBox
from privynet_jax.backbone.weights.sources import PretrainedWeights
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Parts
from privynet_jax.planning.audit_findings import Attacked
from privynet_jax.planning.plan import Plan
from privynet_jax.results.cells import Cell, training_key
from privynet_jax.results.statistics import summarise
from privynet_jax.training.attackers import CAPACITIES

WHITE_BOX = "white box"
NAMES = (*CAPACITIES, WHITE_BOX)
# Times the steps of the audit's own attackers: a quarter goes on the choice of a learning rate, and
# the rest trains the winner for one and a half times as long as those.
STEPS_FACTOR = 2.0
# Test images that the white box optimises, each for itself: about a second each on two CPU cores.
WHITE_BOX_IMAGES = 64
# Where the white box starts if no network was asked for.
_USUAL_START = "strong"


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of stronger attackers, each once, in the order of `NAMES`.

    Raises:
        UserError: a name is none of `NAMES`.
    """
    given = [name.strip() for name in names]
    if unknown := [name for name in given if name not in NAMES]:
        raise UserError(
            f"stronger attackers {', '.join(map(repr, unknown))}; allowed are {', '.join(NAMES)}; "
            "give one or more, separated by commas"
        )
    return tuple(name for name in NAMES if name in given)


def stronger_attacks(
    names: Sequence[str],
    plan: Plan,
    parts: Parts,
    weights: PretrainedWeights,
    cache_dir: os.PathLike[str] | str,
    *,
    steps: int,
    seed: int,
    repeats: int,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Attacked]:
    """Fits every attacker anew in every repeat, and scores it on test images.

    The white box starts from the network, among those of `names`, that does best on held-out pairs
    of its own, fitted again on what the white box does not tune by. It is scored on
    `WHITE_BOX_IMAGES` of the test images, drawn by the seed, in every repeat the same.

    Args:
        names: of `NAMES`; see `checked_names`.
        plan: whose topology is attacked.
        parts: images, none of which the planner saw.
        weights: the pretrained network.
        cache_dir: of features.
        steps: of each network, the choice of its learning rate included.
        seed: of everything random, with the number of the repeat.
        repeats: fits of each attacker.
        progress: told 1 after each fit with its score.

    Raises:
        UserError: there are too few pairs, or training diverged.
    """
    if not names:
        return []
    # The type of the grid's cache, so that features are computed once for all attackers.
    scene = make_scenario(weights, parts, plan.topology, cache_dir, dtype="float16")
    found: list[Attacked] = []
    for repeat in range(repeats):
        key = training_key(Cell(plan.topology, repeat), seed)
        for attacked in _attacks_of_repeat(names, scene, Budget(steps=steps), key, seed, repeat):
            found.append(attacked)
            progress(1.0)
    return found


def _attacks_of_repeat(
    names: Sequence[str], scene: Scenario, budget: Budget, key: jax.Array, seed: int, repeat: int
) -> Iterator[Attacked]:
    """Networks first: the white box starts from the best of them."""
    held_out: dict[str, float] = {}
    for name in (name for name in names if name != WHITE_BOX):
        attack = inverse_network(name, budget)
        fitted = attack.fit(scene.pairs(), scene.knowledge(PAIRS), key)
        held_out[name] = float(fitted.report["held_out_psnr_db"])
        quality = measure(fitted, scene)
        yield _scored(f"tuned {name}", fitted, PAIRS, quality, repeat, budget.steps)
    if WHITE_BOX in names:
        start = max(held_out, key=held_out.__getitem__, default=_USUAL_START)
        white_box = WhiteBox(inverse_network(start, budget), name=f"{WHITE_BOX} from tuned {start}")
        matched = white_box.fit(scene.pairs(), scene.knowledge(EVERYTHING), key)
        rows = _white_box_rows(len(scene.parts.test), seed)
        quality = measure(matched, scene, "test", rows)
        yield _scored(white_box.name, matched, EVERYTHING, quality, repeat, budget.steps)


def _white_box_rows(count: int, seed: int) -> np.ndarray:
    """Test images that the white box is scored on, int [`WHITE_BOX_IMAGES` at most], ascending."""
    order = stream_of(jax.random.key(seed)).permutation(count)
    return np.sort(order[:WHITE_BOX_IMAGES])


def _scored(
    name: str,
    fitted: FittedAttack,
    knowledge: str,
    quality: Mapping[str, np.ndarray],
    repeat: int,
    steps: int,
) -> Attacked:
    return Attacked(
        attacker=name,
        knowledge=knowledge,
        repeat=repeat,
        steps=steps,
        images=len(quality["psnr_db"]),
        psnr_db=summarise(quality["psnr_db"]),
        ssim=summarise(quality["ssim"]),
        converged=bool(fitted.report["converged"]),
    )
