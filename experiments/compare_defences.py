"""Which defences are worth it: accuracy and privacy loss of each, beside PrivyNet's own trade-off.

    python -m experiments.compare_defences --out=runs/defences

Trains a cloud NN and attackers for every (layers, depth, defence), all of them on defended
representations, with the quickstart's networks and steps: less than a minute per row on 2 idle CPU
cores. Run again, it does what is missing. Without a defence, PrivyNet offers deeper layers and
fewer channels instead; a defence is of use where it is more accurate than those at equal privacy
loss. Writes defences.csv and defences.png.

Its attackers are those that --trained_attackers names and the linear one. None has the local NN (a
white box), and none averages the noise out over repeated releases of one image: here every image is
released once. Against these a defence may be worth less than its row says.

A defence is named with its parameters, as in laplace:clip=0.5,scale=1;
`privynet_jax.defences.mechanisms` has all of them. Epsilon, where there is one, is the local
differential privacy of one image's release.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing import defence_plot
from experiments.comparing.defence_tables import Row, as_table, as_text, convergence_note
from experiments.comparing.defence_trials import Trials
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import LayerFeatures, needed_channels
from privynet_jax.backbone.weights.sources import PretrainedWeights, load_weights
from privynet_jax.characterisation.dedicated import Settings
from privynet_jax.defences.defended import normalised_local_nn
from privynet_jax.defences.guarantees import DELTA
from privynet_jax.defences.mechanisms import Undefended, parse_defences
from privynet_jax.images.parts import Parts
from privynet_jax.platform.devices import default_execution
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.progress import progress_bar
from privynet_jax.platform.resuming import KeptRows
from privynet_jax.results.cells import Cell, grid_cells
from privynet_jax.results.measurement import Measurement
from privynet_jax.results.statistics import summarise
from privynet_jax.results.text_tables import as_csv
from privynet_jax.training.attackers import STRONG, check_attackers
from privynet_jax.training.networks import attacker, cloud_nn
from privynet_jax.training.tasks import Schedule

_SHARED = (
    *("out", "seed", "cache_dir", "data_dir", "weights", "max_images", "skip_unreadable"),
    "trained_attackers",
)
for _name in _SHARED:
    flags.declare_key_flag(_name)
# Names of their own: characterize has flags "layers" and so on, of another meaning.
_DEFENDED_LAYERS = flags.DEFINE_list("defended_layers", ["4"], "Layers that are defended.")
_DEFENDED_DEPTHS = flags.DEFINE_list("defended_depths", ["16"], "Their numbers of channels.")
_UNDEFENDED_LAYERS = flags.DEFINE_list(
    "undefended_layers", ["4", "7", "10"], "Layers of PrivyNet's own trade-off."
)
_UNDEFENDED_DEPTHS = flags.DEFINE_list(
    "undefended_depths", ["8", "16", "32"], "Their numbers of channels."
)
_DEFENCES = flags.DEFINE_string(
    "defences",
    "gaussian:clip=1,sigma=0.5,gaussian:clip=1,sigma=1,gaussian:clip=1,sigma=2,"
    "gaussian:clip=1,sigma=45,"
    "laplace:clip=0.5,scale=0.25,laplace:clip=0.5,scale=0.5,laplace:clip=0.5,scale=1,"
    "arden:nullify=0.1,clip=0.5,scale=0.1,arden:nullify=0.2,clip=0.5,scale=0.25,"
    "arden:nullify=0.4,clip=0.5,scale=0.5,"
    "dropout:rate=0.25,dropout:rate=0.5,dropout:rate=0.75,"
    "quantise:bits=2,quantise:bits=1,"
    "quantise:bits=2,rounding=stochastic,quantise:bits=1,rounding=stochastic",
    "Defences with their parameters, separated by commas.",
)
_DRAWS = flags.DEFINE_integer("channel_draws", 2, "Random draws of channels per row.", 1)
_STEPS = flags.DEFINE_float("steps_factor", 1.0, "Times the quickstart's steps.", 0.01, 1000.0)
_DATA_SET = flags.DEFINE_string(
    "defended_data", "photo_patches", "TFDS name, or folder:PATH of labelled pictures."
)

_SCHEDULES = Schedule(300), Schedule(300, batch_size=16, learning_rate=3e-3)
_SIZE = 32
# Goes up with whatever makes kept rows mean something else, so that old ones are refused. 2: each
# draw has its own strongest attacker, noise of its own, a linear attack tuned on other images, and
# an epsilon of non-negative values.
_ROW_VERSION = 2


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    cli.use_cpu_cores(at_most=_DRAWS.value)
    rows = rows_from_flags()
    kept = KeptRows.opened(out, _deciding())
    measured = {row: kept.read(row.title) for row in rows}
    missing = [row for row in rows if measured[row] is None]
    if missing:
        measured |= _measure(missing, kept, len(rows))
    table = as_table(measured)
    write_atomically(out / "defences.csv", as_csv(table))
    write_atomically(out / "defences.png", defence_plot.picture(table))
    print(as_text(table))
    print(convergence_note(table))
    print(
        "Means over draws ± half their range; the attacker is each draw's strongest, trained on "
        "defended pairs. gain: accuracy beyond the best undefended topologies at equal PSNR, in "
        "points; empty where none of them is as private; worst: the same at the least private "
        f"draw's PSNR. epsilon: of one image's release, at delta {DELTA:g} (Laplace noise: 0). "
        "These are measured attacks, none by a white box and none on repeated releases of an "
        "image: they bound no other attacker. "
        f"defences.csv and defences.png are in {out}."
    )


def rows_from_flags() -> list[Row]:
    """Returns PrivyNet's own rows, then the defended ones."""
    own = [
        Row(m, depth, Undefended())
        for m in cli.whole_numbers(_UNDEFENDED_LAYERS)
        for depth in cli.whole_numbers(_UNDEFENDED_DEPTHS)
    ]
    defended = [
        Row(m, depth, defence)
        for m in cli.whole_numbers(_DEFENDED_LAYERS)
        for depth in cli.whole_numbers(_DEFENDED_DEPTHS)
        for defence in (Undefended(), *parse_defences(_DEFENCES.value))
    ]
    rows = list(dict.fromkeys([*own, *defended]))
    for row in rows:
        _cells(row)  # refuses what does not exist, before anything is trained
    return rows


