"""What leaks without a picture being rebuilt: attributes, identities and membership.

    python -m experiments.infer --workdir=runs/first --attributes=feature:scale,brightness
    python -m experiments.infer --topologies=4:16,7:16 --out=inference.csv

Attacks the first draw of every (layers, depth, selection) of a finished characterisation, with its
data and training lengths; or the topologies that --topologies names as layers:depth, with random
channels. Prints every number with a 95 % bootstrap interval over images, beside chance and, for
attributes, beside the same attack on the images themselves. Writes inference.csv: to the work
directory, or to --out.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import cli
from privynet_jax import grid
from privynet_jax.attacks.scenario import Scenario, make_scenario
from privynet_jax.cache import load_features
from privynet_jax.cells import Cell, grid_cells
from privynet_jax.data import Parts, load_parts
from privynet_jax.errors import UserError
from privynet_jax.execution import default_execution
from privynet_jax.files import write_atomically
from privynet_jax.inference.suite import ATTACKS, ATTRIBUTE, REIDENTIFICATION, Settings, Suite
from privynet_jax.models import attacker, cloud_nn
from privynet_jax.partition import spread_over_classes
from privynet_jax.selection import all_channels
from privynet_jax.store import ResultStore
from privynet_jax.topology import Topology
from privynet_jax.training import Schedule
from privynet_jax.weights import load_weights

for _shared in (
    *("workdir", "out", "weights", "cache_dir", "data_dir", "seed"),
    *("max_images", "skip_unreadable"),
):
    flags.declare_key_flag(_shared)
_INFERENCES = flags.DEFINE_list("inferences", list(ATTACKS), f"Which of {', '.join(ATTACKS)}.")
_TOPOLOGIES = flags.DEFINE_list(
    "topologies", [], "Without --workdir: layers:depth, such as 4:16; channels are drawn by --seed."
)
_PICTURES = flags.DEFINE_string(
    "pictures", "photo_patches", "Without --workdir: photo_patches, folder:PATH or TFDS name."
)
_ATTRIBUTES = flags.DEFINE_list(
    "attributes",
    ["brightness", "colour"],
    "What to infer: brightness, contrast, colour, class, or feature:NAME of a TFDS data set.",
)
_CANDIDATES = flags.DEFINE_list(
    "candidates", ["100"], "Numbers of pictures among which one is to be found."
)
_QUERIES = flags.DEFINE_integer("queries", 500, "Test images that are to be re-identified.", 1)
_SHADOWS = flags.DEFINE_integer("shadows", 8, "Shadow networks per kind of LiRA; even.", 2)
_NETWORK_STEPS = flags.DEFINE_integer(
    "network_steps", None, "Of every cloud NN, classifier and shadow; default: as characterised.", 1
)
_REBUILDING_STEPS = flags.DEFINE_integer(
    "rebuilding_steps", None, "Of the attacker whose reconstructions are looked up; likewise.", 1
)
_QUICK = {"cloud": 300, "attacker": 500}  # the quickstart's


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What is attacked, and the networks of its characterisation."""

    parts: Parts
    cells: tuple[Cell, ...]
    settings: grid.Settings
    seed: int


def main() -> None:
    chosen = _checked_attacks()
    out = _out()
    cli.use_cpu_cores(at_most=_SHADOWS.value)
    run = _of_workdir() if cli.WORKDIR.value else _of_flags()
    weights = load_weights(cli.WEIGHTS.value or "embedded", cache_dir=_local_cache())
    if cli.WORKDIR.value:
        _check_weights(weights.fingerprint)
    settings = _suite_settings(run)
    layers = sorted({cell.topology.num_layers for cell in run.cells})
    features = load_features(weights, run.parts, all_channels(layers), cli.cache_folder())
    scenes = {
        cell: make_scenario(
            weights,
            run.parts,
            cell.topology,
            cli.cache_folder(),
            features=features[cell.topology.num_layers],
        )
        for cell in run.cells
    }
    rows = _attacked(run, scenes, features, settings, chosen)
    write_atomically(out, _as_csv(rows))
    print(as_text(rows))
    print(
        "Intervals are 95 % bootstrap ones over images. References are the same attack on the "
        f"images themselves. The table is in {out}."
    )


