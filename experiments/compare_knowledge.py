"""How privacy loss depends on what the attacker knows, and what the secret draw is worth.

    python -m experiments.compare_knowledge --out=runs/knowledge --other_dataset=folder:pictures

The same attack is fitted, for several draws of channels per layer, on pairs; on pairs whose images
come from another data set, made by the same local NN; and by an attacker who has no pairs but knows
VGG16 and the number of layers, and guesses the channels: at random, another at random per image, or
by statistics of the release. Then again on 10 pairs and more. All attackers of a draw have the same
random key: they differ by what they know, and not by luck as well. All are scored on test images.
Prints a table, and writes knowledge.csv (a row per draw) and knowledge.png. --white_box adds an
attacker who knows everything; it costs 150 gradients per test image, so give --max_images=test=100
or so.

The release's order of channels is shuffled, and the attacker knows nothing of it, unless
--ascending says that it is the layer's own, which the attacker then knows as well.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.comparing import knowledge_cases, knowledge_tables
from experiments.comparing.knowledge_cases import Layer
from privynet_jax.attacks.base import Attack, FittedAttack
from privynet_jax.attacks.closed_form import LinearInversion
from privynet_jax.attacks.inverse import InverseNetwork, inverse_network
from privynet_jax.attacks.scenario import make_scenario, measure
from privynet_jax.attacks.substitute import FittedSubstitute, PublicLayer
from privynet_jax.attacks.tuning import Budget
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import LayerFeatures
from privynet_jax.backbone.topology import Topology, all_channels
from privynet_jax.backbone.weights.sources import PretrainedWeights, load_weights
from privynet_jax.characterisation.config import Config, check_side
from privynet_jax.errors import UserError
from privynet_jax.images.parts import Parts
from privynet_jax.platform.files import write_atomically
from privynet_jax.results.cells import Cell, check_values, draw_channels, draw_key, training_key
from privynet_jax.results.statistics import summarise
from privynet_jax.results.text_tables import as_csv
from privynet_jax.training.attackers import CAPACITIES

for _shared in ("out", "seed", "cache_dir", "data_dir", "weights", "max_images", "skip_unreadable"):
    flags.declare_key_flag(_shared)
_DATASET = flags.DEFINE_string(
    "dataset", Config.dataset, "photo_patches, folder:PATH or TFDS name."
)
_OTHER = flags.DEFINE_string(
    "other_dataset",
    None,
    "Another one: folder:PATH or a TFDS name; or classes: every second class of the same, which is "
    "then not attacked; default: not compared with.",
)
_CLASSES = "classes"
_LAYERS = flags.DEFINE_list(
    "layers", list(map(str, Config.layers)), "Numbers of local convolution layers, 1..13."
)
_DEPTHS = flags.DEFINE_list("depths", ["16"], "Numbers of released channels.")
_DRAWS = flags.DEFINE_integer("draws", 5, "Draws of channels per (layers, depth).", 1)
_SIZE = flags.DEFINE_integer("image_size", Config.image_size, "Side of images in pixels.")
_INNER = flags.DEFINE_string(
    "inner", "linear", f"The attack: linear, or one of {', '.join(CAPACITIES)}, which are trained."
)
_STEPS = flags.DEFINE_integer("inner_steps", 500, "Steps of a trained inner attack.", 1)
_PAIRS = flags.DEFINE_list(
    "pairs", ["10", "30", "100", "300", "1000"], "Numbers of pairs beside all of them."
)
_POOL = flags.DEFINE_integer(
    "pool", 0, "Draw from so many candidates, which the attacker knows; 0: from the layer.", 0
)
_ASCENDING = flags.DEFINE_boolean(
    "ascending", False, "Release channels in the layer's order, which the attacker knows."
)
_WHITE_BOX = flags.DEFINE_boolean(
    "white_box", False, "Also attack with everything known, by optimisation of each test image."
)


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    layers, depths, counts = map(cli.whole_numbers, (_LAYERS, _DEPTHS, _PAIRS))
    _check_depths(layers, depths)
    check_side(_SIZE.value, layers)
    inner = _inner_attack(_INNER.value)
    _check_pairs(counts, inner)
    config = Config(out, cache_dir=cli.cache_folder())
    weights = load_weights(cli.WEIGHTS.value or "embedded", cache_dir=config.local_cache)
    data = [_load(_DATASET.value, cli.limits(cli.MAX_IMAGES.value))]
    if _OTHER.value not in (None, _CLASSES):
        data.append(_load(_OTHER.value, {}))
    features = [
        load_features(
            weights, parts, all_channels(layers, VGG16), config.feature_cache, dtype="float16"
        )
        for parts in data
    ]
    rows: list[dict[str, Any]] = []
    out.mkdir(parents=True, exist_ok=True)
    draws = list(itertools.product(depths, range(_DRAWS.value)))
    with tqdm(total=len(layers) * len(draws), desc="attacking") as bar:
        for number in layers:
            layer = _layer(weights, data, [found[number] for found in features])
            for depth, draw in draws:
                rows += list(_attacked(layer, depth, draw, inner, counts))
                write_atomically(out / "knowledge.csv", as_csv(rows))
                bar.update()
    write_atomically(out / "knowledge.png", knowledge_tables.picture(rows))
    print(knowledge_tables.as_text(rows))
    print(f"knowledge.csv and knowledge.png are in {out}.")


def _attacked(
    layer: Layer, depth: int, draw: int, inner: Attack, counts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yields a row per attacker of one draw."""
    number = layer.whole.topology.num_layers
    key = draw_key(number, depth, draw, cli.SEED.value)
    stream = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    topology, pool = _drawn(number, depth, draw, stream)
    scene = knowledge_cases.released(layer.whole, topology)
    cases = knowledge_cases.cases(
        layer, scene, inner, counts, pool, _ASCENDING.value, _WHITE_BOX.value
    )
    attack_key = training_key(Cell(topology, draw), cli.SEED.value)
    for case, fitted in knowledge_cases.fitted(cases, attack_key):
        found = measure(fitted, scene)
        psnr_db = summarise(found["psnr_db"])
        yield {
            "layers": number,
            "layer": topology.layer.name,
            "depth": topology.depth,
            "draw": draw,
            "knowledge": case.words,
            "attack": case.attack.name,
            "images": case.images,
            "psnr_db_mean": psnr_db.mean,
            "psnr_db_p95": psnr_db.p95,
            "psnr_db_max": psnr_db.max,
            "ssim_mean": summarise(found["ssim"]).mean,
            **_guessed(fitted, topology),
        }