def _deciding() -> dict[str, Any]:
    names = ("weights", "max_images", "seed", _STEPS.name, _DRAWS.name, _DATA_SET.name)
    given = {name: flags.FLAGS[name].value for name in names}
    attackers = {cli.TRAINED_ATTACKERS.name: sorted(_attackers())}
    return {**given, **attackers, "row_version": _ROW_VERSION}


def _cells(row: Row) -> tuple[Cell, ...]:
    return grid_cells((row.num_layers,), (row.depth,), _DRAWS.value, cli.SEED.value)


def _measure(missing: Sequence[Row], kept: KeptRows, total: int) -> dict[Row, dict[str, Any]]:
    """Measures rows, keeps each as soon as it is done, and returns them all."""
    cache_dir = cli.folder("cache_dir", cli.CACHE_DIR.value)
    weights = load_weights(cli.WEIGHTS.value or "embedded", cache_dir=cache_dir)
    parts = cli.load_data(_DATA_SET.value, image_size=_SIZE)
    union = needed_channels([cell.topology for row in missing for cell in _cells(row)])
    features = load_features(weights, parts, union, cache_dir)
    execution = default_execution(_DRAWS.value)
    found: dict[Row, dict[str, Any]] = {}
    trials = Trials(parts, _settings(parts), execution, seed=cli.SEED.value)
    done = total - len(missing)
    with progress_bar(total, "trying defences", "rows", done) as advance:

        def progress(share: float) -> None:
            advance(share / _DRAWS.value)

        # One layer and depth after the other: each shape is compiled once.
        for row in sorted(missing, key=lambda row: (row.num_layers, row.depth)):
            layer = features[row.num_layers]
            local = functools.partial(_local, weights, layer)
            measured = trials.measure(_cells(row), layer, row.defence, local, progress)
            found[row] = _summary(row, measured)
            kept.write(row.title, found[row])
    return found


def _local(
    weights: PretrainedWeights, layer: LayerFeatures, cell: Cell
) -> Callable[[jax.Array], jax.Array]:
    scales = layer.scales[layer.positions(cell.topology.channels)]
    return normalised_local_nn(weights.params, cell.topology, scales)


def _settings(parts: Parts) -> Settings:
    cloud, attack = (
        dataclasses.replace(schedule, steps=max(1, round(_STEPS.value * schedule.steps)))
        for schedule in _SCHEDULES
    )
    return Settings(
        cloud=cloud_nn(parts.num_classes, parts.image_size),
        attacker=attacker(parts.image_size, width=64, num_blocks=2),
        cloud_schedule=cloud,
        attacker_schedule=attack,
        attackers=_attackers(),
    )


def _attackers() -> tuple[str, ...]:
    names = tuple(cli.TRAINED_ATTACKERS.value) or (STRONG,)
    check_attackers(names)
    return names


def _summary(row: Row, measured: Sequence[Measurement]) -> dict[str, Any]:
    """Returns a row's numbers, lists with one per draw, each of the draw's strongest attacker."""
    strongest = [_strongest(measurement) for measurement in measured]
    pairs = list(zip(measured, strongest, strict=True))
    attacks = [measurement.attacks[name]["test"] for measurement, name in pairs]
    psnr = [summarise(attack["psnr_db"]) for attack in attacks]
    values = int(np.prod(measured[0].cell.topology.representation_shape(_SIZE)))
    return {
        "accuracy": [summarise(m.accuracy["test"]).mean for m in measured],
        "psnr_db_mean": [loss.mean for loss in psnr],
        "psnr_db_p95": [loss.p95 for loss in psnr],
        "ssim_mean": [summarise(attack["ssim"]).mean for attack in attacks],
        "attacker": "/".join(sorted(set(strongest))),
        # Of several draws the one that was furthest from its end: the mean rests on all.
        "falling_percent": float(
            max(measurement.attackers_falling_percent[name] for measurement, name in pairs)
        ),
        "epsilon": row.defence.epsilon(values),
        "train_seconds": float(sum(m.seconds for m in measured)),
    }


def _strongest(measurement: Measurement) -> str:
    attacks = measurement.attacks
    return max(attacks, key=lambda name: attacks[name]["test"]["psnr_db"].mean())


if __name__ == "__main__":
    cli.run(main)
