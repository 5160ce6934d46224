r"""Do plans hold? Episodes: a plan for one source of pictures after another, each audited.

    python -m experiments.check_planning --workdir=runs/public --photographs=photographs \
        --out=runs/episodes

Sources share no photograph: --photographs is a folder of them, cut into patches by twos, --sources
are labelled sets, as in folder:a,folder:b,fashion_mnist. For each, a limit is drawn, a plan is made
with a sample of it, as `experiments.plan` does, and audited by class public on other pictures of
it, as `experiments.audit` does. Writes episodes.csv: `plan --episodes=` takes its margins from it.
--rules=measured,expected,marginless does the same by other rules, with the same limits and secret
draws: what relying on expectations would have kept, and what accuracy the margin costs.
Minutes for each episode; the same command again continues where it was stopped.
"""

import csv
import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from experiments.comparing.ground import deciding, filled, kept_rows, one_by_one
from experiments.comparing.photograph_sources import photograph_sources
from privynet_jax import AuditSettings, Limits, Plan, UserError, audit_plan, plan_topology, session
from privynet_jax.attacks.public.public_attack import PUBLIC
from privynet_jax.errors import everything_first
from privynet_jax.images.folders import FOLDER_PREFIX
from privynet_jax.images.partition import stream_of
from privynet_jax.mechanisms.mechanism import Plain
from privynet_jax.planning import planner
from privynet_jax.planning.drawing import PlanSettings
from privynet_jax.planning.options import options_of
from privynet_jax.planning.plan import STATISTICS
from privynet_jax.planning.promise import RULE, SHARE, promise_of, read_episodes
from privynet_jax.planning.topology_plan import NothingFitsError, characterised_cells
from privynet_jax.platform.digests import sha256_of_files, sha256_of_json
from privynet_jax.platform.files import write_atomically
from privynet_jax.platform.progress import progress_bar
from privynet_jax.results.statistics import student_mean
from privynet_jax.results.text_tables import aligned, as_csv

cli.key_flags("workdir out weights data_dir cache_dir seed skip_unreadable sixteen_bit_max fit")
cli.key_flags("dicom_window")
cli.key_flags("max_images attacked_images training")
_SOURCES = flags.DEFINE_list("sources", [], "Labelled sets: folder:PATH or TFDS names.")
_PHOTOGRAPHS = flags.DEFINE_string("photographs", None, "Folder of photographs, cut by twos.")
_STATISTIC = flags.DEFINE_enum(
    "planned_statistic", "mean", STATISTICS, "Of privacy loss over images, for limits."
)
_MARGIN_DB = flags.DEFINE_float(
    "planned_margin_db", planner.MARGINS["psnr_db"], "The planner's, in dB.", 0.0
)
# How plans are made besides `promise.RULE`; all draw the same channels for the same topology.
EXPECTED, MARGINLESS = "expected", "marginless"
_RULES = flags.DEFINE_list(
    "rules",
    [RULE],
    f"{RULE}: as plans are made; {EXPECTED}: by what is expected alone, as with plan's "
    f"--attacked_images=0; {MARGINLESS}: measured, and held against the limit itself.",
)
_DIGITS = 1  # of limits
EPISODES = "episodes"
_ACCURACY = "balanced_accuracy"
_COLUMNS = (
    *("source", "statistic", "limit_psnr_db", "num_layers", "depth", "draws", "expected_psnr_db"),
    *("measured_psnr_db", "audited_psnr_db", "measured_ssim", "audited_ssim"),
    *(f"expected_{_ACCURACY}", _ACCURACY),
)


