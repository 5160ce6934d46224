"""How privacy loss depends on what the attacker knows, and what the secret draw is worth.

    python -m experiments.compare_knowledge --out=runs/knowledge --other_dataset=folder:pictures

The same attack is fitted, for several draws of channels per layer, on pairs; on pairs whose images
come from another data set, made by the same local NN; and by an attacker who has no pairs but knows
VGG16 and the number of layers, and guesses the channels: at random, another at random per image, or
by statistics of the release. Then again on 10 pairs and more. All attackers of a draw have the same
random key: they differ by what they know, and not by luck as well. All are scored on test images.
Prints a table, and writes knowledge.csv (a row per draw) and knowledge.png. Run again, it measures
what is missing. --white_box adds an attacker who knows everything; it costs 150 gradients per test
image, so give --max_images=test=100 or so.

The release's order of channels is shuffled, and the attacker knows nothing of it, unless
--ascending says that it is the layer's own, which the attacker then knows as well.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.comparing import knowledge_tables
from experiments.comparing.knowledge_cases import Case, Layer, Pools, cases, halves, side_by_side
from privynet_jax.attacks.base import PAIRS, Attack
from privynet_jax.attacks.closed_form import LINEAR
from privynet_jax.attacks.registry import Training, named_attacks
from privynet_jax.attacks.tuning import Budget
from privynet_jax.backbone.backbones import VGG16
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.topology import Topology, all_channels
from privynet_jax.backbone.weights.sources import load_weights
from privynet_jax.characterisation.config import Config, check_side
from privynet_jax.characterisation.measure import Protocol, measure
from privynet_jax.errors import UserError
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.resuming import KeptRows
from privynet_jax.results.cells import Cell, check_values, draw_channels, draw_key, grid_cells
from privynet_jax.results.measurement import Measurement
from privynet_jax.results.statistics import summarise
from privynet_jax.results.text_tables import as_csv

_SHARED = ("seed", "weights", "cache_dir", "data_dir", "max_images", "skip_unreadable")
for _name in ("out", "attackers", *_SHARED):
    flags.declare_key_flag(_name)
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
_STEPS = flags.DEFINE_integer("steps", 500, "Mini-batches of an attacker that is trained.", 1)
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


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is compared, and on what; most fields are the flag of their name."""

    dataset: str
    other_dataset: str | None
    image_size: int
    layers: Sequence[int]
    depths: Sequence[int]
    draws: int
    attack: Attack
    pairs: Sequence[int]
    pool: int
    ascending: bool
    white_box: bool
    seed: int
    deciding: Mapping[str, Any]


def main() -> None:
    out = cli.needed_folder(cli.OUT)
    cli.use_cpu_cores(at_most=_DRAWS.value)
    compare(_settings(), out)


def compare(settings: Settings, out: Path) -> None:
    """Measures what `out` lacks, and writes the table and the picture there."""
    kept, rows = KeptRows.opened(out, settings.deciding), []
    compared = {number: list(_cases(*of, settings)) for number, of in _layers(settings).items()}
    places = list(itertools.product(settings.layers, settings.depths))
    total = settings.draws * sum(len(compared[number]) for number, _ in places)
    with tqdm(total=total, desc="attacking", unit="attack") as bar:
        for number, depth in places:
            drawn = _drawn(number, depth, settings)
            for attack, group in side_by_side(compared[number], *drawn):
                rows += _rows(attack, group, settings.seed, kept)
                bar.update(len(group))
    order = {case.words: i for i, case in enumerate(next(iter(compared.values())))}
    rows.sort(key=lambda row: (row["layers"], row["depth"], row["draw"], order[row["knowledge"]]))
    write_atomically(out / "knowledge.csv", as_csv(rows))
    write_atomically(out / "knowledge.png", knowledge_tables.picture(rows))
    print(knowledge_tables.as_text(rows))
    print(f"knowledge.csv and knowledge.png are in {out}.")


def _settings() -> Settings:
    layers, depths, pairs = map(cli.whole_numbers, (_LAYERS, _DEPTHS, _PAIRS))
    # Refuses what is given twice, and what a layer is too small for.
    grid_cells(layers, depths, 1, cli.SEED.value)
    check_side(_SIZE.value, layers)
    _check_pool(layers, depths)
    attack = _attack()
    _check_pairs(pairs, attack)
    deciding = ("dataset", "other_dataset", "image_size", "steps", "pool", "ascending", "seed")
    deciding += ("weights", "max_images")
    given = {name: flags.FLAGS[name].value for name in deciding}
    names = [field.name for field in dataclasses.fields(Settings)]
    mine = {name: flags.FLAGS[name].value for name in names if name not in ("attack", "deciding")}
    lists = {"layers": layers, "depths": depths, "pairs": pairs, "attack": attack}
    return Settings(**mine | lists, deciding={**given, "attacker": attack.name})