def _guessed(fitted: FittedAttack, topology: Topology) -> dict[str, Any]:
    """What a guess was worth; the attacker itself knows its confidence alone."""
    guess = fitted.guess if isinstance(fitted, FittedSubstitute) else None
    if guess is None:
        return {"found": "", "found_in_5": "", "confidence": ""}
    return {
        "found": guess.share_found(topology.channels),
        "found_in_5": guess.share_found(topology.channels, top=5),
        "confidence": float(np.mean(guess.confidence)),
    }


def _drawn(
    number: int, depth: int, draw: int, stream: np.random.Generator
) -> tuple[Topology, tuple[int, ...] | None]:
    """Returns a topology, and the candidates that the attacker knows of, if any."""
    pool = None
    if _POOL.value:
        chosen = stream.permutation(VGG16.cut(number).channels)[: _POOL.value]
        pool = tuple(sorted(map(int, chosen)))
    channels = draw_channels(number, depth, draw, cli.SEED.value, pool)
    order = channels if _ASCENDING.value else stream.permutation(channels)
    return Topology(number, tuple(order)), pool


def _layer(
    weights: PretrainedWeights, data: Sequence[Parts], features: Sequence[LayerFeatures]
) -> Layer:
    found = []
    pairs = list(zip(data, features, strict=True))
    if _OTHER.value == _CLASSES:
        rows = knowledge_cases.halves(data[0])
        pairs = [knowledge_cases.with_rows(data[0], features[0], half) for half in rows]
    for parts, stored in pairs:
        topology = Topology(stored.num_layers, stored.channels)
        whole = make_scenario(
            weights, parts, topology, cli.cache_folder(), features=stored, dtype="float16"
        )
        found.append((whole, PublicLayer.of_features(stored, "auxiliary", None)))
    return Layer(*found[0], found[1] if len(found) > 1 else None)


def _load(dataset: str, limits: Mapping[str, int]) -> Parts:
    return cli.load_data(dataset, image_size=_SIZE.value, max_images=limits)


def _inner_attack(name: str) -> LinearInversion | InverseNetwork:
    """Returns an attack by its name."""
    if name == "linear":
        return LinearInversion()
    if name not in CAPACITIES:
        raise UserError(
            f"--inner={name} is no attack; allowed are linear, {', '.join(CAPACITIES)}; give one"
        )
    return inverse_network(name, Budget(steps=_STEPS.value))


def _check_depths(layers: Sequence[int], depths: Sequence[int]) -> None:
    """Refuses what is given twice, and what a layer, or the pool, is too small for."""
    check_values("--layers", layers)
    check_values("--depths", depths)
    narrowest = min(len(channels) for channels in all_channels(layers, VGG16).values())
    most = _POOL.value or narrowest
    if most > narrowest or not 1 <= min(depths) <= max(depths) <= most:
        raise UserError(
            f"--depths={','.join(_DEPTHS.value)} and --pool={_POOL.value}; allowed are pools up "
            f"to {narrowest} channels with these layers, and depths from 1 to {most}"
        )


def _check_pairs(counts: Sequence[int], inner: LinearInversion | InverseNetwork) -> None:
    """Refuses numbers of pairs that are given twice, or that the attack cannot be fitted on."""
    if counts:  # else all pairs are enough
        check_values("--pairs", counts)
    if min(counts, default=inner.least_pairs) < inner.least_pairs:
        raise UserError(
            f"--pairs={','.join(_PAIRS.value)}; allowed are {inner.least_pairs} pairs and more "
            f"with --inner={_INNER.value}; give more"
        )


if __name__ == "__main__":
    cli.run(main, continues=False)
