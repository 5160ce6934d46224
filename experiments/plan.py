"""Plans the local NN: the most accurate characterised topology under limits, and its channels.

    python -m experiments.plan --workdir=runs/public --sample=folder:pictures --out=plan.json \
        --max_psnr_db=20 --max_local_mmacs=160

--workdir is a finished characterisation of public data. --sample is a small labelled set of the
user's own pictures, one subfolder per class; it scores channels and stays here. The plan holds
secrets, which channels are released among them: keep it like a key. Takes a few seconds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli
from privynet_jax.backbone.features.extraction import normalisation
from privynet_jax.backbone.topology import DIRECT, METHODS, RANDOM
from privynet_jax.backbone.weights.sources import PretrainedWeights, check_source
from privynet_jax.characterisation.config import DEDICATED, Config
from privynet_jax.characterisation.reopening import matching_weights
from privynet_jax.errors import UserError
from privynet_jax.images.sample import Sample, load_sample
from privynet_jax.planning import planner
from privynet_jax.planning.explanation import explained, refusal
from privynet_jax.planning.latency import Meter
from privynet_jax.planning.options import Option, options_of
from privynet_jax.planning.plan import STATISTICS, Limits, Plan
from privynet_jax.planning.plan_file import write_plan
from privynet_jax.planning.planner import Decision
from privynet_jax.platform.files import checked_file
from privynet_jax.results.summaries import convergence_note
from privynet_jax.results.work_directory import ResultStore
from privynet_jax.selection.pruning import channel_scores, pruned_candidates
from privynet_jax.selection.secret_draw import Selection, select

for _shared in ("workdir", "out", "weights", "data_dir", "cache_dir", "skip_unreadable"):
    flags.declare_key_flag(_shared)
_SAMPLE = flags.DEFINE_string("sample", None, "Your labelled pictures: folder:PATH or TFDS name.")
_SAMPLE_IMAGES = flags.DEFINE_integer(
    "sample_images",
    None,
    "Pictures of it to look at; default: 500, but at most a third of each class.",
)
_OVERWRITE = flags.DEFINE_boolean("overwrite", False, "Replace a plan, and its channels, at --out.")
_LIMITS = {
    "psnr_db": flags.DEFINE_float("max_psnr_db", None, "Most privacy loss as PSNR, in dB."),
    "ssim": flags.DEFINE_float("max_ssim", None, "Most privacy loss as SSIM.", -1.0, 1.0),
    "local_mmacs": flags.DEFINE_float(
        "max_local_mmacs", None, "Most local multiply-accumulates per image, in millions."
    ),
    "storage_mib": flags.DEFINE_float("max_storage_mib", None, "Most local parameters, in MiB."),
    "release_kib": flags.DEFINE_float(
        "max_release_kib", None, "Largest representation of one image as float32, in KiB."
    ),
    "latency_ms": flags.DEFINE_float(
        "max_latency_ms", None, "Most milliseconds for one image, on one core of this machine."
    ),
}
_STATISTIC = flags.DEFINE_enum(
    "statistic", "mean", STATISTICS, "Of privacy loss over images, for its limits."
)
_MARGIN_DB = flags.DEFINE_float(
    "margin_db", planner.MARGIN_DB, "Kept under --max_psnr_db for stronger attackers, in dB."
)
_MARGIN_SSIM = flags.DEFINE_float(
    "margin_ssim", planner.MARGIN_SSIM, "Kept under --max_ssim for stronger attackers."
)
_SELECTION = flags.DEFINE_enum(
    "selection",
    None,
    METHODS,
    "direct releases the best channels that the characterisation's search found, the others draw "
    "in secret from what is left; default: direct where it was searched for, else both.",
)
_MEASURE_LATENCY = flags.DEFINE_boolean(
    "measure_latency", False, "Measure the chosen topology's latency even without a limit on it."
)


def main() -> None:
    out = _checked_out()
    if not _SAMPLE.value:
        raise UserError("no --sample is given; give folder:PATH with one subfolder per class")
    source = cli.WEIGHTS.value or Config.weights
    limits = Limits(
        **{name: flag.value for name, flag in _LIMITS.items()}, statistic=_STATISTIC.value
    )
    store, config = _characterisation()
    check_source(source, config["backbone"])
    method = _method(config)
    options = _options(store, config, limits.statistic, method)
    decision, latency_on = decide(options, limits, config["image_size"])
    if decision.chosen is None:
        print(explained(decision, config, latency_on))
        raise UserError(refusal(decision))
    cache_dir = cli.folder("cache_dir", cli.CACHE_DIR.value)
    weights = matching_weights(source, config, store.workdir, cache_dir)
    sample = load_sample(
        _SAMPLE.value,
        data_dir=cli.data_folder(),
        image_size=config["image_size"],
        count=_SAMPLE_IMAGES.value,
        skip_unreadable=cli.SKIP_UNREADABLE.value,
    )
    plan = planned(decision, config, weights, sample, latency_on, method, store)
    write_plan(out, plan)
    print(explained(decision, config, latency_on))
    expected_of = decision.chosen.num_layers, decision.chosen.depth, decision.chosen.selection
    cells = [
        result
        for result in store.grid_results(config)
        if (result.num_layers, result.depth, result.selection) == expected_of
    ]
    print(f"Of the cells that expectations are of: {convergence_note(cells)}")
    print(
        f"\nThe plan is in {out}: {_chosen(plan.selection, plan.topology.depth)}. It was made with "
        f"{len(sample)} of {sample.available} pictures, which an audit will leave out. Keep the "
        "file as secret as the pictures."
    )


def _chosen(selection: Selection, depth: int) -> str:
    """Says how channels came to be chosen, and how much of a secret they are."""
    bits = f"selection {selection.method}, {selection.entropy_bits:.0f} bits"
    if selection.method == DIRECT:
        return (
            f"the best {depth} channels that the search found ({bits}: whoever repeats the search "
            "finds them), in a secret order"
        )
    candidates = len(selection.candidates)
    return f"{depth} secret channels, drawn at random from {candidates} candidates ({bits})"


def decide(options: list[Option], limits: Limits, image_size: int) -> tuple[Decision, str]:
    """Returns what is chosen, and where latency was measured; empty where it was not."""
    margins = (_MARGIN_DB.value, _MARGIN_SSIM.value)
    decision = planner.choose(options, limits, *margins)
    if decision.chosen is None or not (_MEASURE_LATENCY.value or limits.latency_ms is not None):
        return decision, ""
    where = ""
    with Meter() as meter:

        def measure(option: Option) -> float:
            nonlocal where
            measured = meter.measure(option.topology(range(option.depth)), image_size)
            where = measured.where
            return measured.milliseconds

        if limits.latency_ms is None:
            chosen = decision.chosen
            options = planner.with_latency(options, chosen, measure(chosen))
        return planner.choose_measured(options, limits, measure, *margins), where


def planned(
    decision: Decision,
    config: Mapping[str, Any],
    weights: PretrainedWeights,
    sample: Sample,
    latency_on: str,
    method: str,
    store: ResultStore,
) -> Plan:
    """Returns the plan of what was chosen, with a secret seed of its own."""
    option = decision.chosen
    if option is None:
        raise ValueError("Expected a decision that chose an option")
    drawn, scales, peaks = _selected(weights, sample, option, method, store)
    return Plan(
        topology=option.topology(drawn.channels(option.depth)),
        selection=drawn,
        limits=decision.limits,
        expected=option.expected,
        image_size=config["image_size"],
        class_names=sample.class_names,
        scales=scales,
        peaks=peaks,
        weights=weights.source,
        weights_fingerprint=weights.fingerprint,
        latency_ms=option.cost.get("latency_ms"),
        latency_on=latency_on or "not measured",
        characterised=_characterised(decision, option, config),
        sample=sample.digests,
    )


def _method(config: Mapping[str, Any]) -> str:
    """Returns the selection that was asked for, or the best there is."""
    searched = config["mode"] == DEDICATED and DIRECT in config["selections"]
    method = _SELECTION.value or (DIRECT if searched else "both")
    if method == DIRECT and DIRECT not in config["selections"]:
        raise UserError(
            "--selection=direct needs a characterisation that searched for channels, and this one "
            f"has the selections {', '.join(config['selections'])}; characterise with "
            "--selections=random,direct, or give another --selection"
        )
    return method


def _options(
    store: ResultStore, config: Mapping[str, Any], statistic: str, method: str
) -> list[Option]:
    """The options of the selection; of all channels where the grid has no cells of it."""
    results = store.grid_results(config)
    present = {result.selection for result in results}
    measured = method if method in present else RANDOM
    if measured not in present:
        raise UserError(
            f"the characterisation has neither {method} nor {RANDOM} selections, but "
            f"{', '.join(sorted(present))}; give one of those as --selection"
        )
    chosen = [result for result in results if result.selection == measured]
    return options_of(chosen, config["image_size"], statistic)


def _selected(
    weights: PretrainedWeights, sample: Sample, option: Option, method: str, store: ResultStore
) -> tuple[Selection, tuple[float, ...], tuple[float, ...]]:
    """How channels were chosen, and what their values are scaled by and reach up to."""
    layer = option.num_layers
    if method == DIRECT:
        candidates = store.load_candidates(method, layer, option.depth, option.backbone)
    else:
        scores = channel_scores(weights, sample.images, sample.labels, [layer])[layer]
        candidates = pruned_candidates(method, scores, option.depth)
    chosen = select(candidates, method, option.depth)
    topology = option.topology(chosen.channels(option.depth))
    scales, peaks = normalisation(weights, sample.images, topology)
    return chosen, tuple(map(float, scales)), tuple(map(float, peaks))


def _characterised(decision: Decision, option: Option, config: Mapping[str, Any]) -> dict[str, Any]:
    """Where the expectations come from, as the plan keeps it."""
    return {
        "settings": dict(config),
        "selection": option.selection,
        "draws": option.draws,
        "margin_db": decision.margins["psnr_db"],
        "margin_ssim": decision.margins["ssim"],
        "tested": dict(option.tested),
    }


def _characterisation() -> tuple[ResultStore, dict[str, Any]]:
    if not cli.WORKDIR.value:
        raise UserError("no --workdir is given; name that of a finished experiments.characterize")
    return ResultStore.existing(cli.folder("workdir", cli.WORKDIR.value))


def _checked_out() -> Path:
    if not cli.OUT.value:
        raise UserError("no --out is given; name a file for the plan, such as plan.json")
    out = checked_file("out", cli.OUT.value)
    if out.exists() and not _OVERWRITE.value:
        raise UserError(
            f"--out={out} exists, and local packages may have been made of it: their channels "
            "would no longer be those of the plan; give another file, or --overwrite"
        )
    return out


if __name__ == "__main__":
    cli.run(main)