def _layers(settings: Settings) -> dict[int, tuple[Layer, Layer | None]]:
    """Returns number of layers -> the layer, and the same on the other data set, if any."""
    size, cache_dir = settings.image_size, cli.cache_folder()
    weights = load_weights(cli.WEIGHTS.value or "embedded", cache_dir=cache_dir)
    data = [cli.load_data(settings.dataset, image_size=size)]
    if settings.other_dataset not in (None, _CLASSES):
        data.append(cli.load_data(settings.other_dataset, image_size=size, max_images={}))
    union = all_channels(settings.layers, VGG16)
    features = [load_features(weights, d, union, cache_dir, dtype="float16") for d in data]
    loaded = {}
    for number in settings.layers:
        of_layer = [stored[number] for stored in features]
        found = [Layer(*each, weights) for each in zip(data, of_layer, strict=True)]
        if settings.other_dataset == _CLASSES:
            found = halves(found[0])
        loaded[number] = (found[0], found[1] if len(found) > 1 else None)
    return loaded


def _drawn(number: int, depth: int, settings: Settings) -> tuple[list[Cell], Pools]:
    """Returns draws of channels, and what each was made from, as far as the attacker knows."""
    cells, pools = [], {}
    for draw in range(settings.draws):
        key = draw_key(number, depth, draw, settings.seed)
        stream = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        pools[draw] = None
        if settings.pool:
            every = stream.permutation(VGG16.cut(number).channels)
            pools[draw] = tuple(sorted(map(int, every[: settings.pool])))
        channels = draw_channels(number, depth, draw, settings.seed, pools[draw])
        order = channels if settings.ascending else stream.permutation(channels)
        cells.append(Cell(Topology(number, tuple(map(int, order))), draw))
    return cells, pools


def _cases(layer: Layer, other: Layer | None, settings: Settings) -> Iterator[Case]:
    told = {"ascending": settings.ascending, "white_box": settings.white_box}
    return cases(layer, settings.attack, settings.pairs, other=other, **told)


def _rows(
    attack: Attack, group: Sequence[tuple[Case, Cell]], seed: int, kept: KeptRows
) -> list[dict[str, Any]]:
    """Returns a row per case and draw of one attack; measures those that are not kept."""
    titles = {pair: f"{pair[1].name}, {pair[0].words}" for pair in group}
    rows = {pair: kept.read(title) for pair, title in titles.items()}
    if missing := [pair for pair in group if rows[pair] is None]:
        scenes = [case.scene(cell.topology) for case, cell in missing]
        every = np.arange(len(scenes[0].parts.test))
        protocol = Protocol(attacks=[attack], attacked=every)
        found = measure([cell for _, cell in missing], scenes, protocol, seed)
        for pair, measured in zip(missing, found, strict=True):
            rows[pair] = _row(pair[0], attack.name, measured)
            kept.write(titles[pair], rows[pair])
    return list(rows.values())


def _row(case: Case, attack: str, measured: Measurement) -> dict[str, Any]:
    topology, quality = measured.cell.topology, measured.attacks[attack]["test"]
    psnr_db = summarise(quality["psnr_db"])
    return {
        "layers": topology.num_layers,
        "layer": topology.layer.name,
        "depth": topology.depth,
        "draw": measured.cell.draw,
        "knowledge": case.words,
        "attack": attack,
        "images": case.images,
        "psnr_db_mean": psnr_db.mean,
        "psnr_db_p95": psnr_db.p95,
        "psnr_db_max": psnr_db.max,
        "ssim_mean": summarise(quality["ssim"]).mean,
        **_guessed(measured.reports[attack], topology),
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


def _attack() -> Attack:
    """Returns the attack that is tried with all kinds of knowledge."""
    attacks = named_attacks(cli.ATTACKERS.value or [LINEAR], Training(Budget(_STEPS.value)))
    if len(attacks) > 1 or attacks[0].knowledge != PAIRS:
        raise UserError(
            f"--attackers={','.join(cli.ATTACKERS.value)}; allowed is one that needs pairs alone, "
            "for it is tried with all kinds of knowledge; give linear or a network's name"
        )
    return attacks[0]


def _check_pool(layers: Sequence[int], depths: Sequence[int]) -> None:
    narrowest = min(len(channels) for channels in all_channels(layers, VGG16).values())
    if _POOL.value and not max(depths) <= _POOL.value <= narrowest:
        raise UserError(
            f"--pool={_POOL.value}; allowed are {max(depths)} candidates, the greatest of the "
            f"depths, to {narrowest}, the channels of the narrowest layer"
        )


def _check_pairs(counts: Sequence[int], attack: Attack) -> None:
    """Refuses numbers of pairs that are given twice, or that the attack cannot be fitted on."""
    least = getattr(attack, "least_pairs", 1)
    if counts:  # else all pairs are enough
        check_values("--pairs", counts)
    if min(counts, default=least) < least:
        raise UserError(
            f"--pairs={','.join(_PAIRS.value)}; allowed are {least} pairs and more with "
            f"--attackers={attack.name}; give more"
        )


if __name__ == "__main__":
    cli.run(main)
