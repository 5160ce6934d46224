"""Which defences are worth it: accuracy and privacy loss of each, beside PrivyNet's own trade-off.

    python -m experiments.compare_defences --out=runs/defences

Trains a cloud NN and attackers for every (layers, depth, defence), all of them on defended
representations, with the quickstart's networks and steps: less than a minute per row on 2 idle CPU
cores. Run again, it does what is missing. Without a defence, PrivyNet offers deeper layers and
fewer channels instead; a defence is of use where it is more accurate than those at equal privacy
loss. Writes defences.csv and defences.png.

Its attackers are the linear one and those that --attackers names, by default the strong one. None
is a white box, and none averages the noise out over repeated releases of an image: against these a
defence may be worth less than its row says.

A defence is named with its parameters, as in laplace:clip=0.5,scale=1;
`privynet_jax.defences.mechanisms` has all of them. Epsilon, where there is one, is the local
differential privacy of one image's release.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing import defence_tables
from experiments.comparing.defence_tables import Row
from experiments.comparing.defence_trials import OfAnySign, measure_defended
from experiments.comparing.ground import SHARED, deciding, filled, kept_rows, load_ground
from privynet_jax import Budget, Protocol, Schedule, UserError, cloud_nn, grid_cells
from privynet_jax.attacks.base import PAIRS, Attack
from privynet_jax.attacks.closed_form import LINEAR
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.defences.defended import copies_for
from privynet_jax.defences.guarantees import DELTA
from privynet_jax.defences.mechanisms import Undefended, parse_defences
from privynet_jax.errors import everything_first
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cells import Measurement
from privynet_jax.results.statistics import accuracies, bootstrap, mean_of, of_images, summarise
from privynet_jax.results.text_tables import as_csv
from privynet_jax.training.models.attackers import STRONG, capacities_of_size

cli.key_flags(SHARED)
# Names of their own: characterize has flags "layers" and so on, of another meaning.
_DEFENDED_LAYERS = flags.DEFINE_list("defended_layers", ["4"], "Layers that are defended.")
_DEFENDED_DEPTHS = flags.DEFINE_list("defended_depths", ["16"], "Their numbers of channels.")
_OWN_LAYERS = flags.DEFINE_list(
    "undefended_layers", ["4", "7", "10"], "Layers of PrivyNet's own trade-off, without defence."
)
_OWN_DEPTHS = flags.DEFINE_list(
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

_STEPS_EACH, _CLOUD_BATCH, _ATTACKER_BATCH = 300, 32, 16
_SIZE = 32
# Goes up with whatever makes kept rows mean something else, so that old ones are refused. 4:
# balanced accuracy; 5: an interval of accuracy.
_ROW_VERSION = 5
_NOTE = (
    "Means over draws ± half their range, and in brackets 95 % intervals over the sources of test "
    "images; the attacker is each draw's strongest, trained on "
    "defended pairs. gain: accuracy beyond the best undefended topologies at equal PSNR, in "
    "points; empty where none of them is as private; worst: the same at the least private draw's "
    f"PSNR. epsilon: of one image's release, at delta {DELTA:g} (Laplace noise: 0). These are "
    "measured attacks, none by a white box and none on repeated releases of an image: they bound "
    "no other attacker."
)


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    cli.use_cpu_cores(at_most=_DRAWS.value)
    steps = max(1, round(_STEPS.value * _STEPS_EACH))
    attacks, rows = _attacks(steps), rows_of_flags()
    # Refuses what does not exist, before anything is trained.
    cells = {
        row: grid_cells((row.num_layers,), (row.depth,), _DRAWS.value, cli.SEED.value)
        for row in rows
    }
    given = deciding(_DRAWS.name, _STEPS.name, _DATA_SET.name)
    given |= {"attackers": [attack.name for attack in attacks], "row_version": _ROW_VERSION}
    kept = kept_rows(out, given, "defences", _DATA_SET.value)
    union = needed_channels([cell.topology for drawn in cells.values() for cell in drawn])
    ground = load_ground(_DATA_SET.value, union, image_size=_SIZE)
    copies = copies_for(steps * _ATTACKER_BATCH, len(ground.parts.auxiliary))
    protocol = Protocol(
        OfAnySign(cloud_nn(ground.parts.num_answers, _SIZE)),
        Schedule(steps, _CLOUD_BATCH),
        attacks,
        attacked=np.arange(len(ground.parts.test)),
    )

    def measured(missing: Sequence[Row]) -> list[dict[str, Any]]:
        [row] = missing
        given = (cells[row], row.defence, protocol, copies, cli.SEED.value)
        return [summary(row, measure_defended(ground, *given), ground.parts.test.clusters())]

    found = {}
    bar = progress_bar(len(rows), "trying defences", "rows")
    with everything_first() as postponed, bar as advance:
        # One layer and depth after the other: each shape is compiled once.
        for row in sorted(rows, key=lambda row: (row.num_layers, row.depth)):
            with postponed():
                [found[row]] = filled(kept, {row.title: row}, measured)
            advance(1)
    table = defence_tables.as_table({row: found[row] for row in rows})
    write_atomically(out / "defences.csv", as_csv(table))
    write_atomically(out / "defences.png", defence_tables.picture(table))
    print(defence_tables.as_text(table))
    print(defence_tables.convergence_note(table))
    print(f"{_NOTE} defences.csv and defences.png are in {out}.")


def _attacks(steps: int) -> list[Attack]:
    budget = Budget(steps, batch_size=_ATTACKER_BATCH)
    training = Training(budget, (1.0,), capacities_of_size(64, 2), "float32", OfAnySign)
    attacks = named_attacks({LINEAR, *(cli.ATTACKERS.value or [STRONG])}, training)
    if knowing := [attack.name for attack in attacks if attack.knowledge != PAIRS]:
        told = f"--attackers names {', '.join(knowing)}; allowed are those that need pairs alone"
        raise UserError(f"{told}, because no other knows what to do about a defence")
    return attacks


def rows_of_flags() -> list[Row]:
    """Returns PrivyNet's own rows, then the defended ones."""
    lists = (_OWN_LAYERS, _OWN_DEPTHS, _DEFENDED_LAYERS, _DEFENDED_DEPTHS)
    layers, depths, *defended = map(cli.whole_numbers, lists)
    defences = (Undefended(), *parse_defences(_DEFENCES.value))
    places = [
        *itertools.product(layers, depths, defences[:1]),
        *itertools.product(*defended, defences),
    ]
    return list(dict.fromkeys(Row(*place) for place in places))