def main() -> None:
    cli.use_cpu_cores()
    workdir, out = cli.needed_folder(cli.WORKDIR), cli.needed_folder(cli.OUT)
    rules = _rules()
    low, high, settings = _limits(workdir)
    sources = _sources(out)
    own = deciding(
        "photographs", "planned_statistic", "planned_margin_db", "attacked_images", "training"
    )
    kept = kept_rows(out, {**own, "grid": settings}, EPISODES, *sources.values())
    bar, rows = progress_bar(len(rules) * len(sources), "planning and auditing", "episodes"), []
    known = {name: _known_by(dataset) for name, dataset in sources.items()}
    with everything_first() as postponed, bar as advance:
        for rule, (name, dataset) in itertools.product(rules, sources.items()):
            limit = round(stream_of(cli.SEED.value, name).uniform(low, high), _DIGITS)
            episode = functools.partial(_episode, rule, workdir, name, limit)
            title, measure = f"{known[name]} {rule}", functools.partial(one_by_one, episode)
            with postponed():
                [row] = filled(kept, {title: dataset}, measure)
                rows.append({"rule": rule, **row, "image_size": settings["image_size"]})
            advance(1)
    table = out / f"{EPISODES}.csv"
    write_atomically(table, as_csv(rows))
    print(
        aligned(
            [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
        )
    )
    print(verdict(table, _STATISTIC.value, settings["image_size"]))
    print(f"{table.name} is in {out}.")


def _rules() -> list[str]:
    known = (RULE, EXPECTED, MARGINLESS)
    rules = list(dict.fromkeys(_RULES.value))
    if not rules or not set(rules) <= set(known):
        raise UserError(
            f"--rules={','.join(_RULES.value)}; allowed are one or more of {', '.join(known)}"
        )
    return sorted(rules, key=known.index)


def _limits(workdir: Path) -> tuple[float, float, Mapping[str, Any]]:
    """The least and the largest limit that is worth asking for, and what was characterised."""
    grid = characterised_cells(workdir)
    if grid.mechanism != Plain():
        raise UserError(
            f"{workdir} was characterised with the mechanism {grid.mechanism}, and episodes are of "
            "class public, which guesses no channels through one; give one without"
        )
    _, settings, cells = grid
    options = planner.unmeasured(options_of(cells, settings["image_size"], _STATISTIC.value))
    margins = {**planner.MARGINS, "psnr_db": _MARGIN_DB.value}
    needs = [planner.least_limit(option, "psnr_db", margins) for option in options]
    return min(needs), max(needs), settings


def _sources(out: Path) -> dict[str, str]:
    """Name -> data set."""
    found = {Path(name.removeprefix(FOLDER_PREFIX)).name: name for name in _SOURCES.value}
    if len(found) < len(_SOURCES.value):
        raise UserError(f"--sources={','.join(_SOURCES.value)}: give each a name of its own")
    if _PHOTOGRAPHS.value:
        photographs = cli.needed_folder(_PHOTOGRAPHS)
        for folder in photograph_sources(photographs, out / "sources"):
            found[folder.name] = f"{FOLDER_PREFIX}{folder}"
    if not found:
        raise UserError("no --sources and no --photographs are given; give pictures to plan for")
    return found


def _known_by(dataset: str) -> str:
    # Another folder of the same name is another source, and so are other pictures there.
    path = dataset.removeprefix(FOLDER_PREFIX)
    if path == dataset:
        return dataset
    return f"{Path(path).resolve()} {sha256_of_json(sha256_of_files(Path(path)))}"


def _episode(rule: str, workdir: Path, name: str, limit: float, dataset: str) -> dict[str, Any]:
    """One source's row; where nothing fits, no plan and no numbers."""
    row = {**dict.fromkeys(_COLUMNS, ""), "source": name, "statistic": _STATISTIC.value}
    row["limit_psnr_db"] = limit
    try:
        plan = _planned(rule, workdir, dataset, limit, name)
    except NothingFitsError:
        return row
    expected, measured = plan.expected, plan.measured
    audited, accuracy = _audited(plan, dataset)
    if measured is not None:
        row["draws"] = measured.draws
        row |= {f"measured_{metric}": getattr(measured, metric) for metric in planner.MARGINS}
    return row | {
        "num_layers": plan.topology.num_layers,
        "depth": plan.topology.depth,
        "expected_psnr_db": expected.psnr_db.value,
        **{f"audited_{metric}": value for metric, value in audited.items()},
        f"expected_{_ACCURACY}": expected.balanced_accuracy.value,
        _ACCURACY: accuracy,
    }


def _planned(rule: str, workdir: Path, dataset: str, limit: float, name: str) -> Plan:
    settings = PlanSettings(
        margin_db=0.0 if rule == MARGINLESS else _MARGIN_DB.value,
        attacked_images=0 if rule == EXPECTED else cli.ATTACKED_IMAGES.value,
        # This is a measurement, and protects nobody's pictures.
        draw_seed=hashlib.sha256(f"{cli.SEED.value} {name}".encode()).hexdigest(),
        cache_dir=cli.folder("cache_dir", cli.CACHE_DIR.value),
        data_dir=cli.data_folder(),
        **cli.decoding(),
        training=cli.TRAINING.value,
    )
    limits = Limits(psnr_db=limit, statistic=_STATISTIC.value)
    weights = cli.WEIGHTS.value or "embedded"
    return plan_topology(workdir, dataset, limits, weights, settings).plan


def _audited(plan: Plan, dataset: str) -> tuple[dict[str, float], float]:
    """Metric -> what class public finds, by the plan's statistic; and balanced accuracy."""
    settings = AuditSettings(
        cache_dir=cli.folder("cache_dir", cli.CACHE_DIR.value),
        seed=cli.next_seed(plan.settings["seed"]),
        attackers=(PUBLIC,),
        training=cli.TRAINING.value,
        attacked_images=cli.ATTACKED_IMAGES.value,
    )
    parts = cli.load_data(dataset, image_size=plan.image_size, seed=settings.seed)
    with session(progress=lambda share: None):
        audit = audit_plan(plan, parts, cli.weights_of(plan), settings)
    found = {finding.what: finding.found for finding in audit.findings}
    return {metric: found[metric] for metric in planner.MARGINS}, found[_ACCURACY]


def verdict(table: Path, statistic: str, image_size: int) -> str:
    """Returns in words what margins the episodes of a table call for, and what that proves."""
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    rules = {row["rule"]: None for row in rows}
    lines = [_kept([row for row in rows if row["rule"] == rule], rows) for rule in rules]
    try:
        margins, promise = promise_of(read_episodes(table), Limits(statistic=statistic), image_size)
    except UserError as error:
        return "\n".join([*lines, f"No margin follows yet: {error}."])
    lines.append(
        f"They call for margins of {margins['psnr_db']:.2f} dB and {margins['ssim']:.3f} SSIM, to "
        f"keep {100 * SHARE:.0f} % of plans. {promise.kept} of {promise.episodes} sources needed "
        f"no more, which proves at least {100 * promise.proven:.0f} % with 95 % confidence, "
        "against class public, for further sources drawn as these were, independently."
    )
    return "\n".join(lines)


def _kept(mine: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, str]]) -> str:
    """One rule's episodes in words, its accuracy beside the usual rule's on the same sources."""
    planned = {row["source"]: row for row in mine if row["audited_psnr_db"]}
    kept = sum(float(r["audited_psnr_db"]) <= float(r["limit_psnr_db"]) for r in planned.values())
    rule = mine[0]["rule"]
    text = f"{rule}: {len(planned)} of {len(mine)} episodes had a plan; {kept} kept their limit."
    gains = [
        float(planned[row["source"]][_ACCURACY]) - float(row[_ACCURACY])
        for row in rows
        if row["rule"] == RULE != rule and row[_ACCURACY] and row["source"] in planned
    ]
    if not gains:
        return text
    gain = student_mean(gains)
    return (
        f"{text} Balanced accuracy beside {RULE}, on the {len(gains)} sources that both have plans "
        f"for: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]."
    )


if __name__ == "__main__":
    cli.run(main, continues=True)