def _attacked(
    run: Run,
    scenes: Mapping[Cell, Scenario],
    features: Mapping[int, Any],
    settings: Settings,
    chosen: Sequence[str],
) -> list[dict[str, Any]]:
    key = jax.random.fold_in(jax.random.key(run.seed), len(ATTACKS))
    used = settings if ATTRIBUTE in chosen else dataclasses.replace(settings, attributes=())
    with tqdm(desc="attacking", bar_format=_BAR_FORMAT) as bar:
        suite = Suite(run.parts, used, cli.data_folder(), key, lambda share: _told(bar, share))
        shared = suite.networks(ATTRIBUTE) if ATTRIBUTE in chosen else 0
        bar.total = shared + sum(suite.networks(name) for name in chosen) * len(scenes)
        if REIDENTIFICATION in chosen:
            bar.total += 2 * len(scenes)
        queries = spread_over_classes(run.parts.test.labels, _QUERIES.value)
        rebuilt = (
            _reconstructions(run, features, queries, bar) if REIDENTIFICATION in chosen else {}
        )
        rows = []
        for cell, scene in scenes.items():
            found = []
            for name in chosen:
                if name == REIDENTIFICATION:
                    found += suite.reidentification(scene, *rebuilt[cell], queries)
                else:
                    found += getattr(suite, name)(scene)
            identity = {
                "num_layers": cell.topology.num_layers,
                "layer": cell.topology.layer.name,
                "depth": cell.topology.depth,
                "selection": cell.selection,
                "draw": cell.draw,
            }
            rows += [identity | row for row in found]
    return rows


def _reconstructions(
    run: Run, features: Mapping[int, Any], queries: np.ndarray, bar: tqdm
) -> dict[Cell, tuple[np.ndarray, str]]:
    """Returns cell -> estimates of the queries, and the attacker, the strongest on validation."""
    found = {}
    per_layer = max(
        sum(cell.topology.num_layers == layer for cell in run.cells) for layer in features
    )
    for measurement in grid.characterise(
        run.cells,
        run.cells,
        run.cells,
        features,
        run.parts,
        run.settings,
        default_execution(per_layer),
        seed=run.seed,
        examples=queries,
        progress=lambda share: _told(bar, 2 * share),
    ):
        name, _ = max(
            measurement.attacks.items(), key=lambda entry: entry[1]["validation"]["psnr_db"].mean()
        )
        found[measurement.cell] = measurement.examples[name], name
    return found


def _of_workdir() -> Run:
    """The first draws of a finished characterisation."""
    if _TOPOLOGIES.value or cli.MAX_IMAGES.value:
        raise UserError(
            "--workdir brings its own topologies and images; leave out --topologies and "
            "--max_images"
        )
    store, config = ResultStore.existing(cli.needed_folder(cli.WORKDIR))
    results = store.grid_results(config)
    parts = load_parts(
        config["dataset"],
        data_dir=cli.data_folder(),
        image_size=config["image_size"],
        seed=config["seed"],
        max_images=config.get("max_images"),
        skip_unreadable=cli.SKIP_UNREADABLE.value,
    )
    if parts.fingerprint != config.get("data_fingerprint", parts.fingerprint):
        raise UserError(
            f"{config['dataset']} holds other images than {store.workdir} was made with; give the "
            "same data set and --data_dir"
        )
    cells = tuple(
        Cell(Topology(r.num_layers, r.channels), r.draw, r.selection)
        for r in results
        if r.draw == 0
    )
    return Run(parts, cells, _networks(parts, config), config["seed"])


def _of_flags() -> Run:
    cells = []
    for text in _TOPOLOGIES.value:
        layers, _, depth = text.partition(":")
        if not (layers.isdecimal() and depth.isdecimal()):
            raise UserError(f"--topologies names {text!r}; expected layers:depth, as in 4:16,7:16")
        cells += grid_cells((int(layers),), (int(depth),), 1, cli.SEED.value)
    if not cells:
        raise UserError("neither --workdir nor --topologies is given; one of them is needed")
    if len(set(cells)) < len(cells):
        raise UserError("--topologies names one twice; give each once")
    parts = load_parts(
        _PICTURES.value,
        data_dir=cli.data_folder(),
        seed=cli.SEED.value,
        max_images=cli.limits(cli.MAX_IMAGES.value),
        skip_unreadable=cli.SKIP_UNREADABLE.value,
    )
    return Run(parts, tuple(cells), _networks(parts, {}), cli.SEED.value)


