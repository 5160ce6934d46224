"""What an attacker's knowledge is worth: pairs, pictures, planted pictures, and the secret draw.

    python -m experiments.compare_knowledge --out=runs/knowledge --other_dataset=folder:pictures

For several draws of channels per layer, whose order is shuffled, attackers of all three classes are
compared: `pairs`, with all pairs and with few, and with pairs whose images come from another data
set, made by the same local NN; `public`, with pictures of the same kind and of the other data set,
and with some of its pictures planted in the release, so that it knows what was released of them;
and `leak`, who knows the channels. What `leak` finds beyond `public` is what the secret draw is
worth. All attackers of a draw have the same random key, and are scored on the same test images,
which some optimise one by one: hence --attacked_images. Prints a table, and writes knowledge.csv (a
row per draw, with 95 % intervals over the sources of test images) and knowledge.png. Run again, it
measures what is missing.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing import knowledge, knowledge_tables
from experiments.comparing.ground import SHARED, Ground, deciding, filled, kept_rows, load_ground
from experiments.comparing.knowledge import Attackers, Case
from privynet_jax import Budget, Parts, Protocol, Training, UserError, named_attacks
from privynet_jax.attacks.base import PAIRS, Attack
from privynet_jax.attacks.public.public_attack import PUBLIC
from privynet_jax.attacks.registry import WHITE_BOX
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.topology import Topology, all_channels
from privynet_jax.characterisation.config import check_side
from privynet_jax.characterisation.measure import outcomes
from privynet_jax.errors import DivergedError, everything_first
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.progress import Bar
from privynet_jax.results import cells as grids
from privynet_jax.results.cells import Cell, Measurement
from privynet_jax.results.statistics import bootstrap, mean_of, p95_of
from privynet_jax.results.text_tables import as_csv
from privynet_jax.training.models.attackers import STRONG

cli.key_flags(f"{SHARED} attacked_images")
_DATASET, _LAYERS, _SIZE = map(cli.setting, ("dataset", "layers", "image_size"))
_DEPTHS, _DRAWS = cli.setting("depths", default=(16,)), cli.setting("draws", default=5)
_OTHER = flags.DEFINE_string(
    "other_dataset", None, "Another one: folder:PATH or a TFDS name; default: not compared with."
)
_STEPS = flags.DEFINE_integer("steps", 500, "Mini-batches of an attacker that is trained.", 1)
_PAIRS = flags.DEFINE_list(
    "pairs", ["10", "100", "1000"], "Numbers of pairs beside all of them; of planted ones, too."
)


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    cli.use_cpu_cores()
    layers, depths, pairs = map(cli.whole_numbers, (_LAYERS, _DEPTHS, _PAIRS))
    # Refuses what is given twice, and what a layer is too small for.
    grids.grid_cells(layers, depths, _DRAWS.value, cli.SEED.value)
    check_side(_SIZE.value, layers)
    attackers = _attackers()
    _check_pairs(pairs, attackers.pairs)
    names = ("dataset", "other_dataset", "image_size", "steps", "attacked_images")
    settings, rows = {**deciding(*names), "attacker": attackers.pairs.name}, []
    grounds = _grounds(layers)
    settings["data"] = [ground.parts.fingerprint for ground in grounds]
    kept = kept_rows(out, settings, "knowledge", _DATASET.value, _OTHER.value or "")
    compared = {
        number: list(knowledge.cases(attackers, pairs, number, *grounds)) for number in layers
    }
    knowledge.check_images(itertools.chain(*compared.values()))  # before any attacks for hours
    places = list(itertools.product(layers, depths))
    total = _DRAWS.value * sum(len(compared[number]) for number, _ in places)
    bar = Bar(total=total, desc="attacking", unit="attack")
    with everything_first() as postponed, bar:
        for number, depth in places:
            for attack, group in knowledge.side_by_side(compared[number], _drawn(number, depth)):
                titled = {f"{cell.name}, {case.words}": (case, cell) for case, cell in group}
                with postponed():
                    rows += filled(kept, titled, functools.partial(_measured, attack))
                bar.update(len(group))
    order = {case.words: i for i, case in enumerate(next(iter(compared.values())))}
    rows.sort(key=lambda row: (row["layers"], row["depth"], row["draw"], order[row["knowledge"]]))
    write_atomically(out / "knowledge.csv", as_csv(rows))
    write_atomically(out / "knowledge.png", knowledge_tables.picture(rows))
    print(knowledge_tables.as_text(rows))
    print(f"knowledge.csv and knowledge.png are in {out}.")


def _grounds(layers: Sequence[int]) -> list[Ground]:
    """Returns the data set with all channels of these layers, and the other one, if any."""
    size, union = _SIZE.value, all_channels(layers, VGG16)
    grounds = [load_ground(_DATASET.value, union, image_size=size)]
    if _OTHER.value:
        grounds.append(load_ground(_OTHER.value, union, image_size=size, max_images={}))
    return grounds


def _drawn(number: int, depth: int) -> list[Cell]:
    """Draws of channels, released in another order than the layer's."""
    cells = []
    for draw in range(_DRAWS.value):
        place = (number, depth, draw, cli.SEED.value)
        stream = np.random.default_rng(np.asarray(jax.random.key_data(grids.draw_key(*place))))
        order = stream.permutation(grids.draw_channels(*place))
        cells.append(Cell(Topology(number, tuple(map(int, order))), draw))
    return cells


