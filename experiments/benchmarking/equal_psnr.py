"""How long PyTorch trains until it rebuilds images as well as the strong attacker here.

On a characterisation's own data and features: photo_patches, the first draw of channels. The peer
has the same network, whose first parameters are drawn alike, pairs, linear start and schedule, and
AdamW; another one is the decoder that such attackers usually are. Only a network whose learning
rate has gone down can be judged, so each length is a training of its own, twice as long as the one
before; steps between two lengths are interpolated. Seconds are steps times the seconds of one,
timed in turn (`against_torch`), so that noise in one of two long trainings does not decide.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarking.against_torch import DECODER, HERE, PEER, steps_row
from experiments.benchmarking.inputs import ATTACKER_BATCH, Learnt, Row, Setup, first_params
from experiments.benchmarking.timing import Clock
from privynet_jax import Budget, Member, as_float, grid_cells, load_parts, load_weights
from privynet_jax.attacks.closed_form import linear_attacks
from privynet_jax.attacks.inverse import InverseNetwork, Training
from privynet_jax.attacks.scenario import Scenario, fit_attack, score
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.images.metrics import psnr_db
from privynet_jax.platform.devices import Execution
from privynet_jax.platform.progress import Bar, progress_bar
from privynet_jax.results.cells import training_key
from privynet_jax.training.convergence import relative_rate
from privynet_jax.training.models.attackers import CAPACITIES, STRONG
from privynet_jax.training.session import session

_LIMITS = {"target": 4000, "validation": 500, "test": 1000}  # the quickstart's
# Of AdamW, peaks that suit such networks (`attackers` trains the paper's with as much).
_RATES = {PEER: 2e-3, DECODER: 1e-3}


class Point(NamedTuple):
    """What a peer reaches: after so many steps, mean PSNR of the test images in dB."""

    steps: int
    psnr_db: float


def psnr(setup: Setup, clock: Clock, execution: Execution) -> Iterator[Row]:
    """Yields per layer and peer what is reached here, and what the peer needs for the same.

    Points are (steps, PSNR in dB, seconds). What is not reached within the limit is None.
    """
    cells = grid_cells(setup.layers, (setup.depth,), execution.group_size, seed=0)
    weights = load_weights("embedded", cache_dir=setup.cache_dir)
    parts = load_parts("photo_patches", data_dir=setup.data_dir, max_images=_LIMITS)
    union = needed_channels([cell.topology for cell in cells])
    features = load_features(weights, parts, union, setup.cache_dir)
    # Timed before anything is trained, so that a machine need be quiet for the first minutes only.
    timed = {m: steps_row(m, STRONG, setup, clock, execution) for m in setup.layers}
    for m, seconds in timed.items():
        chosen = [cell for cell in cells if cell.topology.num_layers == m]
        scenes = [Scenario(cell.topology, parts, features[m]) for cell in chosen]
        keys = [training_key(cell, 0) for cell in chosen]
        reached = _reached_here(setup, scenes, keys)
        here = setup.attacker_steps * seconds[f"{HERE}_seconds"]
        for name in (PEER, DECODER):
            each = seconds[f"{name}_seconds"]
            train = functools.partial(_trained_there, name, setup, scenes[0], keys[0])
            most = int(setup.times * here / each)
            points = list(lengths_until(reached, setup.attacker_steps, most, train))
            steps = steps_to(points, reached)
            yield {
                "layer": m,
                "psnr_db": reached,
                "seconds": here,
                "peer": name,
                "peer_step_seconds": each,
                "peer_psnr_db": points[-1].psnr_db,
                "peer_steps": steps,
                "times": steps and steps * each / here,
                "peer_points": [(*point, point.steps * each) for point in points],
            }


def steps_to(points: list[Point], psnr_db: float) -> float | None:
    """Returns after how many steps so much is reached, interpolated in their logarithm.

    That is between the last two of trainings that are ever longer. Where the first one reaches it,
    its steps are returned, and where none does, None.
    """
    *_, before, last = [None, *points]
    if last.psnr_db < psnr_db:
        return None
    if before is None:
        return float(last.steps)
    share = (psnr_db - before.psnr_db) / (last.psnr_db - before.psnr_db)
    return before.steps * (last.steps / before.steps) ** share


def lengths_until(
    psnr_db: float, first: int, most: int, train: Callable[[int], float]
) -> Iterator[Point]:
    """Trains for twice as long, again and again, until so much is reached or the most is taken."""
    for steps in (min(most, first * 2**power) for power in itertools.count()):
        yield (point := Point(steps, train(steps)))
        if point.psnr_db >= psnr_db or steps >= most:
            break


def _reached_here(setup: Setup, scenes: list[Scenario], keys: list[Any]) -> float:
    """Trains here, as a characterisation does; the first one counts."""
    training = Training(Budget(setup.attacker_steps, batch_size=ATTACKER_BATCH))
    attack = InverseNetwork(STRONG, (CAPACITIES[STRONG],), training)
    title = f"layer {scenes[0].topology.num_layers}, here"
    with progress_bar(len(scenes), title) as advance, session(progress=advance):
        fitted = fit_attack(attack, scenes, keys)
    return float(score(fitted[0], scenes[0])["psnr_db"].mean())


def _trained_there(name: str, setup: Setup, scene: Scenario, key: Any, steps: int) -> float:
    """Trains a peer for so many steps; returns the mean PSNR of the test images."""
    from experiments.benchmarking import torch_networks, torch_peer

    what, member = _member(setup, scene, key)
    features, images = member.inputs[member.rows], member.targets[member.rows]
    recipe = torch_peer.Recipe(ATTACKER_BATCH, _RATES[name], device=setup.peer_device)
    if name == PEER:
        params, shape = first_params(what, member), features.shape[1:]
        network = torch_peer.network_of(what, params, shape, setup)
    else:
        network = torch_networks.Decoder(features.shape[1:], setup.image_size)
        recipe = recipe._replace(loss=torch_peer.squared_loss)
    training = torch_peer.Training(network, (features, images), recipe)
    title, truth = f"layer {scene.topology.num_layers}, {name}", as_float(scene.parts.test.images)
    with Bar(total=steps, desc=title, unit="step") as bar:
        training.run(steps, relative_rate, bar.update)
        answers = np.clip(training.answers(scene.stored("test")[:]), 0, 1)
        found = float(np.mean(psnr_db(answers, truth)))
        bar.set_postfix_str(f"{found:.2f} dB")
    return found


def _member(setup: Setup, scene: Scenario, key: Any) -> tuple[Learnt, Member]:
    """What the attacker here learns, and from which rows: a tenth of the pairs judges."""
    pairs = scene.pairs()
    [start] = linear_attacks([pairs], on_both=False)
    what = Learnt(CAPACITIES[STRONG].task(setup.image_size), ATTACKER_BATCH, pairs.images, start)
    rows, _ = pairs.hold_out()
    return what, Member(key, pairs.representations, pairs.images, rows, 1.0, constants=start)
