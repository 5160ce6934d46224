"""Which mechanisms are worth it: accuracy against privacy loss of each, in one table.

    python -m experiments.compare_mechanisms --out=runs/mechanisms

Trains a cloud NN and attackers of every class for every (layers, depth, mechanism), all of them on
what is released, with the quickstart's networks and steps: minutes per row on 2 CPU cores. Run
again, it does what is missing. Without a mechanism, PrivyNet offers deeper layers and fewer
channels instead; a mechanism is of use where it is more accurate than those at equal privacy loss.
Writes mechanisms.csv and mechanisms.png.

Everybody knows the mechanism and its parameters. Attackers of class `pairs` have pairs under the
very release's secret, of what is random also the mean of several releases of each picture, as many
as --averaged_releases; `public` has pictures of its own and the release; `leak` has the secret, or
the local NN, too. Beside those that --attackers names, each mechanism has attackers that undo it. A
class that has none of its own for a mechanism is left empty, not safe. Whoever has pairs also tells
--private_attribute from releases, which some mechanisms are made to hide.

A mechanism is named with its parameters, as in laplace:clip=0.5,scale=1 or rmt:block=4;
`privynet_jax.mechanisms` has all of them. Epsilon, where there is one, is the local differential
privacy of one image's release. Beside it stands what no attacker's error should fall below, by
bounds of the literature, and whether one did (`privynet_jax.mechanisms.bounds`).
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing import mechanism_bounds, mechanism_tables
from experiments.comparing.attribute_trials import attribute_told, told_summary
from experiments.comparing.ground import SHARED, deciding, filled, kept_rows, load_ground
from experiments.comparing.mechanism_tables import Row
from experiments.comparing.mechanism_trials import measured_by_all, scenes_under, summary
from privynet_jax import Budget, Protocol, Schedule, cloud_nn, grid_cells
from privynet_jax.attacks.base import Attack
from privynet_jax.attacks.closed_form import LINEAR
from privynet_jax.attacks.inference.attributes import attribute_values, check_attributes, count_of
from privynet_jax.attacks.inverse import InverseNetwork
from privynet_jax.attacks.public.public_attack import PUBLIC
from privynet_jax.attacks.registry import WHITE_BOX, Training, named_attacks
from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.errors import everything_first
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.mechanisms.guarantees import DELTA
from privynet_jax.mechanisms.information import prior_of
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.mechanisms.releases import copies_for
from privynet_jax.mechanisms.scenes import Pictures
from privynet_jax.mechanisms.words import parse_mechanisms
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cells import Cell
from privynet_jax.results.text_tables import as_csv
from privynet_jax.training.models.attackers import STRONG, capacities_of_size

cli.key_flags(f"{SHARED} attacked_images")
# Names of their own: characterize has flags "layers" and so on, of another meaning.
_LAYERS = flags.DEFINE_list("mechanism_layers", ["4"], "Layers that have mechanisms.")
_DEPTHS = flags.DEFINE_list("mechanism_depths", ["16"], "Their numbers of channels.")
_OWN_LAYERS = flags.DEFINE_list(
    "own_layers", ["4", "7", "10"], "Layers of PrivyNet's own trade-off, without a mechanism."
)
_OWN_DEPTHS = flags.DEFINE_list("own_depths", ["8", "16", "32"], "Their numbers of channels.")
_MECHANISMS = flags.DEFINE_string(
    "mechanisms",
    "gaussian:clip=1,sigma=0.5,gaussian:clip=1,sigma=1,gaussian:clip=1,sigma=2,"
    "gaussian:clip=1,sigma=45,"
    "laplace:clip=0.5,scale=0.25,laplace:clip=0.5,scale=0.5,laplace:clip=0.5,scale=1,"
    "arden:nullify=0.1,clip=0.5,scale=0.1,arden:nullify=0.2,clip=0.5,scale=0.25,"
    "arden:nullify=0.4,clip=0.5,scale=0.5,"
    "arden_trained:nullify=0.1,clip=0.5,scale=0.1,arden_trained:nullify=0.2,clip=0.5,scale=0.25,"
    "arden_trained:nullify=0.4,clip=0.5,scale=0.5,"
    "dropout:rate=0.25,dropout:rate=0.5,dropout:rate=0.75,"
    "quantise:bits=2,quantise:bits=1,"
    "quantise:bits=2,rounding=stochastic,quantise:bits=1,rounding=stochastic,"
    "early_exit,nopeek:weight=0.1,nopeek:weight=1,early_exit+quantise:bits=1,"
    "declustering:weight=1,declustering:weight=10,multidetasking:weight=1,"
    "priphit:clip=0.5,scale=0.25,disco:ratio=0.5,"
    "patrol:weight=10,"
    "rotation:critic=0,rotation:critic=1,quaternion:critic=1,"
    "rmt:block=4,rmt:block=4,noise=64,rmt:block=8,aes:keys=one,aes:keys=each,instahide:pictures=2,instahide:pictures=4",
    "Mechanisms with their parameters, separated by commas.",
)
_DRAWS = flags.DEFINE_integer("channel_draws", 2, "Random draws of channels per row.", 1)
_STEPS = flags.DEFINE_float("steps_factor", 1.0, "Times the quickstart's steps.", 0.01, 1000.0)
_REPEATS = flags.DEFINE_integer(
    "averaged_releases", 8, "Releases of a picture to average; 1: none.", 1
)
_ATTRIBUTE = flags.DEFINE_string(
    "private_attribute",
    "brightness",
    "What is told from releases besides: brightness, contrast, colour, classes:0+2/1 (groups of "
    "classes) or feature:NAME.",
)
_DATA_SET = flags.DEFINE_string(
    "compared_data", "photo_patches", "TFDS name, or folder:PATH of labelled pictures."
)

_STEPS_EACH, _CLOUD_BATCH, _ATTACKER_BATCH = 300, 32, 16
_SIZE = 32
# By default: the closed form, and of each class the strongest.
_USUAL = (STRONG, PUBLIC, f"{WHITE_BOX} from {STRONG}")
# Goes up with whatever makes kept rows mean something else, so that old ones are refused. 4:
# balanced accuracy; 5: an interval of accuracy; 8: classes of attackers; 9: networks that
# take negative values as they are; 10: bounds; 11: an attribute.
_ROW_VERSION = 11
_NOTE = (
    "Means over draws ± half their range, and in brackets 95 % intervals over the sources of test "
    "images; each class's attacker is each draw's strongest. gain: accuracy beyond the best "
    "topologies without a mechanism at equal PSNR of the strongest class, in points; empty where "
    f"none of them is as private. epsilon: of one image's release, at delta {DELTA:g} (Laplace "
    "noise: 0). These are measured attacks: they bound no other attacker."
)


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    cli.use_cpu_cores(at_most=_DRAWS.value)
    steps = max(1, round(_STEPS.value * _STEPS_EACH))
    (attacks, strong), rows = _attacks(steps), rows_of_flags()
    # Refuses what does not exist, before anything is trained.
    cells = {row: _cells(row) for row in rows}
    check_attributes([_ATTRIBUTE.value])
    given = deciding(_DRAWS.name, _STEPS.name, _REPEATS.name, _DATA_SET.name, "attacked_images")
    given |= deciding(_ATTRIBUTE.name)
    given |= {"attackers": [attack.name for attack in attacks], "row_version": _ROW_VERSION}
    split = [c for row, own in cells.items() if row.num_layers for c in own]
    union = needed_channels([cell.topology for cell in split])
    ground = load_ground(_DATA_SET.value, union, image_size=_SIZE)
    kept = kept_rows(out, given | ground.data, "mechanisms", _DATA_SET.value)
    test = ground.parts.test
    attribute = attribute_values(_ATTRIBUTE.value, ground.parts, cli.data_folder())
    # Of all attackers alike: some take seconds for each image.
    few = np.sort(spread_over_classes(test.labels, cli.ATTACKED_IMAGES.value or None))
    protocol = Protocol(
        cloud_nn(ground.parts.num_answers, _SIZE),
        Schedule(steps, _CLOUD_BATCH),
        attacks,
        attacked=few,
    )
    most = copies_for(steps * _ATTACKER_BATCH, len(ground.parts.auxiliary))

    prior = functools.cache(lambda: prior_of(ground.parts.auxiliary.images))

    def measured(missing: Sequence[Row]) -> list[dict[str, Any]]:
        [row] = missing
        copies = most if row.mechanism.is_random else 1
        own, seed, sources = cells[row], cli.SEED.value, test.clusters()
        scenes = scenes_under(ground, own, row.mechanism, copies, seed)
        given = seed, _REPEATS.value
        found = measured_by_all(scenes, own, row, protocol, strong, *given)
        told = attribute_told(scenes, own, attribute, protocol.schedule, seed)
        numbers = summary(row, found, sources, few) | told_summary(told, attribute, sources)
        numbers["bounds"] = []
        if row.mechanism.added_noise is not None:
            bounds = mechanism_bounds.bounds_of(ground, own, row.mechanism, prior(), *given)
            numbers["bounds"] = mechanism_bounds.compared(found, bounds, sources[few])
        return [numbers]

    found = {}
    bar = progress_bar(len(rows), "trying mechanisms", "rows")
    with everything_first() as postponed, bar as advance:
        # One layer and depth after the other: each shape is compiled once.
        for row in sorted(rows, key=lambda row: (row.num_layers, row.depth)):
            with postponed():
                [found[row]] = filled(kept, {row.title: row}, measured)
            advance(1)
    _report(out, {row: found[row] for row in rows})
    print(f"Attackers were scored on {len(few)} of {len(test)} test images. {_NOTE}")
    print(
        f"attribute: balanced accuracy of who tells {_ATTRIBUTE.value} from one release of each "
        f"test image, the better of a linear probe and a network; by chance "
        f"{100 / count_of(attribute):.1f} %."
    )
    print(f"mechanisms.csv and mechanisms.png are in {out}.")


def _report(out: Path, found: Mapping[Row, Mapping[str, Any]]) -> None:
    """Writes and prints what was found of each row."""
    columns = [mechanism_bounds.columns(values["bounds"]) for values in found.values()]
    lines = zip(mechanism_tables.as_table(found), columns, strict=True)
    table = [line | bounds for line, bounds in lines]
    write_atomically(out / "mechanisms.csv", as_csv(table))
    write_atomically(out / "mechanisms.png", mechanism_tables.picture(table))
    print(mechanism_tables.as_text(table))
    print(mechanism_tables.convergence_note(table))
    noisy = {row.title: (of["epsilon"], of["bounds"]) for row, of in found.items() if of["bounds"]}
    if noisy:
        print(mechanism_bounds.as_text(noisy))


def _attacks(steps: int) -> tuple[Sequence[Attack], InverseNetwork]:
    """Those that are named, and the network that undoing attackers end with unless one is."""
    budget = Budget(steps, batch_size=_ATTACKER_BATCH)
    training = Training(budget, (1.0,), capacities_of_size(64, 2))
    [strong] = named_attacks([STRONG], training)
    return named_attacks({LINEAR, *(cli.ATTACKERS.value or _USUAL)}, training), strong


def _cells(row: Row) -> tuple[Cell, ...]:
    row.mechanism.check((_SIZE, _SIZE, 3))
    if row.num_layers:
        return grid_cells((row.num_layers,), (row.depth,), _DRAWS.value, cli.SEED.value)
    return tuple(Cell(Pictures(), draw) for draw in range(_DRAWS.value))


def rows_of_flags() -> list[Row]:
    """Returns PrivyNet's own rows, then those with mechanisms, last those of whole pictures."""
    lists = (_OWN_LAYERS, _OWN_DEPTHS, _LAYERS, _DEPTHS)
    layers, depths, *places = map(cli.whole_numbers, lists)
    mechanisms = parse_mechanisms(_MECHANISMS.value)
    split = [each for each in mechanisms if not each.releases_pictures]
    whole = [each for each in mechanisms if each.releases_pictures]
    found = [
        *itertools.product(layers, depths, [Plain()]),
        *itertools.product(*places, [Plain(), *split]),
        *((Pictures.num_layers, Pictures.depth, each) for each in whole),
    ]
    return list(dict.fromkeys(Row(*place) for place in found))


if __name__ == "__main__":
    cli.run(main, continues=True)