def _measured(
    attack: Attack, missing: Sequence[tuple[Case, Cell]]
) -> list[dict[str, Any] | DivergedError]:
    scenes = [case.scene(cell.topology) for case, cell in missing]
    attacked = _attacked_images(scenes[0].parts)  # all cases have the same
    protocol = Protocol(attacks=[attack], attacked=attacked)
    found = outcomes([cell for _, cell in missing], scenes, protocol, cli.SEED.value)
    return [
        each if isinstance(each, DivergedError) else _row(case, each)
        for (case, _), each in zip(missing, found, strict=True)
    ]


def _attacked_images(parts: Parts) -> np.ndarray:
    """Returns which test images all attackers are scored on, int [n]."""
    return np.sort(spread_over_classes(parts.test.labels, cli.ATTACKED_IMAGES.value or None))


def _row(case: Case, measured: Measurement) -> dict[str, Any]:
    topology, quality = measured.cell.topology, measured.attacks[case.attack.name]["test"]
    parts, psnr_db = case.ground.parts, quality["psnr_db"]
    sources = parts.test.clusters(_attacked_images(parts))
    return {
        "layers": topology.num_layers,
        "layer": topology.layer.name,
        "depth": topology.depth,
        "draw": measured.cell.draw,
        **case.columns,
        **bootstrap(psnr_db, mean_of, sources).columns("psnr_db_mean"),
        **bootstrap(psnr_db, p95_of, sources).columns("psnr_db_p95"),
        "psnr_db_max": float(psnr_db.max()),
        "ssim_mean": float(quality["ssim"].mean()),
        **_guessed(measured.reports[case.attack.name], topology),
    }


def _guessed(report: Mapping[str, Any], topology: Topology) -> dict[str, Any]:
    """What a guess was worth; the attacker itself knows its confidence alone."""
    if (guess := report.get("guess")) is None:
        return {"found": "", "found_in_5": "", "confidence": ""}
    return {
        "found": guess.share_found(topology.channels),
        "found_in_5": guess.share_found(topology.channels, top=5),
        "confidence": report["confidence"],
    }


def _attackers() -> Attackers:
    """Returns who attacks: by class, with the one of pairs alone as --attackers says."""
    training = Training(Budget(_STEPS.value))
    attacks = named_attacks(cli.ATTACKERS.value or [STRONG], training)
    if len(attacks) > 1 or attacks[0].knowledge != PAIRS:
        told = f"--attackers={','.join(cli.ATTACKERS.value)}; allowed is one"
        raise UserError(f"{told} that needs pairs alone; give linear or a network's name")
    return Attackers(*attacks, *named_attacks([PUBLIC, f"{WHITE_BOX} from {STRONG}"], training))


def _check_pairs(counts: Sequence[int], attack: Attack) -> None:
    least = getattr(attack, "least_pairs", 1)
    if counts:  # else all pairs are enough
        grids.check_values("--pairs", counts)
    if min(counts, default=least) < least:
        allowed = f"{least} pairs and more with --attackers={attack.name}"
        raise UserError(f"--pairs={','.join(_PAIRS.value)}; allowed are {allowed}; give more")


if __name__ == "__main__":
    cli.run(main, continues=True)
