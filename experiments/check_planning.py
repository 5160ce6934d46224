"""Do plans hold? Plans for random limits, each audited, against the best cells of the grid.

    python -m experiments.check_planning --workdir=runs/planning

Draws limits that can be planned for, lets the planner choose under each, draws channels, and trains
cloud NNs and attackers for them anew: with another seed and division of the data into parts, and
--training times the attackers' steps. They are the characterisation's unless --attackers names
others. Prints and writes planning.csv, one row per limit: whether the limit was kept, and the
balanced accuracy beside that of the best feasible cell of the grid.
"""

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import cli
from experiments.comparing.ground import Ground
from privynet_jax import Limits, ResultStore, UserError, session
from privynet_jax.backbone.features.feature_cache import load_features
from privynet_jax.backbone.features.layer_features import needed_channels
from privynet_jax.backbone.topology import METHODS, RANDOM
from privynet_jax.characterisation.config import DEDICATED, Config
from privynet_jax.characterisation.grid_run import protocol_of
from privynet_jax.characterisation.reopening import matching_weights
from privynet_jax.images.partition import spread_over_classes
from privynet_jax.planning import planner
from privynet_jax.planning.options import Option, options_of
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.cell_results import CellResult
from privynet_jax.results.cells import Cell, Measurement, draw_channels
from privynet_jax.results.statistics import accuracies
from privynet_jax.results.text_tables import aligned

cli.key_flags("workdir weights data_dir cache_dir seed")
cli.key_flags("skip_unreadable sixteen_bit_max attackers attacked_images training")
_LIMITS = flags.DEFINE_integer("num_limits", 20, "Limits that are drawn.", 1)
_SELECTION = flags.DEFINE_enum(
    "planned_selection", None, METHODS, "To plan with; default: direct if it is there, else random."
)
_MARGIN_DB = flags.DEFINE_float(
    "planned_margin_db", planner.MARGINS["psnr_db"], "The planner's, in dB.", 0.0
)
# Draws of channels that no cell of a grid has.
_FIRST_DRAW = 1000
_MOST_TRIES = 10_000


class Case(NamedTuple):
    """A limit, the planner's choice, and the best cells that keep it, of all and of `RANDOM`."""

    limits: Limits
    option: Option
    best: CellResult
    best_random: CellResult | None


def main() -> None:
    cli.use_cpu_cores(at_most=_LIMITS.value)
    store, settings = ResultStore.existing(cli.needed_folder(cli.WORKDIR))
    results = store.grid_results(settings)
    method = _SELECTION.value or ("direct" if "direct" in settings["selections"] else RANDOM)
    planned_with = [result for result in results if result.selection == method]
    if not planned_with:
        others = f"but {', '.join(settings['selections'])}; give one of those as"
        raise UserError(f"{store.workdir} has no selection {method}, {others} --{_SELECTION.name}")
    options = options_of(planned_with, settings["image_size"], "mean")
    cases = drawn_cases(options, results, _LIMITS.value, _MARGIN_DB.value, cli.SEED.value)
    cells = [
        Cell(case.option.topology(_channels(store, method, case.option, i)), i, method)
        for i, case in enumerate(cases)
    ]
    measured = _attacked(cells, settings, store)
    rows = [_row(*each) for each in zip(cases, cells, measured, strict=True)]
    store.write_csv("planning.csv", rows)
    print(as_text(rows))
    print(f"planning.csv is in {store.workdir}.")