def _networks(parts: Parts, config: Mapping[str, Any]) -> grid.Settings:
    """The networks of a characterisation, by default the quickstart's, with the flags' steps."""
    cloud = {"steps": _QUICK["cloud"], **config.get("cloud", {})}
    attacking = {
        "steps": _QUICK["attacker"],
        "batch_size": 16,
        "learning_rate": 3e-3,
        **config.get("attacker", {}),
    }
    size = parts.image_size
    return grid.Settings(
        cloud=cloud_nn(parts.num_classes, size, config.get("cloud_width", 64)),
        attacker=attacker(size, config.get("attacker_width", 64), config.get("attacker_blocks", 2)),
        cloud_schedule=Schedule(**cloud | _given("steps", _NETWORK_STEPS.value)),
        attacker_schedule=Schedule(**attacking | _given("steps", _REBUILDING_STEPS.value)),
    )


def _given(name: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {name: value}


def _suite_settings(run: Run) -> Settings:
    most = len(run.parts.test)
    try:
        candidates = tuple(int(text) for text in _CANDIDATES.value)
    except ValueError:
        candidates = ()
    if not candidates or not all(2 <= count <= most for count in candidates):
        raise UserError(
            f"--candidates={','.join(_CANDIDATES.value)}; allowed are whole numbers from 2 to "
            f"{most}, the test images there are"
        )
    return Settings(
        cloud=run.settings.cloud_schedule,
        width=run.settings.cloud.width,
        attributes=tuple(_ATTRIBUTES.value),
        candidates=candidates,
        shadows=_SHADOWS.value,
    )


def _checked_attacks() -> list[str]:
    unknown = [name for name in _INFERENCES.value if name not in ATTACKS]
    if unknown or not _INFERENCES.value:
        raise UserError(
            f"--inferences={','.join(_INFERENCES.value)}; allowed are {', '.join(ATTACKS)}"
        )
    if _SHADOWS.value % 2:
        raise UserError(f"--shadows={_SHADOWS.value}; allowed are even numbers from 2")
    return [name for name in ATTACKS if name in _INFERENCES.value]


def _check_weights(fingerprint: str) -> None:
    store, config = ResultStore.existing(cli.needed_folder(cli.WORKDIR))
    if fingerprint != config["weights_fingerprint"]:
        raise UserError(f"{store.workdir} was made with other weights; give them as --weights")


def _local_cache() -> Path:
    return cli.folder("cache_dir", cli.CACHE_DIR.value)


def _out() -> Path:
    """Where the table goes, refused before anything is trained for it."""
    if not cli.OUT.value:
        return cli.needed_folder(cli.WORKDIR) / "inference.csv"
    out = Path(cli.OUT.value).expanduser()
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out={out} must be a file in a folder that exists; give such a file")
    return out


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows for people to read."""
    header = (
        f"{'layers':<11} {'depth':>5}  {'attack':<17} {'variant':<52} {'number':<15} "
        f"{'value (95 %)':<25} {'chance':>8}  {'reference':>9}"
    )
    lines = [header, "-" * len(header)]
    for row in rows:
        value, low, high = (_short(row[name]) for name in ("value", "low", "high"))
        lines.append(
            f"{row['num_layers']:2d} {row['layer']:<8} {row['depth']:5d}  {row['attack']:<17} "
            f"{row['variant']:<52} {row['number']:<15} {f'{value} ({low}-{high})':<25} "
            f"{_short(row['chance']):>8}  {_short(row['reference']):>9}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _told(bar: tqdm, share: float) -> None:
    bar.update(min(share, bar.total - bar.n))


_BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} networks [{elapsed}<{remaining}]"


if __name__ == "__main__":
    cli.run(main)