def summary(row: Row, measured: Sequence[Measurement], sources: np.ndarray) -> dict[str, Any]:
    """Returns a row's numbers, lists with one per draw, each of the draw's strongest attacker.

    The ends of intervals are over sources, int [N], of test images, for the mean of all draws.
    """
    pairs = [(measurement, _strongest(measurement)) for measurement in measured]
    attacks = [measurement.attacks[name]["test"] for measurement, name in pairs]
    psnr = [summarise(attack["psnr_db"]) for attack in attacks]
    of_draws = {
        "accuracy": [measurement.accuracy["test"] for measurement in measured],
        "psnr_db": [attack["psnr_db"] for attack in attacks],
    }
    ends = {}
    for name, values in of_draws.items():
        found = bootstrap(of_images(np.mean(values, axis=0)), mean_of, sources)
        ends |= {f"{name}_low": found.low, f"{name}_high": found.high}
    falling = [m.reports[name].get("falling_percent_per_doubling", 0.0) for m, name in pairs]
    accuracy = [accuracies(m.accuracy["test"], m.labels["test"]) for m in measured]
    values = int(np.prod(measured[0].cell.topology.representation_shape(_SIZE)))
    return {
        **{name: [of[name] for of in accuracy] for name in ("accuracy", "balanced_accuracy")},
        "psnr_db_mean": [loss.mean for loss in psnr],
        **ends,
        "psnr_db_p95": [loss.p95 for loss in psnr],
        "ssim_mean": [summarise(attack["ssim"]).mean for attack in attacks],
        "attacker": "/".join(sorted({name for _, name in pairs})),
        # Of several draws the one that was furthest from its end: the mean rests on all.
        "falling_percent_per_doubling": float(max(falling)),
        "epsilon": row.defence.epsilon(values),
        "train_seconds": float(sum(m.seconds for m in measured)),
    }


def _strongest(measurement: Measurement) -> str:
    attacks = measurement.attacks
    return max(attacks, key=lambda name: attacks[name]["test"]["psnr_db"].mean())


if __name__ == "__main__":
    cli.run(main, continues=True)