def drawn_cases(
    options: Sequence[Option],
    results: Sequence[CellResult],
    count: int,
    margin_db: float,
    seed: int,
) -> list[Case]:
    """Returns limits that can be planned for, every second one of computation too, and plans."""
    stream, merit = np.random.default_rng(seed), operator.attrgetter("balanced_accuracy")
    margins = {**planner.MARGINS, "psnr_db": margin_db}
    promised = [planner.least_limit(option, "psnr_db", margins) for option in options]
    macs = [result.cost["local_macs"] / 1e6 for result in results]
    cases: list[Case] = []
    for _ in range(_MOST_TRIES):
        if len(cases) == count:
            return cases
        psnr_db = stream.uniform(min(promised), max(promised))
        mmacs = stream.uniform(min(macs), max(macs))
        limits = Limits(psnr_db=psnr_db, local_mmacs=mmacs if stream.random() < 0.5 else None)
        chosen = planner.choose(options, limits, margins).chosen
        feasible = [result for result in results if _keeps(result, limits)]
        if chosen is None or not feasible:
            continue
        random = [result for result in feasible if result.selection == RANDOM]
        best_random = max(random, key=merit, default=None)
        cases.append(Case(limits, chosen, max(feasible, key=merit), best_random))
    raise UserError(
        f"plans can be made for limits from {min(promised):.1f} to {max(promised):.1f} dB, which "
        "hardly any cell of the grid keeps on test images; characterise more draws or depths"
    )


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the findings for people to read."""
    shifts = [row["psnr_db"] - row["expected_psnr_db"] for row in rows]
    to_best, to_random = (
        [100 * (row["balanced_accuracy"] - row[name]) for row in rows if row[name] != ""]
        for name in ("best_balanced_accuracy", "best_random_balanced_accuracy")
    )
    kept = (
        f"{sum(row['kept'] for row in rows)} of {len(rows)} plans kept their limit. Audited PSNR "
        f"was {np.mean(shifts):+.1f} dB from what was expected (standard deviation "
        f"{np.std(shifts):.1f})."
    )
    accuracy = (
        f"Balanced accuracy, in points, against the best feasible cell: {np.mean(to_best):+.1f}"
    )
    if to_random:
        accuracy += f"; against the best one with random channels: {np.mean(to_random):+.1f}"
    return "\n".join([aligned(rows), "", kept, f"{accuracy}."])


def _keeps(result: CellResult, limits: Limits) -> bool:
    fits = result.cost["local_macs"] <= 1e6 * (limits.local_mmacs or math.inf)
    return fits and result.row()["psnr_db_mean"] <= (limits.psnr_db or 0.0)


def _channels(store: ResultStore, method: str, option: Option, index: int) -> tuple[int, ...]:
    """Channels that can be drawn again: this is a measurement, and protects nobody's pictures."""
    place, backbone, candidates = (option.num_layers, option.depth), option.backbone, None
    if method != RANDOM:
        candidates = store.load_candidates(method, *place, backbone)
    return draw_channels(*place, _FIRST_DRAW + index, cli.SEED.value, candidates, backbone)


def _attacked(
    cells: Sequence[Cell], settings: Mapping[str, Any], store: ResultStore
) -> list[Measurement]:
    """Trains and attacks the planned topologies anew, with another seed and longer."""
    attackers = {"attackers": tuple(cli.ATTACKERS.value)} if cli.ATTACKERS.value else {}
    config = Config.of_settings(
        settings,
        store.workdir,
        seed=cli.next_seed(settings["seed"]),
        mode=DEDICATED,  # a linear one had no attackers but the closed form
        **attackers,
    )
    config = dataclasses.replace(config, attacker=config.attacker.longer(cli.TRAINING.value))
    cache_dir = cli.folder("cache_dir", cli.CACHE_DIR.value)
    source = cli.WEIGHTS.value or Config.weights
    weights = matching_weights(source, settings, store.workdir, cache_dir)
    same = {"image_size": config.image_size, "max_images": config.max_images}
    parts = cli.load_data(config.dataset, seed=config.seed, **same)
    union = needed_channels([cell.topology for cell in cells])
    features = load_features(weights, parts, union, cache_dir, dtype=config.feature_dtype)
    few = spread_over_classes(parts.test.labels, cli.ATTACKED_IMAGES.value or None)
    protocol = dataclasses.replace(protocol_of(config, parts), optimised={"test": few})
    with progress_bar(len(cells), "attacking anew", "plans") as advance, session(progress=advance):
        found = dict(Ground(parts, weights, features).measured(cells, protocol, config.seed))
    return [found[cell] for cell in cells]


def _row(case: Case, cell: Cell, measured: Measurement) -> dict[str, Any]:
    psnr_db = max(float(by_part["test"]["psnr_db"].mean()) for by_part in measured.attacks.values())
    right = accuracies(measured.accuracy["test"], measured.labels["test"])
    return {
        "limit_psnr_db": case.limits.psnr_db,
        "limit_mmacs": case.limits.local_mmacs or "",
        "num_layers": cell.topology.num_layers,
        "depth": cell.topology.depth,
        "expected_psnr_db": case.option.expected.psnr_db.value,
        "expected_balanced_accuracy": case.option.expected.balanced_accuracy.value,
        "psnr_db": psnr_db,
        "kept": psnr_db <= (case.limits.psnr_db or 0.0),
        "balanced_accuracy": right["balanced_accuracy"],
        "best_cell": case.best.name,
        "best_balanced_accuracy": case.best.balanced_accuracy,
        "best_random_balanced_accuracy": case.best_random.balanced_accuracy
        if case.best_random
        else "",
    }


if __name__ == "__main__":
    cli.run(main)
